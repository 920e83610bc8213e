"""Every way in which exporters write RMSNorm with elementary ops."""

from functools import partial

from tests.spellings.spelling import Spelling

_rms = partial(Spelling, "rms")

_MEAN_SQUARE = "q = Pow(x, two) m = ReduceMean<axes = [-1]>(q)"
_VARIANCE = f"{_MEAN_SQUARE} v = Add(m, eps)"
_ROOT = f"{_VARIANCE} s = Sqrt(v)"
_SCALED = "n = Div(x, s) y = Mul(n, g)"
_BY_INVERSE = "n = Mul(x, r) y = Mul(g, n)"

DECOMPOSED_RMS = [
    _rms("Div by the root", f"{_ROOT} {_SCALED}"),
    _rms("gamma first operand", f"{_ROOT} n = Div(x, s) y = Mul(g, n)"),
    _rms("no gamma", f"{_ROOT} y = Div(x, s)", gamma=False),
    _rms("Reciprocal", f"{_ROOT} r = Reciprocal(s) {_BY_INVERSE}"),
    _rms("Div(1, root)", f"{_ROOT} r = Div(one, s) {_BY_INVERSE}"),
    _rms("inverse first operand", f"{_ROOT} r = Reciprocal(s) n = Mul(r, x) y = Mul(n, g)"),
    _rms("Pow(., -0.5)", f"{_VARIANCE} r = Pow(v, minus_half) {_BY_INVERSE}"),
    _rms("Pow(., 0.5)", f"{_VARIANCE} s = Pow(v, half) {_SCALED}"),
    _rms(
        "Mul(x, x), epsilon first operand",
        f"q = Mul(x, x) m = ReduceMean<axes = [-1]>(q) v = Add(eps, m) s = Sqrt(v) {_SCALED}",
    ),
    _rms(
        "ReduceSum, Div by d",
        f"q = Mul(x, x) t = ReduceSum(q, last) m = Div(t, d) v = Add(m, eps) s = Sqrt(v) {_SCALED}",
    ),
    _rms(
        "ReduceSum, Mul by 1/d",
        f"q = Mul(x, x) t = ReduceSum(q, last) m = Mul(t, per_d) v = Add(m, eps) s = Sqrt(v) "
        f"{_SCALED}",
    ),
    _rms(
        "Einsum, Unsqueeze, Div by d",
        'e = Einsum<equation = "btd,btd->bt">(x, x) t = Unsqueeze(e, last) m = Div(t, d) '
        f"v = Add(m, eps) s = Sqrt(v) {_SCALED}",
    ),
    _rms(
        "Clip instead of Add",
        f"{_MEAN_SQUARE} v = Clip(m, eps) s = Sqrt(v) {_SCALED}",
        floor=True,
    ),
    _rms(
        "ReduceL2 * d^-0.5, epsilon outside the root",
        f"l = ReduceL2<axes = [-1]>(x) h = Mul(l, per_root_d) s = Add(h, eps) {_SCALED}",
        power=1,
    ),
    _rms(
        "Sqrt, epsilon outside the root",
        f"{_MEAN_SQUARE} h = Sqrt(m) s = Add(h, eps) {_SCALED}",
        power=1,
    ),
    _rms(
        "ReduceL2, Clip, Expand, Mul by sqrt(d)",
        "l = ReduceL2<axes = [-1]>(x) c = Clip(l, eps) z = Shape(x) s = Expand(c, z) "
        "n = Div(x, s) o = Mul(n, root_d) y = Mul(o, g)",
        power=1,
        floor=True,
    ),
    _rms(
        "x * sqrt(d) / ReduceL2",
        "h = Mul(x, root_d) l = ReduceL2<axes = [-1]>(x) s = Clip(l, eps) n = Div(h, s) "
        "y = Mul(n, g)",
        power=1,
        floor=True,
    ),
    _rms(
        "axes as an initializer",
        f"q = Pow(x, two) m = ReduceMean(q, last) v = Add(m, eps) s = Sqrt(v) {_SCALED}",
        opset=18,
    ),
    _rms(
        "axes counted from the front",
        f"q = Pow(x, two) m = ReduceMean(q, second) v = Add(m, eps) s = Sqrt(v) {_SCALED}",
        opset=18,
    ),
    _rms(
        "axes from a Constant node",
        "a = Constant<value = int64[1] {-1}>() q = Pow(x, two) m = ReduceMean(q, a) "
        f"v = Add(m, eps) s = Sqrt(v) {_SCALED}",
        opset=18,
    ),
    _rms(
        "axes from Reshape(Constant)",
        "a0 = Constant<value_int = -1>() a1 = Constant<value_ints = [1]>() a = Reshape(a0, a1) "
        f"q = Pow(x, two) m = ReduceMean(q, a) v = Add(m, eps) s = Sqrt(v) {_SCALED}",
        opset=18,
    ),
    _rms(
        "scalars from Constant nodes",
        "p = Constant<value_float = 2.0>() e = Constant<value = float[1] {1e-5}>() "
        f"q = Pow(x, p) m = ReduceMean<axes = [-1]>(q) v = Add(m, e) s = Sqrt(v) {_SCALED}",
    ),
    _rms(
        "keepdims = 0 and Unsqueeze",
        "q = Pow(x, two) k = ReduceMean<axes = [-1], keepdims = 0>(q) m = Unsqueeze(k, last) "
        f"v = Add(m, eps) s = Sqrt(v) {_SCALED}",
    ),
    _rms(
        "keepdims = 0, Reshape after the inverse",
        "q = Pow(x, two) m = ReduceMean<axes = [-1], keepdims = 0>(q) v = Add(m, eps) "
        f"s = Sqrt(v) i = Reciprocal(s) r = Reshape(i, rows_of_1) {_BY_INVERSE}",
    ),
    _rms(
        "Casts to the type it has",
        "c0 = Cast<to = 1>(x) c = Cast<to = 1>(c0) q = Pow(c, two) m = ReduceMean<axes = [-1]>(q) "
        "v = Add(m, eps) s = Sqrt(v) r = Div(one, s) n = Mul(c, r) o = Cast<to = 1>(n) "
        "y = Mul(g, o)",
    ),
    _rms(
        "Cast after gamma",
        "c = Cast<to = 1>(x) q = Pow(c, two) m = ReduceMean<axes = [-1]>(q) v = Add(m, eps) "
        "s = Sqrt(v) r = Div(one, s) n = Mul(c, r) o = Mul(g, n) y = Cast<to = 1>(o)",
    ),
    _rms(
        "in double, Cast around it",
        "c = Cast<to = 11>(x) p = Cast<to = 11>(two) e = Cast<to = 11>(eps) q = Pow(c, p) "
        "m = ReduceMean<axes = [-1]>(q) v = Add(m, e) s = Sqrt(v) n = Div(c, s) "
        "o = Cast<to = 1>(n) y = Mul(o, g)",
    ),
    _rms(
        "only the mean square in double",
        "c = Cast<to = 11>(x) p = Cast<to = 11>(two) e = Cast<to = 11>(eps) q = Pow(c, p) "
        "m = ReduceMean<axes = [-1]>(q) v = Add(m, e) w = Sqrt(v) s = Cast<to = 1>(w) "
        f"{_SCALED}",
    ),
    _rms(
        "squared first, then in double",
        "q0 = Mul(x, x) q = Cast<to = 11>(q0) e = Cast<to = 11>(eps) "
        "m = ReduceMean<axes = [-1]>(q) v = Add(m, e) w = Sqrt(v) s = Cast<to = 1>(w) "
        f"{_SCALED}",
    ),
    _rms(
        "gamma as Add(w, 1)",
        f"{_ROOT} w = Sub(g, one) k = Add(w, one) n = Div(x, s) y = Mul(n, k)",
    ),
    _rms("a scalar Mul after gamma", f"{_ROOT} n = Div(x, s) o = Mul(n, g) y = Mul(o, one)"),
]
