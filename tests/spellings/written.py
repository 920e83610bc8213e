"""A part of a model as text, and the usual steps of a norm."""

from dataclasses import dataclass

import onnx

HEADER = """
<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>
main ({x} x{more}) => (float[] y)
<float[8] g = {{0.5, -1, 2, 3, 0.25, -1.5, 1, 0.75}}, float[8] b = {{1, 2, 3, 4, -1, -2, -3, -4}},
 float[8] eights = {{8, 8, 8, 8, 8, 8, 8, 8}}, float[8] spread = {{1, 2, 1, 2, 1, 2, 1, 2}},
 float eps = {{1e-5}}, float tiny = {{1e-12}}, float zero = {{0}}, float one = {{1}},
 float two = {{2}}, float half = {{0.5}}, float minus_half = {{-0.5}}, float d = {{8}},
 float infinite = {{3.4e38}}, float large = {{1e9}}, float root_d = {{2.8284271}},
 float[8, 1] average = {{0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125}},
 int64[1] last = {{-1}}, int64[1] first = {{0}}, int64[1] second = {{1}}, int64[1] third = {{2}},
 int64[2] last_two = {{-1, -2}}, int64 start = {{-1}}, int64 whole = {{0}}, int64 step = {{1}},
 int64[3] rows_of_1 = {{0, -1, 1}}, int64[1] minus_one = {{-1}}, int64[3] as_it_was = {{0, 0, -1}},
 float[8] zeros = {{0, 0, 0, 0, 0, 0, 0, 0}}, float[8] ones = {{1, 1, 1, 1, 1, 1, 1, 1}},
 float[8, 8, 1] kernel, float[8, 8] w>
{{ {nodes} }}
"""


@dataclass(frozen=True)
class Written:
    """A part of a model.

    Attributes:
        title: What is special about it.
        nodes: The nodes, in the text syntax of onnx.parser; they read x and write y.
        kinds: The kinds of the norms in it.
        x: The type of x.
        more: Further inputs.
        opset: The standard opset.
        by_ops: Whether its ops compute more than its kind says.
        epsilon: Whether it has a constant that a scale divides.
    """

    title: str
    nodes: str
    kinds: tuple[str, ...]
    x: str = "float[2, rows, 8]"
    more: str = ""
    opset: int = 18
    by_ops: bool = False
    epsilon: bool = True

    def model(self) -> onnx.ModelProto:
        text = HEADER.format(opset=self.opset, nodes=self.nodes, x=self.x, more=self.more)
        text = text.replace("float[8, 8, 1] kernel, float[8, 8] w>", ">").replace(",\n >", ">")
        return onnx.parser.parse_model(text)

    def __str__(self) -> str:
        return self.title


CENTRED = "m = ReduceMean(x, last) c = Sub(x, m) q = Mul(c, c) v = ReduceMean(q, last)"
RMS = "q = Mul(x, x) v = ReduceMean(q, last)"
SUM = "q = Mul(x, x) v = ReduceSum(q, last)"
ROOT = "s = Sqrt(t) n = Div(c, s) o = Mul(n, g) y = Add(o, b)"
END = "s = Sqrt(t) y = Div(x, s)"
