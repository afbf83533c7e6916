"""The self-contained pages to decide on and to answer on, and exports for those who label elsewhere."""

from dynalens.report.audit_page import write_audit
from dynalens.report.command import add_audit_command, add_report_command
from dynalens.report.exports import to_fiftyone, to_json, to_label_studio
from dynalens.report.page import write_report

__all__ = [
    "add_audit_command",
    "add_report_command",
    "to_fiftyone",
    "to_json",
    "to_label_studio",
    "write_audit",
    "write_report",
]
