"""Spellings beyond the usual ones: norms and what is none, by what they compute."""

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


_CENTRED = "m = ReduceMean(x, last) c = Sub(x, m) q = Mul(c, c) v = ReduceMean(q, last)"
_RMS = "q = Mul(x, x) v = ReduceMean(q, last)"
_SUM = "q = Mul(x, x) v = ReduceSum(q, last)"
_ROOT = "s = Sqrt(t) n = Div(c, s) o = Mul(n, g) y = Add(o, b)"
_END = "s = Sqrt(t) y = Div(x, s)"

_CLAMPS = {
    "Max 0 and Min inf": "e = Add(v, eps) f = Min(e, infinite) t = Max(f, zero)",
    "Clip from 0": "e = Add(v, eps) t = Clip(e, zero)",
    "Clip to a finite limit": "e = Add(v, eps) t = Clip(e, zero, large)",
    "Clip to a limit before": "e = Clip(v, zero, large) t = Add(e, eps)",
    "a limit that binds": "e = Min(v, one) t = Add(e, eps)",
    "Relu": "e = Add(v, eps) t = Relu(e)",
    "Abs": "e = Abs(v) f = Add(e, eps) t = Abs(f)",
    "Where the variance is above a limit": "k = Greater(v, eps) t = Where(k, v, eps)",
}

