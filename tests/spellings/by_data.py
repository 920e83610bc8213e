"""Norms with masks, counts and factors that are data."""

from tests.spellings.written import Written

_MASK = "k0 = Greater(z, zero) k = Cast<to = 1>(k0)"
_COUNT = "n0 = ReduceSum(k, second) n = Max(n0, one)"
_MEAN = f"{_MASK} {_COUNT} xk = Mul(x, k) m0 = ReduceSum(xk, second) m = Div(m0, n) c = Sub(x, m)"
_END = "v0 = ReduceSum(q, second) v = Div(v0, n) t = Add(v, eps) s = Sqrt(t) y = Div(c, s)"
_MORE = ", float[2, rows, 8] z"

BY_DATA = [
    Written(
        "a mask on what is squared",
        f"{_MEAN} ck = Mul(c, k) q = Mul(ck, ck) {_END}",
        ("layer",),
        more=_MORE,
        by_ops=True,
    ),
    Written(
        "a mask on the squares",
        f"{_MEAN} q0 = Mul(c, c) q = Mul(q0, k) {_END}",
        ("layer",),
        more=_MORE,
        by_ops=True,
    ),
    Written(
        "a choice by data of what is squared",
        "k = Greater(z, zero) a = Where(k, x, zero) q = Mul(a, a) v = ReduceMean(q, last) "
        "t = Add(v, eps) s = Sqrt(t) y = Div(x, s)",
        ("rms",),
        more=_MORE,
        by_ops=True,
    ),
    Written(
        "a choice by data among the squares",
        "k = Greater(z, zero) q0 = Mul(x, x) q = Where(k, q0, zero) v = ReduceMean(q, last) "
        "t = Add(v, eps) s = Sqrt(t) y = Div(x, s)",
        ("rms",),
        more=_MORE,
        by_ops=True,
    ),
    Written(
        "rows divided by their maximum, and epsilon by its square",
        "a = Abs(x) k0 = ReduceMax(a, last) k = Max(k0, tiny) c = Div(x, k) q = Mul(c, c) "
        "v = ReduceMean(q, last) kk = Mul(k, k) e = Div(eps, kk) t = Add(v, e) s = Sqrt(t) "
        "y = Div(c, s)",
        ("rms",),
        by_ops=True,
    ),
    Written(
        "the centred input times the input, which adds up to the same",
        "m = ReduceMean(x, last) c = Sub(x, m) q = Mul(c, x) v = ReduceMean(q, last) "
        "t = Add(v, eps) s = Sqrt(t) y = Div(c, s)",
        ("layer",),
        by_ops=True,
    ),
    Written(
        "statistics of groups, repeated for their channels, as Flax writes them",
        "to = Constant<value_ints = [2, 8, 2, 4]>() back = Constant<value_ints = [2, 1, 8]>() "
        "each = Constant<value_ints = [0, 0, 0, 0, 1, 1, 1, 1]>() "
        "ax = Constant<value_ints = [1, 3]>() r = Reshape(x, to) "
        "m = ReduceMean<keepdims = 0>(r, ax) q = Mul(r, r) e = ReduceMean<keepdims = 0>(q, ax) "
        "mm = Mul(m, m) d1 = Sub(e, mm) v = Max(d1, zero) m1 = Gather<axis = 1>(m, each) "
        "m2 = Reshape(m1, back) v1 = Gather<axis = 1>(v, each) v2 = Reshape(v1, back) "
        "c = Sub(x, m2) t = Add(v2, eps) s = Sqrt(t) y = Div(c, s)",
        ("layer",),
        x="float[2, 8, 8]",
        by_ops=True,
    ),
]
