"""Reporting: decisions and results in words, as JSON, on a terminal and as a page.

Takes the values of the stages before and gives text. `Outcome` holds all that a job on a file did.
Nothing is decided here.
"""

from slanc_onnx.report.as_json import write_report
from slanc_onnx.report.audit import audit_lines, print_audit
from slanc_onnx.report.fold import explain_groups
from slanc_onnx.report.outcome import Outcome
from slanc_onnx.report.shown import printable
from slanc_onnx.report.terminal import print_summary, print_table

__all__ = [
    "Outcome",
    "audit_lines",
    "explain_groups",
    "print_audit",
    "print_summary",
    "print_table",
    "printable",
    "write_report",
]
