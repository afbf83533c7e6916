"""Numbers that a user can change, and that the command line names before anything else is imported."""

PRECISION = 0.8
"""Expected fraction of wrong labels among the flagged samples, unless the user asks for another."""
MOST_CARDS = 5000
"""Suspects on the page of a report, unless the user asks for another number."""
