"""Spellings of norms beyond the usual ones."""

from tests.spellings.by_data import BY_DATA
from tests.spellings.by_products import BY_PRODUCTS
from tests.spellings.written import CENTRED, END, RMS, ROOT, SUM, Written

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
        Written(f"layer, {t}", f"{CENTRED} {n} {ROOT}", ("layer",), by_ops="limit" in t)
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
        f"v = ReduceMean(q, last) t = Add(v, eps) {ROOT}",
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
        f"t = Add(v, eps) {ROOT}",
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
        f"v = Reshape(v0, sizes) t = Add(v, eps) {ROOT}",
        ("layer",),
    ),
    Written(
        "the mean subtracted twice",
        "m = ReduceMean(x, last) c = Sub(x, m) m2 = ReduceMean(x, last) c2 = Sub(x, m2) "
        f"q = Mul(c, c2) v = ReduceMean(q, last) t = Add(v, eps) {ROOT}",
        ("layer",),
    ),
    Written(
        "the square by another sign",
        "m = ReduceMean(x, last) c = Sub(x, m) c2 = Sub(m, x) q0 = Mul(c, c2) q = Neg(q0) "
        f"v = ReduceMean(q, last) t = Add(v, eps) {ROOT}",
        ("rms",),
        by_ops=True,
    ),
    Written(
        "the square multiplied out",
        "m = ReduceMean(x, last) c = Sub(x, m) x2 = Mul(x, x) xm = Mul(x, m) two_xm = Mul(xm, two) "
        "mm = Mul(m, m) less = Sub(x2, two_xm) q0 = Add(less, mm) q = Relu(q0) "
        f"v = ReduceMean(q, last) t = Add(v, eps) {ROOT}",
        ("rms",),
        by_ops=True,
    ),
    Written(
        "an epsilon of the type of the variance, as torch.onnx writes it",
        f"{CENTRED} e = CastLike(eps, v) t = Add(v, e) {ROOT}",
        ("layer",),
    ),
    Written(
        "the variance over the width less one, both counted from the shape",
        f"{CENTRED} n0 = Shape(x) n1 = Gather(n0, third) n2 = ReduceProd<keepdims = 0>(n1) "
        "n3 = CastLike(n2, x) v3 = Mul(v, n3) one1 = CastLike(one, x) k = Sub(n3, one1) "
        f"u = Div(v3, k) t = Add(u, eps) {ROOT}",
        ("layer",),
    ),
    Written(
        "the variance, where the width is above 0, as jax.numpy.var is exported",
        f"{CENTRED} k = Greater(d, zero) u = Where(k, v, infinite) t = Add(u, eps) {ROOT}",
        ("layer",),
    ),
    Written(
        "over the first axis, keepdims = 0",
        "u = Transpose<perm = [2, 0, 1]>(x) m = ReduceMean<keepdims = 0>(u, first) c = Sub(u, m) "
        "q = Mul(c, c) v = ReduceMean<keepdims = 0>(q, first) t = Add(v, eps) s = Sqrt(t) "
        "y = Div(c, s)",
        ("layer",),
    ),
    Written(
        "over all axes, to one number",
        "m0 = ReduceMean(x) m = Squeeze(m0) c = Sub(x, m) q = Mul(c, c) "
        "v = ReduceMean<keepdims = 0>(q) t = Add(v, eps) s = Sqrt(t) y = Div(c, s)",
        ("layer",),
    ),
    Written(
        "cascaded means, keepdims = 0",
        "m2 = ReduceMean<keepdims = 0>(x, second) m1 = ReduceMean<keepdims = 0>(m2, second) "
        "m = Unsqueeze(m1, last_two) c = Sub(x, m) q = Mul(c, c) "
        "v2 = ReduceMean<keepdims = 0>(q, second) v1 = ReduceMean<keepdims = 0>(v2, second) "
        "v = Unsqueeze(v1, last_two) t = Add(v, eps) s = Sqrt(t) y = Div(c, s)",
        ("layer",),
    ),
    Written(
        "BatchNormalization in training",
        "y, n, o = BatchNormalization<training_mode = 1>(x, ones, zeros, b, eights)",
        ("layer",),
        x="float[2, 8, rows]",
    ),
    Written(
        "BatchNormalization in training, with gamma and the running statistics that nobody reads",
        "m = ReduceMean<axes = [0, 2], keepdims = 0>(x) q = Mul(x, x) "
        "v = ReduceMean<axes = [0, 2], keepdims = 0>(q) "
        "y, n, o = BatchNormalization<training_mode = 1>(x, g, b, m, v)",
        ("layer",),
        x="float[2, 8, rows]",
        opset=17,
        by_ops=True,
    ),
    Written(
        "by averaging matrices",
        "m = MatMul(x, average) c = Sub(x, m) q = Mul(c, c) v = MatMul(q, average) "
        f"t = Add(v, eps) {ROOT}",
        ("layer",),
    ),
    Written(
        "data for gamma, times the inverse",
        f"{CENTRED} t = Add(v, eps) s = Sqrt(t) k = Div(z, s) y = Mul(c, k)",
        ("layer",),
        more=", float[2, rows, 8] z",
        by_ops=True,
    ),
    Written(
        "the input over the deviation of the centred one",
        f"{CENTRED} t = Add(v, eps) {END}",
        ("layer",),
        by_ops=True,
    ),
    Written(
        "over the axis of an input of unknown rank, which a Transpose tells",
        "u = Transpose<perm = [0, 2, 1]>(x) z = Transpose<perm = [0, 2, 1]>(u) "
        "m = ReduceMean(z, third) c = Sub(z, m) q = Mul(c, c) v = ReduceMean(q, third) "
        f"t = Add(v, eps) {ROOT}",
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
RMS_NORMS = [
    Written(
        "axes computed from the rank",
        "sh = Shape(x) rank = Size(sh) low = Add(rank, start) ax = Range(low, rank, step) "
        f"q = Mul(x, x) v = ReduceMean(q, ax) t = Add(v, eps) {END}",
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
        f"{RMS} t = Add(v, g2) {END}".replace("q = Mul", "g2 = Mul(spread, eps) q = Mul", 1),
        ("rms",),
        by_ops=True,
    ),
    Written(
        "a sum by a vector of eights",
        f"{SUM} u = Div(v, eights) t = Add(u, eps) {END}",
        ("l2",),
        by_ops=True,
    ),
    Written(
        "over an axis that is no feature",
        "q = Mul(x, x) v = ReduceMean(q, second) t = Add(v, eps) s = Sqrt(t) y = Div(x, s)",
        ("rms",),
    ),
    Written(
        "each row times itself as a column, by Reshape",
        "row = Constant<value_ints = [2, 8, 1, 8]>() col = Constant<value_ints = [2, 8, 8, 1]>() "
        "one_each = Constant<value_ints = [2, 8, 1]>() r = Reshape(x, row) c = Reshape(x, col) "
        f"p = MatMul(r, c) v0 = Reshape(p, one_each) v = Div(v0, d) t = Add(v, eps) {END}",
        ("rms",),
        x="float[2, 8, 8]",
    ),
    Written(
        "each row times itself as a column, by Expand and Transpose",
        "row = Constant<value_ints = [2, 8, 1, 8]>() r0 = Unsqueeze(x, third) "
        "r = Expand(r0, row) c = Transpose<perm = [0, 1, 3, 2]>(r) p = MatMul(r, c) "
        f"v0 = Squeeze(p, third) v = Div(v0, d) t = Add(v, eps) {END}",
        ("rms",),
        x="float[2, 8, 8]",
    ),
    Written(
        "by Einsum over the last axis",
        'v0 = Einsum<equation = "btd,btd->bt">(x, x) v1 = Unsqueeze(v0, last) '
        f"v = Div(v1, d) t = Add(v, eps) {END}",
        ("rms",),
    ),
    Written(
        "by Einsum over an axis in the middle",
        'v0 = Einsum<equation = "...td,...td->...d">(x, x) v1 = Unsqueeze(v0, second) '
        f"v = Div(v1, d) t = Add(v, eps) {END}",
        ("rms",),
        x="float[2, 8, 8]",
    ),
    Written(
        "a row of a matrix for gamma",
        f"ax = Constant<value_ints = [1, 8]>() gs = Reshape(g, ax) g0 = Gather(gs, whole) "
        f"{RMS} t = Add(v, eps) s = Sqrt(t) n = Div(x, s) y = Mul(n, g0)",
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
        f"{SUM} t = Max(v, tiny) s = Sqrt(t) r = Reciprocal(s) y = Mul(x, r)",
        ("l2",),
    ),
    Written("ReduceL2 and Clip", "v = ReduceL2(x, last) t = Clip(v, eps) y = Div(x, t)", ("l2",)),
    Written("ReduceL2 and Max", "v = ReduceL2(x, last) t = Max(v, eps) y = Div(x, t)", ("l2",)),
    Written("ReduceSum and Pow", f"{SUM} s = Pow(v, half) t = Clip(s, eps) y = Div(x, t)", ("l2",)),
    Written(
        "the parts of a Split, squared and added up",
        "a, b0, c, h = Split<axis = -1, num_outputs = 4>(x) qa = Mul(a, a) qb = Pow(b0, two) "
        "qc = Mul(c, c) qh = Mul(h, h) ab = Add(qa, qb) abc = Add(ab, qc) v = Add(abc, qh) "
        "s = Sqrt(v) t = Max(s, eps) u0 = Div(a, t) u1 = Div(b0, t) u2 = Div(c, t) u3 = Div(h, t) "
        "y = Concat<axis = -1>(u0, u1, u2, u3)",
        ("l2",),
        by_ops=True,
    ),
    Written(
        "two columns, squared and added up",
        "a = Gather<axis = 2>(x, whole) b0 = Gather<axis = 2>(x, step) qa = Mul(a, a) "
        "qb = Mul(b0, b0) v = Sum(qa, qb) w0 = Unsqueeze(v, last) t = Add(w0, eps) s = Sqrt(t) "
        "y = Div(x, s)",
        ("l2",),
        by_ops=True,
    ),
    Written(
        "GlobalLpPool and the largest",
        "v = GlobalLpPool<p = 2>(x) t = Max(v, eps) y = Div(x, t)",
        ("l2",),
        by_ops=True,
    ),
    Written(
        "a sum along the axis up to each element",
        "q = Mul(x, x) v = CumSum(q, step) t = Add(v, eps) s = Sqrt(t) y = Div(x, s)",
        ("l2",),
        by_ops=True,
    ),
    Written("LpNormalization", "y = LpNormalization<axis = -1, p = 2>(x)", ("l2",), epsilon=False),
    Written("ReduceSumSquare", f"v = ReduceSumSquare(x, last) t = Add(v, eps) {END}", ("l2",)),
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
FOUND = [*LAYERS, *RMS_NORMS, *L2, *BY_PRODUCTS, *BY_DATA]
