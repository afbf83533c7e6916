"""The former place of :mod:`dynalens.record`."""

from dynalens.record import Record, RecordFolder, RecordMeta, load_record, read_history, write_arrays
from dynalens.record import replacement_file as replaced

__all__ = ["Record", "RecordFolder", "RecordMeta", "load_record", "read_history", "replaced", "write_arrays"]
