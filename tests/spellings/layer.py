"""Every way in which exporters write LayerNorm with elementary ops."""

from functools import partial

from tests.spellings.spelling import Spelling

_layer = partial(Spelling, "layer", beta=True)

_CENTRED = "mu = ReduceMean<axes = [-1]>(x) c = Sub(x, mu)"
_SQUARES = "q = Pow(c, two) m = ReduceMean<axes = [-1]>(q)"
_DEVIATION = f"{_CENTRED} {_SQUARES} v = Add(m, eps) s = Sqrt(v)"
_AFFINE = "n = Div(c, s) o = Mul(n, g) y = Add(o, b)"
_SECOND = "mu2 = ReduceMean<axes = [-1]>(x) c2 = Sub(x, mu2) q = Mul(c2, c2)"

DECOMPOSED_LAYER = [
    _layer("as torch exports it", f"{_DEVIATION} {_AFFINE}"),
    _layer("no beta", f"{_DEVIATION} n = Div(c, s) y = Mul(n, g)", beta=False),
    _layer("no gamma, no beta", f"{_DEVIATION} y = Div(c, s)", gamma=False, beta=False),
    _layer("operands reversed", f"{_DEVIATION} n = Div(c, s) o = Mul(g, n) y = Add(b, o)"),
    _layer(
        "Div(1, root), gamma first operand",
        f"{_DEVIATION} r = Div(one, s) n = Mul(c, r) y = Mul(g, n)",
        beta=False,
    ),
    _layer(
        "Reciprocal",
        f"{_DEVIATION} r = Reciprocal(s) n = Mul(c, r) o = Mul(n, g) y = Add(o, b)",
    ),
    _layer(
        "Pow(., -0.5)",
        f"{_CENTRED} q = Mul(c, c) m = ReduceMean<axes = [-1]>(q) v = Add(m, eps) "
        "r = Pow(v, minus_half) n = Mul(c, r) o = Mul(n, g) y = Add(o, b)",
    ),
    _layer(
        "axes as an initializer",
        "mu = ReduceMean(x, last) c = Sub(x, mu) q = Pow(c, two) m = ReduceMean(q, last) "
        f"v = Add(m, eps) s = Sqrt(v) {_AFFINE}",
        opset=18,
    ),
    _layer(
        "a second Sub for the variance, Reshape and Expand",
        f"{_CENTRED} {_SECOND} k = ReduceMean<axes = [-1], keepdims = 0>(q) "
        "m = Reshape(k, rows_of_1) z = Shape(m) w = Expand(m, z) v = Add(w, eps) s = Sqrt(v) "
        f"{_AFFINE}",
    ),
    _layer(
        "E[x^2] - mean^2",
        "mu = ReduceMean<axes = [-1]>(x) p = Mul(x, x) e = ReduceMean<axes = [-1]>(p) "
        "q = Mul(mu, mu) m = Sub(e, q) c = Sub(x, mu) v = Add(m, eps) s = Sqrt(v) "
        "r = Reciprocal(s) n = Mul(c, r) o = Mul(n, g) y = Add(o, b)",
    ),
    _layer(
        "ReduceSum / d twice",
        "t = ReduceSum(x, last) mu = Div(t, d) c = Sub(x, mu) q = Mul(c, c) u = ReduceSum(q, last) "
        f"m = Div(u, d) v = Add(m, eps) s = Sqrt(v) {_AFFINE}",
    ),
    _layer(
        "n - 1, epsilon outside the root, gamma before the Div",
        f"{_CENTRED} a = Mul(g, c) {_SECOND} k = ReduceMean<axes = [-1]>(q) w = Mul(k, d) "
        "m = Div(w, d_1) h = Sqrt(m) s = Add(h, eps) n = Div(a, s) y = Add(n, b)",
        power=1,
        unbiased=True,
    ),
    _layer(
        "ReduceSum / (n - 1), mean by ReduceMean",
        f"{_CENTRED} q = Mul(c, c) u = ReduceSum(q, last) m = Div(u, d_1) v = Add(m, eps) "
        f"s = Sqrt(v) {_AFFINE}",
        unbiased=True,
    ),
    _layer(
        "ReduceSum / (n - 1), mean by ReduceSum / n",
        "t = ReduceSum(x, last) mu = Div(t, d) c = Sub(x, mu) q = Mul(c, c) u = ReduceSum(q, last) "
        f"m = Div(u, d_1) v = Add(m, eps) s = Sqrt(v) {_AFFINE}",
        unbiased=True,
    ),
    _layer(
        "Casts inside",
        "f = Cast<to = 1>(x) mu = ReduceMean<axes = [-1]>(f) c = Sub(f, mu) i = Identity(c) "
        "q = Pow(i, two) m = ReduceMean<axes = [-1]>(q) v = Add(m, eps) s = Sqrt(v) "
        "n = Div(c, s) k = Cast<to = 1>(n) o = Mul(k, g) y = Add(o, b)",
    ),
    _layer(
        "mean in double",
        "f = Cast<to = 11>(x) mu0 = ReduceMean<axes = [-1]>(f) mu = Cast<to = 1>(mu0) "
        "c = Sub(x, mu) q = Pow(c, two) m = ReduceMean<axes = [-1]>(q) v = Add(m, eps) "
        f"s = Sqrt(v) {_AFFINE}",
    ),
]
