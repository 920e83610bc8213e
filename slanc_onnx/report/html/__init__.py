"""The report to look at: one page that needs no network.

Takes an `Outcome` and gives what the page shows, its pictures and the file. matplotlib draws the
pictures, and is loaded for nothing else. The page is a template with its own style and script.
"""

from slanc_onnx.report.html.page import START, write_html
from slanc_onnx.report.html.plots import check_matplotlib

__all__ = [
    "START",
    "check_matplotlib",
    "write_html",
]
