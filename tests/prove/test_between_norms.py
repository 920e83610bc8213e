"""Bounds of what lies between two norms, held against ONNX Runtime on adversarial rows."""

import itertools

import numpy as np
import pytest

from slanc_onnx import Options, compute_scales
from slanc_onnx.prove import Condition
from tests.models.small_graphs import D, Weights, between, exact, graph, normal
from tests.oracles.unoptimised import run
from tests.spellings.attention import shape

W, W2 = normal(5, D, D), normal(6, D, D)
F = np.float32


SPLIT = shape(1, 1, 2, 4)
HEADS = (
    "v = MatMul(x, w) h = Reshape(v, heads) t = Transpose<perm = [0, 2, 1, 3]>(h) "
    "k = Transpose<perm = [0, 2, 3, 1]>(h) scores = MatMul(t, k) "
)
SHARES = HEADS + "p = Softmax<axis = -1>(scores) "
AFTER = "back = Transpose<perm = [0, 2, 1, 3]>(m) total = Reshape(back, flat) "
IN_HEADS: Weights = {"w": W, "heads": shape(0, 0, 2, 4), "flat": shape(0, 0, D)}

# (nodes from x to total, weights)
GRAPHS: dict[str, tuple[str, Weights]] = {
    "MatMul": ("total = MatMul(x, w)", {"w": W}),
    "residual": ("y0 = MatMul(x, w) total = Add(y0, x)", {"w": W}),
    "constants": ("a = Mul(x, f) total = Sub(a, b)", {"f": np.array([2], F), "b": normal(1, D)}),
    "functions": ("a = Tanh(x) b = Softplus(x) total = Mul(a, b)", {}),
    "Pow": ("total = Pow(x, two)", {"two": np.array(2, F)}),
    "a gate": ("a = Sigmoid(x) total = Mul(a, x)", {}),
    "Clip that never binds": (
        "a = Sigmoid(x) total = Clip(a, lo, hi)",
        {"lo": np.array(-1, F), "hi": np.array(1, F)},
    ),
    "Max that never binds": ("a = Sigmoid(x) total = Max(a, lo)", {"lo": np.array(-1, F)}),
    "attention": (SHARES + "m = MatMul(p, t) " + AFTER, IN_HEADS),
    "masked shares": (
        SHARES + "bad = IsNaN(p) q = Where(bad, zero, p) m = MatMul(q, t) " + AFTER,
        {**IN_HEADS, "zero": np.array(0, F)},
    ),
    "Select": ("c = Greater(x, zero) total = Where(c, x, y0) ", {}),
    "Slice of channels": (
        "a = Slice(x, from, to, axis) total = MatMul(a, w4)",
        {"from": shape(2), "to": shape(6), "axis": shape(2), "w4": normal(2, 4, D)},
    ),
    "Split and Concat of channels": (
        "a, b = Split<axis = 2>(x, sizes) n = Neg(b) total = Concat<axis = 2>(n, a)",
        {"sizes": shape(4, 4)},
    ),
    "the flat Gemm": (
        "two = Reshape(x, flat2) g = Gemm(two, w, b) h = Reshape(g, dims) total = Add(h, x)",
        {"w": W, "b": normal(3, D), "flat2": shape(-1, D), "dims": shape(1, -1, D)},
    ),
    "ReduceMean over positions": ("total = ReduceMean<axes = [1]>(x)", {}),
    "Conv": (
        "t = Transpose<perm = [0, 2, 1]>(x) c = Conv<pads = [1, 1]>(t, w, b) "
        "total = Transpose<perm = [0, 2, 1]>(c)",
        {"w": normal(1, D, D, 3), "b": normal(2, D)},
    ),
    "rows at one position": (
        "total = Gather<axis = 1>(x, first)",
        {"first": shape(0)},
    ),
    "zeros for whole mixed rows": (
        SHARES
        + "m = MatMul(p, t) "
        + AFTER.replace("total", "r")
        + "c = Cast<to = 9>(ids) u = Unsqueeze(c, last) total = Where(u, r, zero)",
        {**IN_HEADS, "zero": np.array(0, F), "last": shape(-1)},
    ),
    "a quantised weight": (
        "w = DequantizeLinear(q, s) total = MatMul(x, w)",
        {"q": np.arange(64, dtype=np.int8).reshape(D, D), "s": np.array(0.1, F)},
    ),
    "shares of sigmoids": (
        "g = MatMul(x, w) s = Sigmoid(g) sum = ReduceSum(s, last) p = Div(s, sum) "
        "total = MatMul(p, x8)",
        {"w": W, "last": shape(-1), "x8": W2},
    ),
}
GRAPHS["Clip"] = ("y0 = MatMul(x, w) total = Clip(y0, lo)", {"w": W, "lo": np.array(-1, F)})
GRAPHS["Clip above zero"] = ("total = Clip(x, lo)", {"lo": np.array(2, F)})
GRAPHS["Min"] = ("y0 = MatMul(x, w) total = Min(y0, hi)", {"w": W, "hi": np.array(1, F)})
GRAPHS["Select"] = (
    "y0 = MatMul(x, w) c = Greater(x, zero) total = Where(c, x, y0)",
    {"w": W, "zero": np.array(0, F)},
)

