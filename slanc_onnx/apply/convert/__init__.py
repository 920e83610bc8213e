"""Converting: every float of a model in 16 bits, wherever the schema of its op takes that.

Takes the folded model and writes FP16 (or BF16) weights, tables of angles, and a Cast where a node
has to stay in FP32; each of those is listed with the reason.
"""

from slanc_onnx.apply.convert.constants import Counts
from slanc_onnx.apply.convert.convert import Converted, InFull, convert
from slanc_onnx.apply.convert.weights import Weights
from slanc_onnx.apply.convert.written import Conversion, write_converted

__all__ = ["Conversion", "Converted", "Counts", "InFull", "Weights", "convert", "write_converted"]
