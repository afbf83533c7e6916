"""Numbers that a user can change, and that the command line names before anything else is imported."""

PRECISION = 0.8
"""Expected fraction of wrong labels among the flagged samples, unless the user asks for another."""
FEWEST_CARDS, MOST_CARDS = 100, 5000
"""Suspects on the page of a report, unless the user asks for another number. It shows those that are flagged, but at
least the first number, because the next ones in the order are worth a look, and at most the second."""
