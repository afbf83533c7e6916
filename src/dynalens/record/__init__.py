"""The record of a run and its folder.

`record` is what a user asks, live or on disk; `live` keeps it while training goes on; `folder` writes a run's folder,
`loading` reads it and `checks` says what it refuses; `history` reads every presentation; `files` writes whole files or
none, and `writes` outlasts a disk that fails;
`plans` keeps the plans of audits, and `audits` is what a user calls for one; `settings` says what is kept, `sentences`
what suspects say, and `audit_samples` what was given to samples of an audit.
"""

from typing import TYPE_CHECKING

from dynalens.deferred import deferred
from dynalens.record.audit_samples import AuditedSample, audit_command, read_audited
from dynalens.record.audits import KeepsRecord, audit, audit_plan
from dynalens.record.files import damage_errors, epoch_file, forget_epochs, read_arrays, replacement_file, write_arrays
from dynalens.record.folder import RecordFolder
from dynalens.record.history import History, read_history
from dynalens.record.loading import load_record, read_similar
from dynalens.record.meta import RecordMeta
from dynalens.record.plans import AuditAnswers
from dynalens.record.record import Record
from dynalens.record.sentences import KeptSentences, read_sentences
from dynalens.record.settings import RecordSettings
from dynalens.record.writes import Writes

if TYPE_CHECKING:
    from dynalens.record.live import LiveRecord
else:
    __getattr__, __dir__ = deferred(__name__, live="LiveRecord")

__all__ = [
    "AuditAnswers",
    "AuditedSample",
    "History",
    "KeepsRecord",
    "KeptSentences",
    "LiveRecord",
    "Record",
    "RecordFolder",
    "RecordMeta",
    "RecordSettings",
    "Writes",
    "audit",
    "audit_command",
    "audit_plan",
    "damage_errors",
    "epoch_file",
    "forget_epochs",
    "load_record",
    "read_arrays",
    "read_audited",
    "read_history",
    "read_sentences",
    "read_similar",
    "replacement_file",
    "write_arrays",
]