LAYERS = [
    *(
        Written(f"layer, {t}", f"{_CENTRED} {n} {_ROOT}", ("layer",), by_ops="limit" in t)
        for t, n in _CLAMPS.items()
    ),
    Written(
        "BatchNormalization with statistics of its own input",
        "sh = Shape(x) r = Reshape(x, to_rows) m = ReduceMean<keepdims = 1>(r, others) "
        "mm = Squeeze(m, others) c = Sub(r, m) q = ReduceSumSquare<keepdims = 0>(c, others) "
        "v = Div(q, d) n = BatchNormalization<epsilon = 1e-3>(r, ones16, zeros16, mm, v) "
        "k = Reshape(n, sh) o = Mul(k, g) y = Add(o, b)".replace(
            "sh = Shape(x)",
            "to_rows = Constant<value_ints = [1, 16, 8, 1]>() sh = Shape(x) "
            "others = Constant<value_ints = [0, 2, 3]>() "
            "sixteen = Constant<value_ints = [16]>() ones16 = Expand(one, sixteen) "
            "zeros16 = Expand(zero, sixteen)",
        ),
        ("layer",),
        x="float[2, 8, 8]",
    ),
    Written(
        "over the last two axes of rank 3, named from the last",
        "m = ReduceMean(x, last_two) c = Sub(x, m) q = Mul(c, c) v = ReduceMean(q, last_two) "
        "t = Add(v, eps) s = Sqrt(t) y = Div(c, s)",
        ("layer",),
    ),
    Written(
        "less a sum over a number that is not the width",
        "m0 = ReduceSum(x, last) m = Mul(m0, half) c = Sub(x, m) q = Mul(c, c) "
        f"v = ReduceMean(q, last) t = Add(v, eps) {_ROOT}",
        ("rms",),
    ),
    Written(
        "cascaded means",
        "m2 = ReduceMean(x, third) m = ReduceMean(m2, second) c = Sub(x, m) q = Mul(c, c) "
        "v2 = ReduceMean(q, third) v = ReduceMean(v2, second) t = Add(v, eps) s = Sqrt(t) "
        "y = Div(c, s)",
        ("layer",),
    ),
    Written(
        "keepdims = 0 with Unsqueeze",
        "m0 = ReduceMean<keepdims = 0>(x, third) m = Unsqueeze(m0, third) c = Sub(x, m) "
        "q = Mul(c, c) v0 = ReduceMean<keepdims = 0>(q, third) v = Unsqueeze(v0, third) "
        f"t = Add(v, eps) {_ROOT}",
        ("layer",),
    ),
    Written(
        "keepdims = 0 with Reshape and Expand, as jax2tf writes it",
        "sh = Shape(x) m0 = ReduceMean<keepdims = 0>(x, third) m1 = Reshape(m0, rows_of_1) "
        "m = Expand(m1, sh) c = Sub(x, m) q = Mul(c, c) v0 = ReduceMean<keepdims = 0>(q, third) "
        "v1 = Reshape(v0, rows_of_1) v = Add(v1, eps) s1 = Sqrt(v) r1 = Reciprocal(s1) "
        "r = Expand(r1, sh) y = Mul(c, r)",
        ("layer",),
    ),
    Written(
        "keepdims = 0 with Reshape to its own sizes and a 1, as torch.var is exported",
        "m = ReduceMean(x, third) c = Sub(x, m) q = Mul(c, c) "
        "v0 = ReduceMean<keepdims = 0>(q, third) s0 = Shape<start = 0, end = 1>(v0) "
        "s1 = Shape<start = 1, end = 2>(v0) r0 = Reshape(s0, minus_one) "
        "r1 = Reshape(s1, minus_one) sizes = Concat<axis = 0>(r0, r1, second) "
        f"v = Reshape(v0, sizes) t = Add(v, eps) {_ROOT}",
        ("layer",),
    ),
    Written(
        "by averaging matrices",
        "m = MatMul(x, average) c = Sub(x, m) q = Mul(c, c) v = MatMul(q, average) "
        f"t = Add(v, eps) {_ROOT}",
        ("layer",),
    ),
    Written(
        "data for gamma, times the inverse",
        f"{_CENTRED} t = Add(v, eps) s = Sqrt(t) k = Div(z, s) y = Mul(c, k)",
        ("layer",),
        more=", float[2, rows, 8] z",
        by_ops=True,
    ),
    Written(
        "the input over the deviation of the centred one",
        f"{_CENTRED} t = Add(v, eps) {_END}",
        ("layer",),
        by_ops=True,
    ),
    Written(
        "over the axis of an input of unknown rank, which a Transpose tells",
        "u = Transpose<perm = [0, 2, 1]>(x) z = Transpose<perm = [0, 2, 1]>(u) "
        "m = ReduceMean(z, third) c = Sub(z, m) q = Mul(c, c) v = ReduceMean(q, third) "
        f"t = Add(v, eps) {_ROOT}",
        ("layer",),
        x="float[]",
    ),
    Written(
        "MeanVarianceNormalization",
        "y = MeanVarianceNormalization<axes = [2]>(x)",
        ("layer",),
        epsilon=False,
    ),
]
RMS = [
    Written(
        "axes computed from the rank",
        "sh = Shape(x) rank = Size(sh) low = Add(rank, start) ax = Range(low, rank, step) "
        f"q = Mul(x, x) v = ReduceMean(q, ax) t = Add(v, eps) {_END}",
        ("rms",),
    ),
    Written(
        "rows divided by their maximum before the square",
        "a = Abs(x) k0 = ReduceMax(a, last) k = Max(k0, tiny) c = Div(x, k) q = Mul(c, c) "
        "v = ReduceMean(q, last) t = Add(v, eps) s = Sqrt(t) y = Div(c, s)",
        ("rms",),
    ),
    Written(
        "a number per channel for epsilon",
        f"{_RMS} t = Add(v, g2) {_END}".replace("q = Mul", "g2 = Mul(spread, eps) q = Mul", 1),
        ("rms",),
        by_ops=True,
    ),
    Written(
        "a sum by a vector of eights",
        f"{_SUM} u = Div(v, eights) t = Add(u, eps) {_END}",
        ("l2",),
        by_ops=True,
    ),
    Written(
        "over an axis that is no feature",
        "q = Mul(x, x) v = ReduceMean(q, second) t = Add(v, eps) s = Sqrt(t) y = Div(x, s)",
        ("rms",),
    ),
    Written(
        "F.normalize times the root of the width",
        "p = Pow(x, two) v = ReduceSum(p, last) r = Pow(v, half) t = Clip(r, eps) "
        "sh = Shape(x) e = Expand(t, sh) n = Div(x, e) o = Mul(n, root_d) y = Mul(o, g)",
        ("rms",),
    ),
]
L2 = [
    Written(
        "x rsqrt(max(sum x^2, eps))",
        f"{_SUM} t = Max(v, tiny) s = Sqrt(t) r = Reciprocal(s) y = Mul(x, r)",
        ("l2",),
    ),
    Written("ReduceL2 and Clip", "v = ReduceL2(x, last) t = Clip(v, eps) y = Div(x, t)", ("l2",)),
    Written("ReduceL2 and Max", "v = ReduceL2(x, last) t = Max(v, eps) y = Div(x, t)", ("l2",)),
    Written(
        "ReduceSum and Pow", f"{_SUM} s = Pow(v, half) t = Clip(s, eps) y = Div(x, t)", ("l2",)
    ),
    Written("LpNormalization", "y = LpNormalization<axis = -1, p = 2>(x)", ("l2",), epsilon=False),
    Written("ReduceSumSquare", f"v = ReduceSumSquare(x, last) t = Add(v, eps) {_END}", ("l2",)),
    Written(
        "cosine attention",
        "p = ReduceL2(x, last) pe = Clip(p, eps) r = ReduceL2(z, last) re = Clip(r, eps) "
        "zt = Transpose<perm = [0, 2, 1]>(z) u = MatMul(x, zt) "
        "ret = Transpose<perm = [0, 2, 1]>(re) t = Mul(pe, ret) y = Div(u, t)",
        ("l2", "l2"),
        more=", float[2, rows, 8] z",
        by_ops=True,
    ),
    Written(
        "cosine similarity with one epsilon for both",
        "p = ReduceL2(x, last) r = ReduceL2(z, last) k = Mul(p, r) t = Max(k, eps) "
        "u = Mul(x, z) w1 = ReduceSum(u, last) y = Div(w1, t)",
        ("l2", "l2"),
        more=", float[2, rows, 8] z",
        by_ops=True,
    ),
    Written(
        "a global response normalisation",
        "v = ReduceL2(x, second) m = ReduceMean(v, last) a = Add(m, eps) k = Div(v, a) "
        "y = Mul(x, k)",
        ("l2",),
        by_ops=True,
    ),
]
FOUND = [*LAYERS, *RMS, *L2]

