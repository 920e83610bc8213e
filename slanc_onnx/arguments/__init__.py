"""Arguments: the options of the command line, and the files that they name read into values.

Takes the words of a command and gives a namespace, then the values that `Options` wants of it.
What makes no sense together ends the command as argparse does. What a run is to write may only
take the place of what an earlier run wrote.
"""

from slanc_onnx.arguments.given import read_accelerator, read_inputs, read_observed, read_tokens
from slanc_onnx.arguments.parser import Terminal, make_parser
from slanc_onnx.arguments.places import STDOUT, check_places
from slanc_onnx.arguments.usage import check_usage

__all__ = [
    "STDOUT",
    "Terminal",
    "check_places",
    "check_usage",
    "make_parser",
    "read_accelerator",
    "read_inputs",
    "read_observed",
    "read_tokens",
]
