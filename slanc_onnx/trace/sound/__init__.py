"""Which expressions of the trace a proof may use.

Takes nodes with the values that a rule read and gave, and keeps the reasons why an expression holds
only as an estimate. An op is sound only where the table has a check that accepts it. The reasons
follow a tensor to the norms that read it.
"""

from slanc_onnx.trace.sound.doubts import Doubts

__all__ = [
    "Doubts",
]
