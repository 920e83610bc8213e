"""A way of writing a norm, as the text of a model with nothing else in it.

All read `x` (rows of 8 elements) and write `y`; the constants are those of `HEADER`.
"""

from dataclasses import dataclass
from typing import Literal

import onnx

D = 8
EPSILON = 1e-5

HEADER = """
<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]>
main (float[2, rows, 8] x) => (float[2, rows, 8] y)
<float[8] g = {{0.5, -1, 2, 3, 0.25, -1.5, 1, 0.75}}, float[8] b = {{1, 2, 3, 4, -1, -2, -3, -4}},
 float eps = {{1e-5}}, float one = {{1}}, float two = {{2}}, float half = {{0.5}},
 float minus_half = {{-0.5}}, float d = {{8}}, float d_1 = {{7}}, float per_d = {{0.125}},
 float root_d = {{2.8284271}}, float per_root_d = {{0.35355339}}, int64[1] last = {{-1}},
 int64[1] second = {{2}}, int64[3] rows_of_1 = {{2, -1, 1}}>
{{ {nodes} }}
"""


@dataclass(frozen=True)
class Spelling:
    """A norm in text form, and what it computes.

    Attributes:
        kind: "layer" (centred) or "rms".
        title: What is special about it.
        nodes: The nodes, in the text syntax of onnx.parser.
        opset: The lowest standard opset in which the text is valid.
        power: Power of the scale that divides epsilon.
        gamma: Whether gamma is applied.
        beta: Whether beta is added.
        unbiased: Whether the variance divides by 7.
        floor: Whether epsilon is a lower limit instead of an addend.
    """

    kind: Literal["layer", "rms"]
    title: str
    nodes: str
    opset: int = 13
    power: int = 2
    gamma: bool = True
    beta: bool = False
    unbiased: bool = False
    floor: bool = False

    def model(self) -> onnx.ModelProto:
        return onnx.parser.parse_model(HEADER.format(opset=self.opset, nodes=self.nodes))

    def __str__(self) -> str:
        return f"{self.kind}: {self.title}"
