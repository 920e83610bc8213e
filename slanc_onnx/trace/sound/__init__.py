"""Which readings of the trace are proofs.

Takes nodes with the values that a rule read and made, and gives the reasons why a reading is an
estimate alone. A rule is a proof only where `provable` says so. The reasons follow a tensor to the
norms that read it.
"""

from slanc_onnx.trace.sound.doubts import Doubts

__all__ = [
    "Doubts",
]
