"""Sentences of suspects, whose inputs are tokens or rows of numbers, as a run left them in its folder."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from dynalens.record.checks import check_names
from dynalens.record.files import damage_errors, read_json
from dynalens.record.folder import SENTENCES

_FIELDS = ("tokens", "words")
_TEXTS = "texts"


class KeptSentences(NamedTuple):
    """Tokens of some samples, and words of these tokens.

    Attributes:
        tokens: Ids of the tokens of each sample, by its row of the record.
        words: By the id of a token, where ``decode=`` was given.
        texts: Of samples that are rows of numbers, these as a text, by the row of the record.
    """

    tokens: dict[int, list[int]]
    words: dict[int, str]
    texts: Mapping[int, str] = MappingProxyType({})

    def word(self, token: int) -> str:
        """Return the word of a token; its id where none is known, and nothing of padding, which is negative.

        Example:
            >>> kept = KeptSentences({0: [7, 8]}, {7: "Paris"})
            >>> kept.word(7), kept.word(8), kept.word(-1)
            ('Paris', '8', '')
        """
        return self.words.get(token, str(token) if token >= 0 else "")


def read_sentences(folder: Path | None, num_samples: int) -> KeptSentences:
    """Return the sentences that a run kept of its suspects, none where it kept none.

    Raises:
        ValueError: If the file holds something else.
    """
    file = None if folder is None else folder / SENTENCES
    if file is None or not file.is_file():
        return KeptSentences({}, {})
    content = read_json(file)
    with damage_errors(file):
        check_names(content, _FIELDS, (*_FIELDS, _TEXTS))
        tokens, words, texts = (_by_number(content.get(name, {})) for name in (*_FIELDS, _TEXTS))
        for row, ids in tokens.items():
            if row >= num_samples or not isinstance(ids, list) or not all(type(token) is int for token in ids):
                raise ValueError(f"no ids of tokens of row {row} of {num_samples} samples")
        if not all(isinstance(word, str) for word in (*words.values(), *texts.values())):
            raise ValueError("words that are no texts")
        if any(row >= num_samples for row in texts):
            raise ValueError(f"texts of other rows than those of {num_samples} samples")
    return KeptSentences(tokens, words, texts)


def _by_number(content: Any) -> dict[int, Any]:
    if not isinstance(content, dict) or not all(name.isdecimal() and len(name) < 20 for name in content):
        raise ValueError("names that are no numbers")
    return {int(name): value for name, value in content.items()}
