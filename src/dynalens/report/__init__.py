"""The self-contained page to decide on, and exports for those who label elsewhere."""

from dynalens.report.command import add_report_command
from dynalens.report.exports import to_fiftyone, to_json, to_label_studio
from dynalens.report.page import write_report

__all__ = ["add_report_command", "to_fiftyone", "to_json", "to_label_studio", "write_report"]
