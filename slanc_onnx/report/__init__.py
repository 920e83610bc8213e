"""Reporting: decisions and results in words, as JSON, on a terminal and as a page.

Takes the values of the stages before and gives text. `Outcome` holds all that a job on a file did.
Nothing is decided here.
"""

from slanc_onnx.report.as_json import REPORT_START, report_text, write_report
from slanc_onnx.report.audit import audit_lines, print_audit
from slanc_onnx.report.fold import explain_groups
from slanc_onnx.report.fp32_nodes import BY_SUFFIX, FORMATS, LIST_STARTS
from slanc_onnx.report.notes import epsilon_notes, make_notes
from slanc_onnx.report.outcome import Outcome, write_fp32_nodes
from slanc_onnx.report.shown import printable
from slanc_onnx.report.sidecar import SIDECAR_START, write_sidecar
from slanc_onnx.report.table import print_lines, print_table
from slanc_onnx.report.target_list import targets_table
from slanc_onnx.report.terminal import final_parts, no_norm_line, print_summary
from slanc_onnx.report.terms import rule_text
from slanc_onnx.report.watching import watched
from slanc_onnx.report.wording import reasons_text

__all__ = [
    "BY_SUFFIX",
    "FORMATS",
    "LIST_STARTS",
    "REPORT_START",
    "SIDECAR_START",
    "Outcome",
    "audit_lines",
    "epsilon_notes",
    "explain_groups",
    "final_parts",
    "make_notes",
    "no_norm_line",
    "print_audit",
    "print_lines",
    "print_summary",
    "print_table",
    "printable",
    "reasons_text",
    "report_text",
    "rule_text",
    "targets_table",
    "watched",
    "write_fp32_nodes",
    "write_report",
    "write_sidecar",
]
