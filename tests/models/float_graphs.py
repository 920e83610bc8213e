"""FP32 models: plain graphs, constants, bodies and functions."""

import numpy as np

from tests.models.float_kinds import IO, Kind, T, W, X, floats, ints

PLAIN = [
    Kind("a product", f"m {IO} {{ y = MatMul(x, w) }}", X, W),
    Kind("no node at all", "m (float[2, 4] x) => (float[2, 4] x) { }", X, casts=0),
    Kind(
        "no float at all",
        "m (int64[2] i) => (int64[2] y) { y = Add(i, i) }",
        {"i": ints(1, 2)},
        casts=0,
    ),
    Kind(
        "an output that is read inside too",
        "m (float[2, 4] x) => (float[2, 4] h, float[2, 4] y) { h = Exp(x) y = Neg(h) }",
        X,
        casts=3,
    ),
    Kind(
        "an initializer that is an output",
        "m (float[2, 4] x) => (float[2, 4] y, float[4, 4] w) { y = MatMul(x, w) }",
        X,
        W,
    ),
    Kind(
        "an input that is an output and read inside",
        "m (float[2, 4] x) => (float[2, 4] y, float[2, 4] x) { y = Neg(x) }",
        X,
    ),
    Kind(
        "a weight that a caller may give",
        "m (float[2, 4] x, float[4, 4] w) => (float[2, 4] y) { y = MatMul(x, w) }",
        X,
        W,
        casts=3,
    ),
    Kind(
        "a weight read by FP16 and FP32 nodes",
        "m (float[2, 4] x) => (float[2, 4] y, float[4, 4] z) { y = MatMul(x, w) "
        "z = CumSum(w, ax) }",
        X,
        {**W, "ax": np.array(1, np.int64)},
        ("CumSum",),
        2,
        opset=11,
    ),
    Kind(
        "a weight read by FP16 and FP32-only inputs",
        "m (float[1, 1, 4, 4] x) => (float[1, 1, 8, 8] y, float[4] z) { "
        'y = Resize<mode = "linear">(x, , s) z = Add(s, s) }',
        {"x": floats(1, 1, 4, 4)},
        {"s": np.array([1, 1, 2, 2], np.float32)},
        (),
        3,
    ),
    Kind(
        "names that end in what a version is called",
        "m (float[2, 4] x) => (float[2, 4] y) { "
        '"x/fp16" = Exp(x) "y/fp16" = Neg("x/fp16") y = Add("x/fp16", "y/fp16") }',
        X,
    ),
]
CONSTANTS = [
    Kind("Constant: value", f"m {IO} {{ c = Constant<value = float {{3.5}}>() y = Mul(x, c) }}", X),
    Kind(
        "Constant: value_float", f"m {IO} {{ c = Constant<value_float = 3.5>() y = Mul(x, c) }}", X
    ),
    Kind(
        "Constant: value_floats",
        f"m {IO} {{ c = Constant<value_floats = [1.5, 2.0, 3.0, 4.0]>() y = Mul(x, c) }}",
        X,
    ),
    Kind(
        "a Constant read by FP16 and FP32-only inputs",
        "m (float[1, 1, 4, 4] x) => (float[1, 1, 8, 8] y, float[4] z) { "
        "s = Constant<value = float[4] {1, 1, 2, 2}>() "
        'y = Resize<mode = "linear">(x, , s) z = Add(s, s) }',
        {"x": floats(1, 1, 4, 4)},
        casts=3,
    ),
    Kind(
        "ConstantOfShape without value",
        f"m {IO} {{ s = Shape(x) c = ConstantOfShape(s) y = Add(x, c) }}",
        X,
    ),
    Kind(
        "ConstantOfShape with value",
        f"m {IO} {{ s = Shape(x) c = ConstantOfShape<value = float[1] {{2.5}}>(s) y = Add(x, c) }}",
        X,
    ),
    Kind(
        "ConstantOfShape of integers",
        f"m {IO} {{ s = Shape(x) c = ConstantOfShape<value = int64[1] {{2}}>(s) "
        "d = Cast<to = 1>(c) y = Add(x, d) }",
        X,
    ),
]
BODIES = [
    Kind(
        "If reads outer tensors",
        "m (float[2, 4] x, bool c) => (float[2, 4] y) { h = Exp(x) r = If (c) <"
        "then_branch = t () => (float[2, 4] a) { a = MatMul(h, w) }, "
        "else_branch = e () => (float[2, 4] b) { b = Neg(h) }> y = Add(r, h) }",
        {**X, "c": T},
        W,
    ),
    Kind(
        "branches that give outer tensors",
        "m (float[2, 4] x, bool c) => (float[2, 4] y) { h = Exp(x) r = If (c) <"
        "then_branch = t () => (float[2, 4] a) { a = Identity(x) }, "
        "else_branch = e () => (float[2, 4] b) { b = Identity(h) }> y = Add(r, h) }",
        {**X, "c": np.array(False)},
    ),
    Kind(
        "a branch gives an FP32 island's result",
        "m (float[2, 4] x, bool c) => (float[2, 4] y) { r = If (c) <"
        "then_branch = t () => (float[2, 4] a) { a = CumSum(x, ax) }, "
        "else_branch = e () => (float[2, 4] b) { b = Neg(x) }> y = Exp(r) }",
        {**X, "c": T},
        {"ax": np.array(1, np.int64)},
        ("CumSum",),
        3,
        opset=11,
    ),
    Kind(
        "a Loop carries state and scans",
        "m (float[2, 4] x, int64 n) => (float[2, 4] y, float[k, 2, 4] ys) { "
        "c = Constant<value = bool {1}>() y, ys = Loop (n, c, x) <"
        "body = b (int64 i, bool ci, float[2, 4] s) => (bool co, float[2, 4] t, float[2, 4] u) "
        "{ co = Identity(ci) t = MatMul(s, w) u = Tanh(t) }> }",
        {**X, "n": np.array(3, np.int64)},
        W,
        casts=3,
    ),
    Kind(
        "a Loop whose condition is of floats",
        "m (float[2, 4] x, int64 n) => (float[2, 4] y) { "
        "c = Constant<value = bool {1}>() y = Loop (n, c, x) <"
        "body = b (int64 i, bool ci, float[2, 4] s) => (bool co, float[2, 4] t) "
        "{ t = Mul(s, half) m = ReduceMax<keepdims = 0>(t) co = Greater(m, tiny) }> }",
        {**X, "n": np.array(9, np.int64)},
        {"half": np.array(0.5, np.float32), "tiny": np.array(0.25, np.float32)},
    ),
    Kind(
        "a Scan",
        "m (float[2, 4] x) => (float[4] y, float[2, 4] z) { y, z = Scan <num_scan_inputs = 1, "
        "body = b (float[4] s, float[4] r) => (float[4] t, float[4] u) "
        "{ t = Add(s, r) u = Neg(t) }> (zero, x) }",
        X,
        {"zero": np.zeros(4, np.float32)},
        casts=3,
    ),
    Kind(
        "If in If, three levels of names",
        "m (float[2, 4] x, bool c) => (float[2, 4] y) { h = Exp(x) r = If (c) <"
        "then_branch = t () => (float[2, 4] a) { k = Neg(h) a = If (c) <"
        "then_branch = tt () => (float[2, 4] aa) { aa = Add(k, h) }, "
        "else_branch = te () => (float[2, 4] ab) { ab = Sub(k, x) }> }, "
        "else_branch = e () => (float[2, 4] b) { b = Neg(h) }> y = Add(r, h) }",
        {**X, "c": T},
    ),
    Kind(
        "a branch with its own weights",
        "m (float[2, 4] x, bool c) => (float[2, 4] y) { y = If (c) <"
        "then_branch = t () => (float[2, 4] a) "
        "{ v = Constant<value = float[4] {1, 2, 3, 4}>() a = Mul(x, v) }, "
        "else_branch = e () => (float[2, 4] b) { b = Identity(x) }> }",
        {**X, "c": T},
    ),
    Kind(
        "a Loop over a sequence",
        "m (float[2, 4] x, int64 n) => (float[k, 4] y) { e = SequenceEmpty() "
        "c = Constant<value = bool {1}>() q = Loop (n, c, e) <"
        "body = b (int64 i, bool ci, seq(float[2, 4]) s) => (bool co, seq(float[2, 4]) t) "
        "{ co = Identity(ci) f = Cast<to = 1>(i) v = Mul(x, f) t = SequenceInsert(s, v) }> "
        "y = ConcatFromSequence<axis = 0>(q) }",
        {**X, "n": np.array(3, np.int64)},
    ),
]
FUNCTIONS = [
    Kind(
        "a function, called twice",
        f"m {IO} {{ h = local.f(x, w) y = local.f(h, w) }} "
        '<domain: "local", opset_import: ["": 18]> f (a, b) => (c) '
        "{ d = MatMul(a, b) c = Tanh(d) }",
        X,
        W,
    ),
    Kind(
        "functions in each other",
        f"m {IO} {{ y = local.f(x) }} "
        '<domain: "local", opset_import: ["": 18]> g (a) => (c) '
        "{ k = Constant<value = float {2.0}>() c = Mul(a, k) } "
        '<domain: "local", opset_import: ["": 18, "local": 1]> f (a) => (c) '
        "{ d = local.g(a) c = Tanh(d) }",
        X,
    ),
    Kind(
        "a function called with floats and with integers",
        "m (float[2, 4] x, int64[2] i) => (float[2, 4] y, int64[2] j) "
        "{ y = local.f(x) j = local.f(i) } "
        '<domain: "local", opset_import: ["": 18]> f (a) => (c) { c = Add(a, a) }',
        {**X, "i": ints(1, 2)},
    ),
    Kind(
        "a function with an island",
        f"m {IO} {{ h = Exp(x) g = local.f(h, ax) y = Neg(g) }} "
        '<domain: "local", opset_import: ["": 11]> f (a, k) => (c) '
        "{ d = Neg(a) e = CumSum(d, k) c = Tanh(e) }",
        X,
        {"ax": np.array(1, np.int64)},
        ("CumSum",),
        4,
        opset=11,
    ),
    Kind(
        "a function whose result is an island's",
        f"m {IO} {{ h = Exp(x) g = local.f(h, ax) y = Neg(g) }} "
        '<domain: "local", opset_import: ["": 11]> f (a, k) => (c) { c = CumSum(a, k) }',
        X,
        {"ax": np.array(1, np.int64)},
        ("CumSum",),
        4,
        opset=11,
    ),
    Kind(
        "a function that gives its input",
        f"m {IO} {{ g = local.f(x) y = Neg(g) }} "
        '<domain: "local", opset_import: ["": 18]> f (a) => (c) { c = Identity(a) }',
        X,
    ),
    Kind(
        "a function whose caller gives constants and types",
        f"m {IO} {{ h = local.f<alpha = 2.0, to = 1>(x) i = local.f<alpha = 3.0, to = 1>(h) "
        "j = local.f<alpha = 3.0, to = 11>(i) y = Cast<to = 1>(j) } "
        '<domain: "local", opset_import: ["": 18]> f <alpha, to> (a) => (c) { '
        "k = Constant<value_float: float = @alpha>() d = Mul(a, k) c = Cast<to: int = @to>(d) }",
        X,
        casts=1,
        removed=3,
    ),
    Kind(
        "a function that gives on what its caller gives",
        f"m {IO} {{ h = local.f<alpha = 2.0>(x) y = local.f<alpha = 3.0>(h) }} "
        '<domain: "local", opset_import: ["": 18]> g <beta> (a) => (c) { '
        "k = Constant<value_float: float = @beta>() c = Mul(a, k) } "
        '<domain: "local", opset_import: ["": 18, "local": 1]> f <alpha> (a) => (c) { '
        "c = local.g<beta: float = @alpha>(a) }",
        X,
    ),
    Kind(
        "a function called in a branch",
        "m (float[2, 4] x, bool b) => (float[2, 4] y) { y = If (b) <"
        "then_branch = t () => (float[2, 4] p) { p = local.f(x) }, "
        "else_branch = e () => (float[2, 4] q) { q = Neg(x) }> } "
        '<domain: "local", opset_import: ["": 18]> f (a) => (c) { c = Tanh(a) }',
        {**X, "b": T},
    ),
    Kind(
        "a function called with FP16 and FP32",
        "m (float[2, 4] x, float16[2] i) => (float[2, 4] y, float16[2] j) "
        "{ y = local.f(x) j = local.f(i) } "
        '<domain: "local", opset_import: ["": 18]> f (a) => (c) { c = Add(a, a) }',
        {**X, "i": np.array([1, 2], np.float16)},
    ),
]