TOPOS = {"from": shape(0), "to": shape(-1), "axis": shape(1)}
# Reads that go wrong where a length of 1 is taken for all, or numbers for any numbers.
TRAPS: dict[str, tuple[str, Weights]] = {
    "Min by channel": ("total = Min(x, hi)", {"hi": np.linspace(-1, 1, D, dtype=F)}),
    "Max of two rows": ("y0 = MatMul(x, w) total = Max(x, y0)", {"w": W}),
    "Where with a number": (
        "c = Greater(x, one) total = Where(c, one, x)",
        {"one": np.array(1, F)},
    ),
    "Where with zeros by element": (
        "c = Greater(x, zero) total = Where(c, x, zero)",
        {"zero": np.array(0, F)},
    ),
    "Cast to integers": ("a = Cast<to = 7>(x) total = Cast<to = 1>(a)", {}),
    "Softmax along another axis": (
        (SHARES + "m = MatMul(p, t) " + AFTER).replace("axis = -1", "axis = 2"),
        IN_HEADS,
    ),
    "turned shares": (
        SHARES + "pt = Transpose<perm = [0, 1, 3, 2]>(p) m = MatMul(pt, t) " + AFTER,
        IN_HEADS,
    ),
    "the first row beside each": (
        "a = Gather<axis = 1>(x, first) total = Sub(x, a)",
        {"first": shape(0)},
    ),
    "an outer difference": (
        "a = Unsqueeze(x, one) b = Unsqueeze(x, two) o = Sub(a, b) total = ReduceMean<axes=[1]>(o)",
        {"one": shape(1), "two": shape(2)},
    ),
    "a scrambling Reshape": (
        "r = Reshape(x, dims) total = Transpose<perm = [0, 2, 1]>(r)",
        {"dims": shape(0, D, -1)},
    ),
    "ReduceMax": ("total = ReduceMax<axes = [1]>(x)", {}),
    "ReduceSum": ("total = ReduceSum(x, axis)", {"axis": shape(1)}),
    "the length as a number": (
        "n = Shape<start = 1, end = 2>(x) f = Cast<to = 1>(n) total = Mul(x, f)",
        {},
    ),
    "a weight cut by the length": (
        "n = Shape<start = 1, end = 2>(x) c = Slice(w, from, n, axis) m = MatMul(x, c) "
        "total = Add(x, m)",
        {"w": W, "from": shape(0), "axis": shape(1)},
    ),
    "channels cut by the length": (
        "n = Shape<start = 1, end = 2>(x) a = Slice(x, from, n, axis) total = Add(a, x)",
        {"from": shape(0), "axis": shape(2)},
    ),
    "token shift": (
        "p = Pad(x, pads) a = Slice(p, from, to, axis) total = Add(a, x)",
        {**TOPOS, "pads": shape(0, 1, 0, 0, 0, 0)},
    ),
    "a padded number": (
        "total = Pad(x, pads, one)",
        {"pads": shape(0, 1, 0, 0, 0, 0), "one": np.array(1, F)},
    ),
    "GatherElements": (
        "i = Shape(x) j = Expand(zero, i) total = GatherElements<axis = 1>(x, j)",
        {"zero": shape(0)},
    ),
    "quotients of signed numbers": (
        "s = ReduceSum(x, last) total = Div(x, s)",
        {"last": shape(-1)},
    ),
    "a rounded activation": (
        "q = QuantizeLinear(x, s, z) total = DequantizeLinear(q, s, z)",
        {"s": np.array(0.1, F), "z": np.array(0, np.int8)},
    ),
    "a rounded activation with a zero point": (
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) total = MatMul(d, w)",
        {"s": np.array(0.02, F), "z": np.array(128, np.uint8), "w": W},
    ),
    "rows of a table of bytes": (
        "r = Gather(t, ids) d = DequantizeLinear<axis = 2>(r, s, z) total = Add(d, x)",
        {
            "t": np.array([[-128, 127] * 4, [5] * 8], np.int8),
            "s": np.linspace(0.01, 1, D, dtype=F),
            "z": np.arange(D, dtype=np.int8),
        },
    ),
    "zeros in front of the rows": (
        "p = Concat<axis = 1>(zeros, x) total = Slice(p, from, to, axis)",
        {**TOPOS, "zeros": np.zeros((1, 1, D), F)},
    ),
}


def rows_of(nodes: str, weights: Weights, x: np.ndarray) -> np.ndarray:
    """The rows of total that ONNX Runtime computes from x, FP64."""
    model = graph(
        nodes,
        weights,
        "float[batch, sequence, 8] x, int64[batch, sequence] ids",
        "float[a, b, c] total",
        opset_of(nodes),
    )
    ids = np.arange(x.shape[0] * x.shape[1]).reshape(x.shape[:2]) % 2
    return exact(run(model, x=x, ids=ids)["total"])


def opset_of(nodes: str) -> int:
    return 13 if "p = Div" in nodes else 17


