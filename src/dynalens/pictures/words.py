"""Sentences with their doubtful token marked."""

from collections.abc import Callable, Sequence

from dynalens.pictures.drawing import class_name
from dynalens.text import number_in_words

Decode = Callable[[int], str]
"""Returns the word of a token's id. An empty word is not shown."""

_MOST = 60
"""Most words of a sentence that are shown."""


def words_with_brackets(words: Sequence[str], token: int | None) -> list[str]:
    """Return words with one of them in brackets. If others, such as ``[CLS]``, have brackets, it gets two.

    Example:
        >>> words_with_brackets(["Paris", "is", "big"], 0), words_with_brackets(["[CLS]", "Paris"], 1)
        (['[Paris]', 'is', 'big'], ['[CLS]', '[[Paris]]'])
    """
    opening, closing = ("[[", "]]") if any(word.startswith("[") for word in words) else ("[", "]")
    return [f"{opening}{word}{closing}" if place == token else word for place, word in enumerate(words)]


def excerpt(words: Sequence[str], token: int | None, separator: str = " ") -> str:
    """Return the first words, or the words around a token, which is put in brackets.

    Dots stand for words that are left out.

    Example:
        >>> excerpt(["Paris", "is", "big"], 2), excerpt(["4", "7"], None, ", ")
        ('Paris is [big]', '4, 7')
    """
    begin = 0 if token is None else max(0, min(token - _MOST // 2, len(words) - _MOST))
    part = words_with_brackets(words, token)[begin : begin + _MOST]
    return separator.join(["..."] * (begin > 0) + part + ["..."] * (len(words) > begin + _MOST))


def numbers_text(values: Sequence[float], place: int | None = None, names: Sequence[str] | None = None) -> str:
    """Return the first numbers of a row as text, each with its column. The number at ``place`` is put in brackets.

    Args:
        values: Shown with four digits, and all digits before the point.
        place: Position of the number in brackets.
        names: Names of the columns. Without them, their positions from 0 are shown.

    Example:
        >>> numbers_text([0.5, 2.0], names=["age", "height"]), numbers_text([1 / 3, 4], 1)
        ('age: 0.5, height: 2', '0: 0.3333, [1: 4]')
    """
    columns = range(len(values)) if names is None else names
    return excerpt(
        [f"{column}: {number_in_words(value, 4)}" for column, value in zip(columns, values, strict=False)], place, ", "
    )


def without_end(tokens: Sequence[int]) -> list[int]:
    """Return tokens without the negative ones at their end, which stand for padding.

    Example:
        >>> without_end([-1, 5, 7, -1, -1])
        [-1, 5, 7]
    """
    length = next((place for place in range(len(tokens), 0, -1) if tokens[place - 1] >= 0), 0)
    return list(tokens[:length])


def next_word_shift(
    sentences: Sequence[Sequence[int]], places: Sequence[int | None], classes: Sequence[int]
) -> int | None:
    """Return by how many positions the given classes come later in their own sentences than their places.

    It is None if they do not.

    The classes of a language model are tokens. The shift is 0 if the batch has one row of them, and 1 if the targets
    are a row of their own.

    Args:
        sentences: Ids of the tokens of each sample.
        places: Position of the doubtful token of each sample in the targets; None if there is none.
        classes: The class that was given at each place.

    Example:
        >>> next_word_shift([[5, 9, 4]], [1], [9]), next_word_shift([[5, 9, 4]], [1], [4])
        (0, 1)
        >>> next_word_shift([[5, 9, 4]], [1], [2]) is None
        True
    """
    for shift in (0, 1):
        rows = zip(sentences, places, classes, strict=True)
        matches = [row[place + shift] == k for row, place, k in rows if place is not None and place + shift < len(row)]
        if matches and all(matches):
            return shift
    return None


class Sentences:
    """Samples that are tokens, each with or without a doubtful token.

    Args:
        sentences: Ids of the tokens of each sample; negative ones, which stand for padding, are not shown.
        places: Position of the doubtful token of each sample in the targets; None if there is none.
        classes: The class that was given at each place.
        decode: Returns the word of an id; None: ids are shown.

    Attributes:
        shift: See :func:`next_word_shift`; None if classes are not tokens.

    Example:
        >>> words = ["", "the", "cat", "sat"].__getitem__
        >>> tagged = Sentences([[1, 2, 3, 0]], [1], [0], words)
        >>> tagged.text(0), tagged.name(2, ["noun", "verb", "other"])
        ('the [cat] sat', 'other')
        >>> spoken = Sentences([[1, 2, 3]], [1], [3], words)  # of a language model, whose targets are [2, 3, ...]
        >>> spoken.text(0), spoken.name(2, None)
        ('the cat [sat]', 'cat')
    """

    def __init__(
        self,
        sentences: Sequence[Sequence[int]],
        places: Sequence[int | None],
        classes: Sequence[int],
        decode: Decode | None = None,
    ) -> None:
        self._sentences, self._classes, self._word_of = sentences, classes, decode or str
        self.shift = next_word_shift(sentences, places, classes)
        self._doubtful_places = [place if place is None else place + (self.shift or 0) for place in places]

    def _decode(self, token: int) -> str:
        return self._word_of(token) if token >= 0 else ""

    def words(self) -> list[tuple[str, ...]]:
        """Return the words of each sample, one per token, with the doubtful one in brackets."""
        pairs = zip(self._sentences, self._doubtful_places, strict=True)
        return [
            tuple(words_with_brackets([self._decode(token) for token in sentence], place)) for sentence, place in pairs
        ]

    def text(self, sample: int) -> str:
        """Return a sample as text, without its empty words. A word after the last token is added."""
        words, place_of_mark = [self._decode(token) for token in self._sentences[sample]], self._doubtful_places[sample]
        if self.shift is not None and place_of_mark == len(words):
            words.append(self._decode(self._classes[sample]))
        places = [place for place, word in enumerate(words) if word.strip() or place == place_of_mark]
        return excerpt(
            [words[place] for place in places], places.index(place_of_mark) if place_of_mark in places else None
        )

    def name(self, label: int, names: Sequence[str] | None) -> str:
        """Return the name of a class. For a language model without other names, it is the word."""
        is_word = names is None and self.shift is not None and label >= 0
        return self._decode(label) if is_word else class_name(label, names)
