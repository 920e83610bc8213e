"""FP32 models: ops whose schemas know no 16 bits, quantised and fused ones, mixed types."""

import numpy as np

from tests.models.float_kinds import IO, Kind, W, X, floats, ints

ISLANDS = [
    Kind(
        "CumSum-11",
        f"m {IO} {{ h = Exp(x) c = CumSum(h, ax) y = Neg(c) }}",
        X,
        {"ax": np.array(1, np.int64)},
        ("CumSum",),
        4,
        opset=11,
    ),
    Kind(
        "what lies between two islands",
        f"m {IO} {{ h = Exp(x) c = CumSum(h, ax) d = Neg(c) e = CumSum(d, ax) y = Neg(e) }}",
        X,
        {"ax": np.array(1, np.int64)},
        ("CumSum", "CumSum", "Neg"),
        4,
        opset=11,
    ),
    Kind(
        "Range of floats",
        "m (float n, float[4] x) => (float[4] y) { r = Range(zero, n, one) y = Mul(r, x) }",
        {"n": np.array(4, np.float32), "x": floats(4)},
        {"zero": np.array(0, np.float32), "one": np.array(1, np.float32)},
        ("Range",),
        3,
    ),
    Kind(
        "NonMaxSuppression",
        "m (float[1, 3, 4] x, float[1, 1, 3] s) => (int64[k, 3] y) { b = Abs(x) t = Sigmoid(s) "
        "y = NonMaxSuppression(b, t, most, iou) }",
        {"x": floats(1, 3, 4), "s": floats(1, 1, 3, seed=2)},
        {"most": ints(3), "iou": np.array([0.5], np.float32)},
        ("NonMaxSuppression",),
        4,
    ),
    Kind(
        "Resize with computed scales",
        "m (float[1, 1, 4, 4] x, int64[4] n) => (float[1, 1, a, b] y) { d = Shape(x) "
        "e = Cast<to = 1>(d) f = Cast<to = 1>(n) s = Div(f, e) z = Exp(x) "
        'y = Resize<mode = "linear">(z, , s) }',
        {"x": floats(1, 1, 4, 4), "n": ints(1, 1, 8, 12)},
        full=("Cast", "Cast", "Div"),
    ),
    Kind(
        "Upsample-9",
        "m (float[1, 1, 2, 2] x) => (float[1, 1, 4, 4] y) { z = Exp(x) "
        'y = Upsample<mode = "nearest">(z, s) }',
        {"x": floats(1, 1, 2, 2)},
        {"s": np.array([1, 1, 2, 2], np.float32)},
        opset=9,
        ir=4,
    ),
    Kind(
        "lengths through a float to a shape",
        "m (float[2, 4] x) => (float[a] y) { s = Shape(x) f = Cast<to = 1>(s) "
        "p = ReduceProd<keepdims = 0>(f) g = Mul(p, half) h = Floor(g) k = Mul(h, two) "
        "i = Cast<to = 7>(k) j = Unsqueeze(i, ax) y = Reshape(x, j) }",
        X,
        {"half": np.array(0.5, np.float32), "two": np.array(2, np.float32), "ax": ints(0)},
        ("Cast", "Floor", "Mul", "Mul", "ReduceProd"),
    ),
    Kind(
        "RandomNormalLike, EyeLike, Bernoulli",
        "m (float[4, 4] x) => (float[4, 4] y) { e = EyeLike(x) r = RandomNormalLike<seed = 1.0>(x) "
        "z = Mul(r, zero) f = Add(e, z) y = Mul(f, x) }",
        {"x": floats(4, 4)},
        {"zero": np.array(0, np.float32)},
    ),
    Kind(
        "RandomNormal and RandomUniform",
        "m (float[4, 4] x) => (float[4, 4] y) { r = RandomNormal<shape = [4, 4], seed = 1.0>() "
        "s = RandomUniform<shape = [4, 4], seed = 1.0>() t = Add(r, s) z = Mul(t, zero) "
        "y = Add(z, x) }",
        {"x": floats(4, 4)},
        {"zero": np.array(0, np.float32)},
        ("RandomNormal", "RandomUniform"),
        4,
    ),
    Kind(
        "EyeLike of integers that makes FP32",
        "m (float[4, 4] x) => (float[4, 4] y) { s = Shape(x) n = ConstantOfShape<value = int64[1] "
        "{1}>(s) e = EyeLike<dtype = 1>(n) y = Mul(e, x) }",
        {"x": floats(4, 4)},
        full=("EyeLike",),
        casts=3,
    ),
]
QUANTISED = [
    Kind(
        "DequantizeLinear-19",
        f"m {IO} {{ w = DequantizeLinear(q, s, z) y = MatMul(x, w) }}",
        X,
        {
            "q": np.arange(16, dtype=np.int8).reshape(4, 4),
            "s": np.array(0.05, np.float32),
            "z": np.array(0, np.int8),
        },
        opset=19,
    ),
    Kind(
        "DequantizeLinear-13",
        f"m {IO} {{ w = DequantizeLinear(q, s, z) y = MatMul(x, w) }}",
        X,
        {
            "q": np.arange(16, dtype=np.int8).reshape(4, 4),
            "s": np.array(0.05, np.float32),
            "z": np.array(0, np.int8),
        },
        ("DequantizeLinear",),
        3,
        opset=13,
    ),
    Kind(
        "QuantizeLinear and DequantizeLinear, 13",
        f"m {IO} {{ h = Exp(x) q = QuantizeLinear(h, s, z) d = DequantizeLinear(q, s, z) "
        "y = Neg(d) }",
        X,
        {"s": np.array(0.05, np.float32), "z": np.array(0, np.int8)},
        ("DequantizeLinear", "QuantizeLinear"),
        4,
        opset=13,
    ),
    Kind(
        "QuantizeLinear and DequantizeLinear, 21",
        f"m {IO} {{ h = Exp(x) q = QuantizeLinear(h, s, z) d = DequantizeLinear(q, s, z) "
        "y = Neg(d) }",
        X,
        {"s": np.array(0.05, np.float32), "z": np.array(0, np.int8)},
        opset=21,
    ),
    Kind(
        "DynamicQuantizeLinear and MatMulInteger",
        f"m {IO} {{ h = Exp(x) a, s, z = DynamicQuantizeLinear(h) n = MatMulInteger(a, b, z, bz) "
        "f = Cast<to = 1>(n) t = Mul(s, bs) g = Mul(f, t) y = Neg(g) }",
        X,
        {
            "b": np.arange(16, dtype=np.uint8).reshape(4, 4),
            "bz": np.array(8, np.uint8),
            "bs": np.array(0.02, np.float32),
        },
        ("Cast", "DynamicQuantizeLinear", "Mul", "Mul"),
        4,
    ),
    Kind(
        "QLinearMatMul",
        f"m {IO} {{ h = Exp(x) a = QuantizeLinear(h, s, z) "
        "n = QLinearMatMul(a, s, z, b, s, z, t, z) d = DequantizeLinear(n, t, z) y = Neg(d) }",
        X,
        {
            "b": np.arange(16, dtype=np.int8).reshape(4, 4),
            "s": np.array(0.05, np.float32),
            "z": np.array(0, np.int8),
            "t": np.array(0.1, np.float32),
        },
        ("DequantizeLinear", "QLinearMatMul", "QuantizeLinear"),
        4,
    ),
]
FUSED = [
    Kind(
        "SkipLayerNormalization's sum",
        "m (float[1, 2, 4] x, float[1, 2, 4] z) => (float[1, 2, 4] y) { n, , , s = "
        "com.microsoft.SkipLayerNormalization(x, z, g, b) y = Add(n, s) }",
        {"x": floats(1, 2, 4), "z": floats(1, 2, 4, seed=3)},
        {"g": floats(4), "b": floats(4, seed=2)},
        casts=3,
    ),
    Kind(
        "LayerNormalization's mean and deviation",
        "m (float[2, 4] x) => (float[2, 4] y) { n, a, i = LayerNormalization(x, g) t = Add(n, a) "
        "y = Mul(t, i) }",
        X,
        {"g": floats(4)},
        casts=4,
    ),
    Kind(
        "BatchNormalization",
        "m (float[2, 3, 4] x) => (float[2, 3, 4] y) { y = BatchNormalization(x, s, b, m, v) }",
        {"x": floats(2, 3, 4)},
        {"s": floats(3), "b": floats(3), "m": floats(3), "v": np.ones(3, np.float32)},
        opset=15,
    ),
    Kind("com.microsoft.Gelu", f"m {IO} {{ y = com.microsoft.Gelu(x) }}", X),
    Kind(
        "MatMulNBits",
        "m (float[2, 32] x) => (float[2, 4] y) { y = com.microsoft.MatMulNBits<K = 32, N = 4, "
        "bits = 4, block_size = 32>(x, q, s) }",
        {"x": floats(2, 32)},
        {"q": np.arange(64, dtype=np.uint8).reshape(4, 1, 16), "s": floats(4)},
    ),
]
MIXED = [
    Kind(
        "Casts round a norm",
        "m (float16[2, 4] x) => (float16[2, 4] y) { a = Cast<to = 1>(x) "
        "n = LayerNormalization(a, g) b = Cast<to = 10>(n) y = MatMul(b, w) }",
        {"x": floats(2, 4).astype(np.float16)},
        {"g": floats(4), "w": floats(4, 4, seed=1).astype(np.float16)},
        casts=0,
        removed=2,
    ),
    Kind(
        "an FP16 model",
        "m (float16[2, 4] x) => (float16[2, 4] y) { y = MatMul(x, w) }",
        {"x": floats(2, 4).astype(np.float16)},
        {"w": floats(4, 4, seed=1).astype(np.float16)},
        casts=0,
    ),
    Kind(
        "doubles inside",
        f"m {IO} {{ d = Cast<to = 11>(x) e = Mul(d, d) f = Cast<to = 1>(e) y = MatMul(f, w) }}",
        X,
        W,
        casts=1,
        removed=1,
    ),
    Kind(
        "integers become floats and booleans masks",
        "m (int64[2, 4] i, bool[2, 4] b) => (float[2, 4] y) { f = Cast<to = 1>(i) "
        "g = Cast<to = 1>(b) h = Sub(one, g) k = Mul(h, low) y = Add(f, k) }",
        {"i": np.arange(8).reshape(2, 4), "b": np.ones((2, 4), bool)},
        {"one": np.array(1, np.float32), "low": np.array(-3.4e38, np.float32)},
        casts=1,
    ),
    Kind(
        "strings and sequences",
        "m (float[2, 4] x) => (float[2, 4] y) { q = SplitToSequence<axis = 0>(x) "
        "a = SequenceAt(q, zero) b = SequenceAt(q, one) y = Concat<axis = 0>(b, a) }",
        X,
        {"zero": np.array(0, np.int64), "one": np.array(1, np.int64)},
    ),
    Kind(
        "optional",
        "m (float[2, 4] x) => (float[2, 4] y) { o = Optional(x) e = OptionalGetElement(o) "
        "y = Exp(e) }",
        X,
    ),
    Kind(
        "CastLike of integers",
        "m (float[2, 4] x, int64[2, 4] i) => (float[2, 4] y) { f = CastLike(i, x) y = Add(f, x) }",
        {**X, "i": np.arange(8).reshape(2, 4)},
    ),
]