def adversarial(length: int) -> list[np.ndarray]:
    """Normalised rows: random, one-hot, and with signs that turn from position to position."""
    rng = np.random.default_rng(length)
    turning = (1 - 2 * (np.arange(length) % 2))[:, None]
    rows = [
        rng.normal(size=(2, length, D)),
        np.sign(rng.normal(size=(2, length, D))),
        np.eye(D)[rng.integers(0, D, (2, length))] * np.sign(rng.normal(size=(2, length, 1))),
        np.eye(D)[:1] * np.ones((2, 1, 1)) * turning,
    ]
    norms = [np.linalg.norm(r, axis=-1, keepdims=True) for r in rows]
    return [(r / n * np.sqrt(D)).astype(F) for r, n in zip(rows, norms, strict=True)]


def norm2(w: np.ndarray) -> float:
    return float(np.linalg.norm(exact(w), 2))


def bound_of(name: str) -> tuple[float | None, tuple[Condition, ...]]:
    """The bound of total's rows, where x is of a norm without gamma, and what it asks."""
    nodes, weights = {**GRAPHS, **TRAPS}[name]
    model = between(nodes, {"gamma": np.ones(D, F), **weights}, opset=opset_of(nodes))
    certificate = compute_scales(model, Options(estimate="weights"))[-1].certificate
    assert certificate is not None
    return certificate.bound.length, certificate.bound.conditions


# Those that the proof has no rule for, or that nothing bounds.
UNBOUNDED = {
    "shares of sigmoids",
    "Softmax along another axis",
    "turned shares",
    "ReduceSum",
    "quotients of signed numbers",
}


# Graphs that run on inputs of that shape alone.
OF_LENGTH_D = {"a weight cut by the length", "channels cut by the length"}
OF_ONE_SEQUENCE = {"the flat Gemm", "zeros in front of the rows"}


@pytest.mark.parametrize("name", [*GRAPHS, *TRAPS])
def test_no_row_is_longer_than_its_bound(name: str) -> None:
    nodes, weights = {**GRAPHS, **TRAPS}[name]
    bound, conditions = bound_of(name)
    assert (bound is None) == (name in UNBOUNDED)
    assert {condition.kind for condition in conditions} <= {"positions"}  # which 16 keep to
    for length in (D,) if name in OF_LENGTH_D else (1, 2, 7, 16):
        for x in adversarial(length):
            rows = rows_of(nodes, weights, x[:1] if name in OF_ONE_SEQUENCE else x)
            longest = np.linalg.norm(rows, axis=-1).max(initial=0.0)
            assert bound is None or longest <= bound * (1 + 1e-5)


def test_a_row_that_doubles_again_and_again_has_no_bound_soon() -> None:
    names = ["x", *(f"c{i}" for i in range(24))]
    pairs = itertools.pairwise(names)
    twice = " ".join(f"{b} = Concat<axis = 2>({a}, {a})" for a, b in pairs)
    nodes = f"{twice} total = Slice(c23, from, to, axis)"
    model = between(nodes, {"from": shape(0), "to": shape(D), "axis": shape(2)})
    first, last = compute_scales(model, Options(estimate="weights"))
    assert first.certificate is not None and last.certificate is not None
    assert last.certificate.bound.length is None


def test_a_tensor_of_ever_more_axes_has_no_bound_soon() -> None:
    names = ["i", *(f"c{i}" for i in range(40))]
    again = " ".join(f"{b} = Gather({a}, {a})" for a, b in itertools.pairwise(names))
    nodes = f"i = Cast<to = 7>(x) {again} f = Cast<to = 1>(c39) total = Add(x, f)"
    first, last = compute_scales(between(nodes, {}), Options(estimate="weights"))
    assert first.certificate is not None and last.certificate is not None
    assert last.certificate.bound.length is None


@pytest.mark.parametrize("far", ["MatMul(v, far)", "ReduceMean<axes = [1], keepdims = 1>(up)"])
def test_sums_that_leave_fp32_on_the_way_have_no_bound(far: str) -> None:
    """What they come to may be small: one addend cancels the other."""
    turn = np.eye(D, dtype=F)
    turn[:, 1] = -turn[:, 0]  # the second element is the first one's negative
    ones = np.full((D, D), 2e38, F)
    ones[2:] = 0
    nodes = f"v = MatMul(x, w) up = Mul(x, large) p = {far} total = Mul(p, small)"
    numbers = {"large": np.array(1e38, F), "small": np.array(1e-38, F)}
    every: Weights = {"w": turn, "far": ones, **numbers}
    weights = {name: value for name, value in every.items() if name in nodes}
    model = between(nodes, {"gamma": np.ones(D, F), **weights})
    certificate = compute_scales(model, Options(estimate="weights"))[-1].certificate
    assert certificate is not None and certificate.bound.length is None
    x = np.sqrt(D).astype(F) * np.eye(D, dtype=F)[None, [0] * 4]
    with np.errstate(all="ignore"):
        assert not np.isfinite(rows_of(nodes, weights, x)).all()
