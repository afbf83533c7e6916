"""Texts that are safe to show, such as names of files and classes with any letters, and percentages."""

import math
import re
from collections.abc import Sequence

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""Beginning of a text that a spreadsheet takes for a formula (OWASP, "CSV Injection"), after any apostrophes."""
_LONGEST = 1e12
"""Numbers from here on are written with an exponent."""
_HARMLESS = "\u00a0\u200c\u200d\u202f\u3000"
"""Spaces and joiners that names of many scripts need."""


def escaped(text: str) -> str:
    r"""Return the text with an escape for each byte that is no UTF-8, which Python keeps as a surrogate.

    Example:
        >>> print(escaped("caf\udce9.png"), escaped("café.png"))
        caf\udce9.png café.png
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def percent(fraction: float, digits: int = 1) -> str:
    """Return a fraction in percent, the one way in which all texts of the package write it.

    The fraction is rounded to ten digits before, so that one that lies halfway between two percentages is written alike
    if it was added up in another order, as in a page.

    Example:
        >>> percent(0.288), percent(0.8, 0), percent(0.1975 - 1e-16)
        ('28.8 %', '80 %', '19.8 %')
    """
    return f"{100 * round(fraction, 10):.{digits}f} %"


def estimate_in_percent(probability: float) -> str:
    """Return an estimated probability in percent, never rounded to certainty; empty for NaN.

    Example:
        >>> [estimate_in_percent(value) for value in (0.875, 0.996, 0.004, float("nan"))]
        ['88 %', '>99 %', '<1 %', '']
    """
    if math.isnan(probability):
        return ""
    return ">99 %" if probability > 0.99 else "<1 %" if probability < 0.01 else percent(probability, 0)


def number_in_words(value: float, digits: int = 6) -> str:
    """Return a number with so many digits, as people write it: no exponent in a price or a distance.

    Example:
        >>> number_in_words(0.25), number_in_words(1 / 3, 4), number_in_words(531116.75, 4), number_in_words(2.5e-6)
        ('0.25', '0.3333', '531117', '2.5e-06')
    """
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text and abs(value) < _LONGEST else text


def are(number: int) -> str:
    """Return "is" of one, else "are".

    Example:
        >>> [f"{number} {are(number)} flagged" for number in (0, 1, 2)]
        ['0 are flagged', '1 is flagged', '2 are flagged']
    """
    return "is" if number == 1 else "are"


def escaped_all(texts: Sequence[str] | None) -> list[str] | None:
    """Return each text :func:`escaped`; None for None."""
    if texts is None or "\n".join(texts).isascii():
        return None if texts is None else list(texts)
    return [escaped(text) for text in texts]


def printable(text: str) -> str:
    r"""Return the text with an escape for each character that a terminal would obey instead of showing it.

    Example:
        >>> print(printable("a\x1b[31mb\n.png"))
        a\x1b[31mb\n.png
    """
    return "".join(
        letter if letter.isprintable() or letter in _HARMLESS else letter.encode("unicode_escape").decode()
        for letter in escaped(text)
    )


def inert(text: str) -> str:
    """Return the text, :func:`printable`, as a cell that no spreadsheet takes for a formula: with an apostrophe.

    Example:
        >>> inert("=1+1"), inert("cat.png")
        ("'=1+1", 'cat.png')
    """
    printable_text = printable(text)
    return f"'{printable_text}" if _FORMULA.match(printable_text) else printable_text


def plain(cell: str) -> str:
    """Return the text that :func:`inert` made a cell of.

    Example:
        >>> plain("'=1+1"), plain("'tis.png")
        ('=1+1', "'tis.png")
    """
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell


def error_in_words(error: BaseException) -> str:
    r"""Return an error's type and words for a warning; of other libraries' errors the first line alone.

    Their words may hold a whole network or a traceback.

    Example:
        >>> error_in_words(RuntimeError("no gradient of Sequential(\n  (0): Linear()\n)"))
        'RuntimeError: no gradient of Sequential( ...'
        >>> error_in_words(ValueError("Expected one,\ngot two."))
        'ValueError: Expected one,\ngot two.'
    """
    text = str(error).strip()
    line, _, rest = text.partition("\n")
    is_own = text.startswith("Expected")
    return f"{type(error).__name__}: {text if is_own or not rest else f'{line} ...'}"


def label_positions(bits: Sequence[float]) -> str:
    """Return the numbers of the labels that a sample has, of those that were not given with a question mark.

    Args:
        bits: Of each label: 1 where the sample has it, 0 where not, below 0 or NaN where nobody said.

    Example:
        >>> label_positions([1, 0, 1, -1]), label_positions([0, 0])
        ('0 2 ?3', 'none')
    """
    words = [str(k) if label >= 0.5 else f"?{k}" for k, label in enumerate(bits) if not 0 <= label < 0.5]
    return " ".join(words) or "none"


def labels_in(text: str) -> list[int] | None:
    """Return the numbers of the labels that :func:`label_positions` says a sample has; None for another text.

    Example:
        >>> labels_in("0 2 ?3"), labels_in("none"), labels_in("cat")
        ([0, 2], [], None)
    """
    words = [] if text.strip() == "none" else text.split()
    if not text.strip() or not all(word.removeprefix("?").isdecimal() and word.isascii() for word in words):
        return None
    return [int(word) for word in words if not word.startswith("?")]


def whole(text: str) -> str:
    """Return a whole number as it is written without a fraction; pandas and spreadsheets write 2 as 2.0 or 2,0.

    Example:
        >>> whole("2.0"), whole("2,0"), whole("2.5"), whole("cat")
        ('2', '2', '2.5', 'cat')
    """
    match = re.fullmatch(r"(\d+)(?:\.0+|,0)", text, re.ASCII)
    return match[1] if match else text


def is_same_label(text: str, other_text: str) -> bool:
    """Return whether two texts say the same label or number, as spreadsheets write numbers in their own ways.

    Example:
        >>> is_same_label("1", "1.0"), is_same_label("1.23457e+06", "1234570"), is_same_label("0 2", "2")
        (True, True, False)
    """
    try:
        return text == other_text or float(text) == float(other_text)
    except ValueError:
        return False
