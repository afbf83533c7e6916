"""Pictures that the folder of a record keeps for the page."""

from pathlib import Path

from dynalens.record.folder import SHEETS

_LARGEST = 8 * 2**20  # bytes of a picture that is shown: the page stays below some ten megabytes


def kept_sheets(folder: Path | None) -> dict[str, bytes]:
    """Return the PNG files by their names, in order; none of a record without a folder.

    Example:
        >>> kept_sheets(None)
        {}
    """
    if folder is None:
        return {}
    files = sorted((folder / SHEETS).glob("*.png"))
    return {path.stem: path.read_bytes() for path in files if path.stat().st_size <= _LARGEST}
