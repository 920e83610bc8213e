"""What looks like a norm: some of it is none, some cannot be read."""

from tests.spellings.written import CENTRED, END, RMS, SUM, Written

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
    Written("the variance times a constant", f"{CENTRED} y = Mul(v, half)", ()),
    Written(
        "the deviation, pooled",
        f"{CENTRED} t = Add(v, eps) s = Sqrt(t) y = Concat<axis = 2>(m, s)",
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
    Written("squares over their sum", f"{SUM} t = Add(v, eps) y = Div(q, t)", ()),
    Written(
        "weights by distance",
        "c = Sub(x, g) q = Mul(c, c) v = ReduceSum(q, last) s = Sqrt(v) u = Neg(s) a = Exp(u) "
        "z = ReduceSum(a, second) y = Div(a, z)",
        (),
    ),
    Written(
        "the length of two columns",
        "q = Mul(x, x) a = Gather<axis = 2>(q, whole) "
        "b0 = Gather<axis = 2>(q, step) v = Add(a, b0) y = Sqrt(v)",
        (),
    ),
    Written("x / sqrt(1 + x^2)", "q = Mul(x, x) t = Add(q, one) s = Sqrt(t) y = Div(x, s)", ()),
    Written(
        "a squared activation, weights, and a sum of magnitudes",
        "r = Relu(x) q = Mul(r, r) gc = Unsqueeze(g, second) bc = Unsqueeze(b, first) "
        "w8 = MatMul(gc, bc) h = MatMul(q, w8) l = ReduceL1(h, last) y = Div(h, l)",
        (),
    ),
    Written(
        "the squares of two tensors, whose root divides nothing",
        "q = Mul(x, x) p = Mul(z, z) v = Add(q, p) s = Sqrt(v) t = Add(s, eps) y = Log(t)",
        (),
        more=", float[2, rows, 8] z",
    ),
    Written("a gate by the mean square", f"{RMS} s = Sigmoid(v) y = Mul(x, s)", ()),
]

SUSPECTS = [
    Written("an epsilon from data", f"{RMS} e = ReduceMax(x, last) t = Add(v, e) {END}", ()),
    Written(
        "another tensor's root",
        f"z = Relu(x) z2 = Sigmoid(x) q = Mul(z2, z2) "
        f"v = ReduceMean(q, last) t = Add(v, eps) {END}",
        (),
    ),
    Written(
        "a sum of the squares of two tensors",
        "q = Mul(x, x) p = Mul(z, z) v = Add(q, p) t = Add(v, eps) s = Sqrt(t) y = Div(x, s)",
        (),
        more=", float[2, rows, 8] z",
    ),
    Written(
        "the sums of a tensor and of its squares in one tensor",
        "m0 = ReduceSum(x, last) q = Mul(x, x) v0 = ReduceSum(q, last) "
        "a = Concat<axis = 2>(m0, v0) a2 = Div(a, d) m, e = Split<axis = 2, num_outputs = 2>(a2) "
        "mm = Mul(m, m) v = Sub(e, mm) t = Add(v, eps) s = Sqrt(t) c = Sub(x, m) y = Div(c, s)",
        (),
    ),
    Written(
        "a whole number for the root",
        "r0 = Round(x) q = Mul(r0, r0) v = ReduceSum(q, last) s = Sqrt(v) t = Floor(s) "
        "y = Div(r0, t)",
        (),
    ),
    Written("a Softplus for epsilon", f"{RMS} t = Softplus(v) {END}", ()),
    Written(
        "the logarithm of a sum of squares",
        "q = Mul(x, x) v = ReduceLogSum(q, last) h = Mul(v, minus_half) r = Exp(h) y = Mul(x, r)",
        (),
    ),
]
