"""Which reads of the tracer are proofs: per op, over whole graphs, and against ONNX Runtime."""

import numpy as np
import onnx
import pytest

from slanc_onnx.report.wording import reason_text
from slanc_onnx.trace.expression import Normalised, Opaque, walk
from slanc_onnx.trace.rules.table import RULES
from slanc_onnx.trace.sound.provable import CHECK_OF
from tests.models.small_graphs import D, Weights, between, exact, graph, normal, read
from tests.oracles.unoptimised import run
from tests.spellings.attention import shape

W, W2 = normal(5, D, D), normal(6, D, D)
F = np.float32


def stop(e: object) -> bool:
    return isinstance(e, Normalised)


def reasons(model: onnx.ModelProto, norm: str = "last") -> list[str]:
    """Why the input of a norm is no proof."""
    traced, _ = read(model)
    parts = list(walk(traced.inputs[norm], stop))
    marked = [traced.estimated[e.serial] for e in parts if e.serial in traced.estimated]
    found = list(map(reason_text, marked))
    return found + [e.op for e in parts if isinstance(e, Opaque)]


def test_the_table_names_ops_with_a_rule_alone_and_the_rest_is_denied() -> None:
    assert set(CHECK_OF) <= set(RULES)
    denied = set(RULES) - set(CHECK_OF)
    assert {"MaxPool", "DynamicQuantizeLinear", "QLinearMatMul", "MoE"} <= denied
    assert len(denied) == 15


SPLIT = shape(1, 1, 2, 4)
HEADS = (
    "v = MatMul(x, w) h = Reshape(v, heads) t = Transpose<perm = [0, 2, 1, 3]>(h) "
    "k = Transpose<perm = [0, 2, 3, 1]>(h) scores = MatMul(t, k) "
)
SHARES = HEADS + "p = Softmax<axis = -1>(scores) "
AFTER = "back = Transpose<perm = [0, 2, 1, 3]>(m) total = Reshape(back, flat) "
IN_HEADS: Weights = {"w": W, "heads": shape(0, 0, 2, 4), "flat": shape(0, 0, D)}

