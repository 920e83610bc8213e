"""Arguments: the options of the command line, and the files that they name read into values.

Takes the words of a command and gives a namespace, then the jobs and the `Options` that it names.
What makes no sense together ends the command as argparse does. What a run is to write may only
take the place of what an earlier run wrote.
"""

from slanc_onnx.arguments.configured import parse
from slanc_onnx.arguments.given import read_options, shown_options
from slanc_onnx.arguments.jobs import STDOUT, JobFiles, folder_of, jobs_of
from slanc_onnx.arguments.parser import Terminal, make_parser
from slanc_onnx.arguments.places import check_places
from slanc_onnx.arguments.usage import check_usage

__all__ = [
    "STDOUT",
    "JobFiles",
    "Terminal",
    "check_places",
    "check_usage",
    "folder_of",
    "jobs_of",
    "make_parser",
    "parse",
    "read_options",
    "shown_options",
]