NONE = [
    Written("softmax", "y = Softmax<axis = -1>(x)", ()),
    Written("softmax by hand", "a = Exp(x) s = ReduceSum(a, last) y = Div(a, s)", ()),
    Written("x over the sum of magnitudes", "s = ReduceL1(x, last) y = Div(x, s)", ()),
    Written("the same by Abs", "a = Abs(x) s = ReduceSum(a, last) y = Div(x, s)", ()),
    Written(
        "quantisation by the largest magnitude",
        "a = Abs(x) m = ReduceMax(a, last) s = Div(m, d) t = Max(s, eps) u = Div(x, t) "
        "r = Round(u) y = Mul(r, t)",
        (),
    ),
    Written(
        "the norm of a weight",
        "v = ReduceL2(w2, first) k = Div(w2, v) y = Mul(x, k)".replace(
            "v = ", "w2 = Add(g, b) v = ", 1
        ),
        (),
    ),
    Written("the variance times a constant", f"{_CENTRED} y = Mul(v, half)", ()),
    Written(
        "the deviation, pooled",
        f"{_CENTRED} t = Add(v, eps) s = Sqrt(t) y = Concat<axis = 2>(m, s)",
        (),
    ),
    Written("standardised by constants", "c = Sub(x, b) y = Div(c, eights)", ()),
    Written("pooling", "y = AveragePool<kernel_shape = [2]>(x)", ()),
    Written(
        "BatchNormalization with constant statistics",
        "y = BatchNormalization(x, ones, zeros, b, eights)",
        (),
        x="float[2, 8, rows]",
    ),
    Written("LpNormalization by magnitudes", "y = LpNormalization<axis = -1, p = 1>(x)", ()),
    Written("squares over their sum", f"{_SUM} t = Add(v, eps) y = Div(q, t)", ()),
    Written("x / sqrt(1 + x^2)", "q = Mul(x, x) t = Add(q, one) s = Sqrt(t) y = Div(x, s)", ()),
    Written("a gate by the mean square", f"{_RMS} s = Sigmoid(v) y = Mul(x, s)", ()),
]

SUSPECTS = [
    Written("an epsilon from data", f"{_RMS} e = ReduceMax(x, last) t = Add(v, e) {_END}", ()),
    Written(
        "weights inside",
        f"{_RMS} t = Add(v, eps) s = Sqrt(t) col = Constant<value_ints = [8, 1]>() "
        "g8 = Reshape(g, col) w8 = Concat<axis = 1>(average, g8) p = MatMul(x, w8) y = Div(p, s)",
        (),
    ),
    Written(
        "another tensor's root",
        f"z = Relu(x) z2 = Sigmoid(x) q = Mul(z2, z2) "
        f"v = ReduceMean(q, last) t = Add(v, eps) {_END}",
        (),
    ),
]
