"""Self-contained pages on which a person decides or answers, and exports for other labelling tools."""

from typing import TYPE_CHECKING

from dynalens.deferred import deferred
from dynalens.report.exports import to_fiftyone, to_json, to_label_studio

if TYPE_CHECKING:
    from dynalens.report.audit_page import write_audit
    from dynalens.report.page import write_report
    from dynalens.report.sheets import influence_sheet, show_in_report
else:
    __getattr__, __dir__ = deferred(
        __name__, audit_page="write_audit", page="write_report", sheets="influence_sheet show_in_report"
    )

__all__ = [
    "influence_sheet",
    "show_in_report",
    "to_fiftyone",
    "to_json",
    "to_label_studio",
    "write_audit",
    "write_report",
]
