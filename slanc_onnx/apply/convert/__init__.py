"""Converting: every float of a model in 16 bits, wherever the schema of its op takes that.

Takes a model and the fold that was decided for it, and writes a file with FP16 or BF16 weights, a
Cast where a node has to stay in FP32, and tables of angles. Gives what became of nodes and weights.
A node that computes in FP32 or FP64 is listed with the reason.
"""

from slanc_onnx.apply.convert.constants import Counts
from slanc_onnx.apply.convert.convert import Converted
from slanc_onnx.apply.convert.written import Conversion, convert_in_memory, write_converted

__all__ = ["Conversion", "Converted", "Counts", "convert_in_memory", "write_converted"]
