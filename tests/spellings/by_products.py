"""Norms whose sums, or whose divisions, are products: MatMul, Gemm, FusedMatMul and Einsum."""

from tests.spellings.written import END, Written

_WEIGHTS = "gc = Unsqueeze(g, second) bc = Unsqueeze(b, first) w8 = MatMul(gc, bc)"
_FLAT = "flat = Constant<value_ints = [-1, 8]>() f = Reshape(x, flat)"
_ROWS = f"{_FLAT} q = Mul(f, f)"
_OVER = "s = Sqrt(t) y = Div(f, s)"
_INVERSE = "v = Mul(v0, per_d) t = Add(v, eps) s = Sqrt(t) i = Reciprocal(s)".replace(
    "per_d", "eighth"
).replace("v = ", "eighth = Reciprocal(d) v = ", 1)

BY_PRODUCTS = [
    Written(
        "squares by a convolution and a bias, as image codecs divide",
        f"{_WEIGHTS} k0 = Mul(w8, w8) k = Unsqueeze(k0, last) q = Mul(x, x) "
        "v = Conv(q, k, ones) s = Sqrt(v) y = Div(x, s)",
        ("l2",),
        x="float[2, 8, rows]",
        by_ops=True,
    ),
    Written(
        "squares by a convolution and a bias of several numbers",
        f"{_WEIGHTS} k0 = Mul(w8, w8) k = Unsqueeze(k0, last) q = Mul(x, x) "
        "v = Conv(q, k, spread) s = Sqrt(v) y = Div(x, s)",
        ("l2",),
        x="float[2, 8, rows]",
        by_ops=True,
    ),
    Written(
        "an average over one window that is the row",
        "u = Unsqueeze(x, second) q = Mul(u, u) v0 = AveragePool<kernel_shape = [1, 8]>(q) "
        f"v = Squeeze(v0, second) t = Add(v, eps) {END}",
        ("rms",),
        x="float[2, 8, 8]",
        by_ops=True,
    ),
    Written(
        "the input over the root of the width, squared and added up",
        f"u = Div(x, root_d) q = Mul(u, u) v = ReduceSum(q, last) t = Add(v, eps) {END}",
        ("rms",),
        by_ops=True,
    ),
    Written(
        "a Clip whose limit is an attribute",
        "v = ReduceL2<axes = [-1]>(x) t = Clip<min = 1e-5>(v) y = Div(x, t)",
        ("l2",),
        opset=10,
    ),
    Written(
        "a Clip whose limits are attributes",
        "q = Mul(x, x) v = ReduceSum<axes = [-1]>(q) t = Clip<max = 1e4, min = 1e-5>(v) s = Sqrt(t)"
        " y = Div(x, s)",
        ("l2",),
        opset=10,
        by_ops=True,
    ),
    Written(
        "squares summed by Einsum alone",
        'q = Mul(x, x) v0 = Einsum<equation = "btd->bt">(q) v1 = Unsqueeze(v0, last) '
        f"v = Div(v1, d) t = Add(v, eps) {END}",
        ("rms",),
    ),
    Written(
        "squares averaged by an Einsum with a vector",
        'q = Mul(x, x) v0 = Einsum<equation = "btd,d->bt">(q, ones) v1 = Unsqueeze(v0, last) '
        f"v = Div(v1, d) t = Add(v, eps) {END}",
        ("rms",),
    ),
    Written(
        "an Einsum for the division",
        f'v0 = Einsum<equation = "btd,btd->bt">(x, x) {_INVERSE} '
        'y = Einsum<equation = "btd,bt->btd">(x, i)',
        ("rms",),
        by_ops=True,
    ),
    Written(
        "an Einsum for the division and gamma",
        f'v0 = Einsum<equation = "btd,btd->bt">(x, x) {_INVERSE} '
        'y = Einsum<equation = "btd,bt,d->btd">(x, i, g)',
        ("rms",),
        by_ops=True,
    ),
    Written(
        "a row by itself with FusedMatMul",
        "r = Unsqueeze(x, third) v0 = com.microsoft.FusedMatMul<transB = 1>(r, r) "
        f"v1 = Squeeze(v0, third) v = Div(v1, d) t = Add(v, eps) {END}",
        ("rms",),
        by_ops=True,
    ),
    Written("Gemm with ones", f"{_ROWS} v = Gemm(q, average) t = Add(v, eps) {_OVER}", ("rms",)),
    Written(
        "Gemm with ones, and epsilon for its bias",
        f"{_ROWS} e = Unsqueeze(eps, first) t = Gemm(q, average, e) {_OVER}",
        ("rms",),
    ),
    Written(
        "a row of ones from the left",
        "row = Unsqueeze(ones, first) q = Mul(x, x) v0 = MatMul(row, q) v = Div(v0, d) "
        f"t = Add(v, eps) {END}",
        ("rms",),
        x="float[2, 8, rows]",
    ),
    Written(
        "the division behind a product with weights",
        f"{_WEIGHTS} q = Mul(x, x) v = ReduceMean(q, last) t = Add(v, eps) s = Sqrt(t) "
        "p = MatMul(x, w8) y = Div(p, s)",
        ("rms",),
        by_ops=True,
    ),
    Written(
        "cosine similarity with weights, the division last",
        f"{_WEIGHTS} v = ReduceL2(x, last) t = Max(v, eps) p = MatMul(x, w8) y = Div(p, t)",
        ("l2",),
        by_ops=True,
    ),
    Written(
        "squares weighted by the squares of weights, as StyleGAN demodulates",
        f"{_WEIGHTS} k = Mul(w8, w8) q = Mul(x, x) v = MatMul(q, k) t = Add(v, eps) s = Sqrt(t) "
        "p = MatMul(x, w8) y = Div(p, s)",
        ("l2",),
        by_ops=True,
    ),
]
