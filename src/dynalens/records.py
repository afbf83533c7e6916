"""The former place of :mod:`dynalens.record`."""

from dynalens.record import Record, RecordFolder, RecordMeta, load_record, read_history, replaced, write_arrays

__all__ = ["Record", "RecordFolder", "RecordMeta", "load_record", "read_history", "replaced", "write_arrays"]
