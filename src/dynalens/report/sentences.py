"""Texts of suspects, from what a run left in its folder."""

from typing import NamedTuple

from dynalens.pictures import Sentences
from dynalens.record import Record, read_sentences
from dynalens.suspicion import has_classes, token_of
from dynalens.text import escaped


class KeptTexts(NamedTuple):
    """Texts that a run kept of its samples that are tokens or rows of numbers.

    Attributes:
        texts: Texts by the row of the sample. If each token has a class, the doubtful one is in brackets.
        has_words: Whether the texts are words, and not ids of tokens.
        words: Words of a language model's classes, by their numbers; empty for other models.
    """

    texts: dict[int, str]
    has_words: bool
    words: dict[int, str]


def kept_texts(record: Record) -> KeptTexts:
    """Return the texts of the samples that a run followed; empty if they are not tokens or rows of numbers."""
    archive, statistics = read_sentences(record.folder, record.meta.num_samples), record.statistics
    rows = [row for row in archive.tokens if statistics.presentations[row] > 0]
    places = [token_of(statistics, row) for row in rows]
    labels = statistics.label[rows].tolist() if has_classes(statistics) else [-1] * len(rows)
    sentences = Sentences([archive.tokens[row] for row in rows], places, labels, archive.word)
    words: dict[int, str] = {}
    if sentences.shift is not None:
        words = {number: escaped(archive.word(number)) for number in {*labels, *statistics.candidate[rows].tolist()}}
    texts = {row: escaped(sentences.text(place)) for place, row in enumerate(rows)}
    texts |= {row: escaped(text) for row, text in archive.texts.items()}
    return KeptTexts(texts, bool(archive.words), words)