# (nodes from x to total, weights), all of which read as what they are.
SOUND: dict[str, tuple[str, Weights]] = {
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
SOUND["Clip"] = ("y0 = MatMul(x, w) total = Clip(y0, lo)", {"w": W, "lo": np.array(-1, F)})
SOUND["Clip above zero"] = ("total = Clip(x, lo)", {"lo": np.array(2, F)})
SOUND["Min"] = ("y0 = MatMul(x, w) total = Min(y0, hi)", {"w": W, "hi": np.array(1, F)})
SOUND["Select"] = (
    "y0 = MatMul(x, w) c = Greater(x, zero) total = Where(c, x, y0)",
    {"w": W, "zero": np.array(0, F)},
)

TOPOS = {"from": shape(0), "to": shape(-1), "axis": shape(1)}
# (nodes, weights, a word of the reason)
UNSOUND: dict[str, tuple[str, Weights, str]] = {
    "Min by channel": ("total = Min(x, hi)", {"hi": np.linspace(-1, 1, D, dtype=F)}, "limit"),
    "Max of two rows": ("y0 = MatMul(x, w) total = Max(x, y0)", {"w": W}, "limit"),
    "Where with a number": (
        "c = Greater(x, one) total = Where(c, one, x)",
        {"one": np.array(1, F)},
        "constant takes",
    ),
    "Where with zeros by element": (
        "c = Greater(x, zero) total = Where(c, x, zero)",
        {"zero": np.array(0, F)},
        "zeros take",
    ),
    "Cast to integers": ("a = Cast<to = 7>(x) total = Cast<to = 1>(a)", {}, "rounds"),
    "Softmax along another axis": (
        (SHARES + "m = MatMul(p, t) " + AFTER).replace("axis = -1", "axis = 2"),
        IN_HEADS,
        "another axis",
    ),
    "turned shares": (
        SHARES + "pt = Transpose<perm = [0, 1, 3, 2]>(p) m = MatMul(pt, t) " + AFTER,
        IN_HEADS,
        "turns, repeats or joins shares",
    ),
    "the first row beside each": (
        "a = Gather<axis = 1>(x, first) total = Sub(x, a)",
        {"first": shape(0)},
        "positions",
    ),
    "an outer difference": (
        "a = Unsqueeze(x, one) b = Unsqueeze(x, two) o = Sub(a, b) total = ReduceMean<axes=[1]>(o)",
        {"one": shape(1), "two": shape(2)},
        "positions",
    ),
    "a scrambling Reshape": (
        "r = Reshape(x, dims) total = Transpose<perm = [0, 2, 1]>(r)",
        {"dims": shape(0, D, -1)},
        "mix positions",
    ),
    "ReduceMax": ("total = ReduceMax<axes = [1]>(x)", {}, "reduces"),
    "ReduceSum": ("total = ReduceSum(x, axis)", {"axis": shape(1)}, "reduces"),
    "the length as a number": (
        "n = Shape<start = 1, end = 2>(x) f = Cast<to = 1>(n) total = Mul(x, f)",
        {},
        "length",
    ),
    "a weight cut by the length": (
        "n = Shape<start = 1, end = 2>(x) c = Slice(w, from, n, axis) m = MatMul(x, c) "
        "total = Add(x, m)",
        {"w": W, "from": shape(0), "axis": shape(1)},
        "cuts channels or constants by the sequence length",
    ),
    "channels cut by the length": (
        "n = Shape<start = 1, end = 2>(x) a = Slice(x, from, n, axis) total = Add(a, x)",
        {"from": shape(0), "axis": shape(2)},
        "cuts channels or constants by the sequence length",
    ),
    "token shift": (
        "p = Pad(x, pads) a = Slice(p, from, to, axis) total = Add(a, x)",
        {**TOPOS, "pads": shape(0, 1, 0, 0, 0, 0)},
        "positions",
    ),
    "a padded number": (
        "total = Pad(x, pads, one)",
        {"pads": shape(0, 1, 0, 0, 0, 0), "one": np.array(1, F)},
        "other numbers than zero",
    ),
    "GatherElements": (
        "i = Shape(x) j = Expand(zero, i) total = GatherElements<axis = 1>(x, j)",
        {"zero": shape(0)},
        "GatherElements",
    ),
    "quotients of signed numbers": (
        "s = ReduceSum(x, last) total = Div(x, s)",
        {"last": shape(-1)},
        "negative",
    ),
    "a rounded activation": (
        "q = QuantizeLinear(x, s, z) total = DequantizeLinear(q, s, z)",
        {"s": np.array(0.1, F), "z": np.array(0, np.int8)},
        "rounds",
    ),
    "zeros in front of the rows": (
        "p = Concat<axis = 1>(zeros, x) total = Slice(p, from, to, axis)",
        {**TOPOS, "zeros": np.zeros((1, 1, D), F)},
        "several kinds",
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound(name: str) -> None:
    nodes, weights = SOUND[name]
    opset = 13 if "p = Div" in nodes else 17
    assert reasons(between(nodes, weights, opset=opset)) == []


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound(name: str) -> None:
    nodes, weights, word = UNSOUND[name]
    assert any(word in reason for reason in reasons(between(nodes, weights)))


PAST = "float[batch, past_length, 8] past"


def test_past_values_are_named() -> None:
    nodes = "v = MatMul(x, w) total = Concat<axis = 1>(past, v)"
    model = between(nodes, {"w": W}, PAST)
    assert reasons(model) == []
    assert set(read(model)[0].past.values()) == {"past"}


def test_an_empty_tensor_that_the_model_makes_itself_is_no_past() -> None:
    ends = {"zero": np.array([0]), "axis": np.array([1])}
    nodes = "e = Slice(x, zero, zero, axis) v = MatMul(x, w) total = Concat<axis = 1>(e, v)"
    traced, _ = read(between(nodes, {"w": W, **ends}))
    assert not traced.past
    assert any("empty" in reason_text(reason) for reason in traced.estimated.values())


def test_past_values_of_an_attention_op_are_named() -> None:
    cache = "float[batch, 2, past_length, 4] pk, float[batch, 2, past_length, 4] pv"
    nodes = "total = com.microsoft.MultiHeadAttention<num_heads = 2>(x, x, x{more})"
    assert reasons(between(nodes.format(more=""), {})) == []
    model = between(nodes.format(more=", , , , pk, pv"), {}, cache)
    assert reasons(model) == []
    assert set(read(model)[0].past.values()) == {"pv"}


def test_a_pass_through_marks_what_it_passes() -> None:
    weights = {"lo": np.linspace(-1, 1, D, dtype=F), "w": W}
    traced, _ = read(between("a = Max(x, lo) total = MatMul(a, w)", weights))
    (reason,) = {r for r in traced.estimated.values() if r.op == "Max"}
    assert reason_text(reason) == "Max (a): a limit that is not in the expression"


BRANCH = "If(flag) <then_branch = t () => (total) {{ total = MatMul(x, w) }}, else_branch = e () => (total) {{ {other} }}>"  # noqa: E501


@pytest.mark.parametrize(
    ("other", "sound"),
    [("total = Identity(x)", True), ("total = Det(x)", False)],
)
def test_an_if_is_sound_where_every_branch_was_read(other: str, sound: bool) -> None:
    text = BRANCH.format(other=other)
    model = between(f"total = {text}", {"w": W}, "bool flag")
    assert (reasons(model) == []) == sound


def test_rows_of_a_norm_over_positions_are_open() -> None:
    nodes = (
        "t = Transpose<perm = [0, 2, 1]>(x) "
        "i = InstanceNormalization(t, ones, nulls) total = Transpose<perm = [0, 2, 1]>(i)"
    )
    weights = {"ones": np.ones(D, F), "nulls": np.zeros(D, F)}
    assert any("leaves open" in reason for reason in reasons(between(nodes, weights)))


def test_an_input_whose_width_the_file_leaves_open_is_no_proof() -> None:
    last = "[last] y = SimplifiedLayerNormalization<axis = -1>(f, gamma)"
    gamma = {"gamma": np.ones(D, F)}
    assert reasons(graph(last, gamma, "float[b, s, 8] f")) == []
    assert reasons(graph(last, gamma, "float[b, s, d] f")) != []


def test_an_image_whose_channels_a_kernel_fixes_is_one() -> None:
    nodes = "c = Conv(f, k) p = GlobalAveragePool(c) h = Flatten(p) "
    last = "[last] y = SimplifiedLayerNormalization<axis = -1>(h, gamma)"
    weights = {"gamma": np.ones(D, F), "k": np.ones((D, 3, 1, 1), F)}
    assert reasons(graph(nodes + last, weights, "float[b, c, h, w] f")) == []
    doubled = nodes.replace("Conv(f,", "Conv(ff,")
    assert reasons(graph(f"ff = Add(f, f) {doubled}{last}", weights, "float[b, c, h, w] f")) != []


def rows_of(nodes: str, weights: Weights, x: np.ndarray) -> np.ndarray:
    """The rows of total that ONNX Runtime computes from x, FP64."""
    model = graph(
        nodes,
        weights,
        "float[batch, sequence, 8] x, int64[batch, sequence] ids",
        "float[a, b, c] total",
        17,
    )
    ids = np.arange(x.shape[0] * x.shape[1]).reshape(x.shape[:2]) % 2
    return exact(run(model, x=x, ids=ids)["total"])


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


SIZE = float(np.sqrt(D))
# What the expression claims of the length of total's rows, from NumPy alone.
CLAIMS: dict[str, float] = {
    "MatMul": SIZE * norm2(W),
    "residual": SIZE * norm2(exact(W) + np.eye(D)),  # both addends are the same row
    "constants": 2 * SIZE + float(np.linalg.norm(normal(1, D))),
    "a gate": SIZE,
    "Clip that never binds": SIZE,
    "Max that never binds": SIZE,
    "attention": SIZE * np.sqrt(sum(norm2(W[:, h : h + 4]) ** 2 for h in (0, 4))),
    "masked shares": SIZE * np.sqrt(sum(norm2(W[:, h : h + 4]) ** 2 for h in (0, 4))),
    "zeros for whole mixed rows": SIZE * np.sqrt(sum(norm2(W[:, h : h + 4]) ** 2 for h in (0, 4))),
    "Select": SIZE * np.sqrt(1 + norm2(W) ** 2),
    "Slice of channels": SIZE * norm2(normal(2, 4, D)),
    "Split and Concat of channels": SIZE,
    "the flat Gemm": SIZE * norm2(exact(W) + np.eye(D)) + float(np.linalg.norm(normal(3, D))),
    "ReduceMean over positions": SIZE,
    "rows at one position": SIZE,
    "Conv": SIZE * sum(norm2(normal(1, D, D, 3)[:, :, t]) for t in range(3))
    + float(np.linalg.norm(normal(2, D))),
    "a quantised weight": SIZE * norm2(np.arange(64).reshape(D, D) * 0.1),
}


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("length", [1, 2, 7, 16])
def test_onnx_runtime_stays_within_what_a_sound_read_claims(name: str, length: int) -> None:
    nodes, weights = SOUND[name]
    if name == "the flat Gemm":
        nodes = nodes.replace("h = Reshape(g, dims)", "s = Shape(x) h = Reshape(g, s)")
    for x in adversarial(length):
        lengths = np.linalg.norm(rows_of(nodes, weights, x), axis=-1)
        assert lengths.max() <= CLAIMS[name] * (1 + 1e-5)


# The unsound reads are not only unproven: some input leaves what the read claims.
LIES: dict[str, float] = {
    "turned shares": SIZE * np.sqrt(sum(norm2(W[:, h : h + 4]) ** 2 for h in (0, 4))),
    "ReduceSum": SIZE,
    "the first row beside each": 0.0,  # x - x
    "the length as a number": SIZE,
    "ReduceMax": SIZE,
    "an outer difference": 0.0,
}


@pytest.mark.parametrize("name", LIES)
def test_unsound_reads_fail_on_some_input(name: str) -> None:
    nodes, weights, _ = UNSOUND[name]
    lengths = [np.linalg.norm(rows_of(nodes, weights, x), axis=-1).max() for x in adversarial(16)]
    assert max(lengths) > LIES[name] * (1 + 1e-3)
