"""The names that `slanc_onnx` has: what a program that imports it may rely on."""

from slanc_onnx._version import __version__
from slanc_onnx.accelerator import Accelerator
from slanc_onnx.api import apply_scales, compute_scales, find_norms, validate
from slanc_onnx.errors import SlancError
from slanc_onnx.feed import Ids, Normal, Range, Values
from slanc_onnx.job import protect, protect_file
from slanc_onnx.norms import Norm
from slanc_onnx.options import Options
from slanc_onnx.report import Outcome, reasons_text, rule_text
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.tokens import Tokens
from slanc_onnx.verify import Validation

__all__ = [
    "Accelerator",
    "Ids",
    "Norm",
    "Normal",
    "Options",
    "Outcome",
    "Range",
    "ScaledNorm",
    "SlancError",
    "Tokens",
    "Validation",
    "Values",
    "__version__",
    "apply_scales",
    "compute_scales",
    "find_norms",
    "protect",
    "protect_file",
    "reasons_text",
    "rule_text",
    "validate",
]
