"""Tracing: weights in every disguise, branches, loops, and where rows begin."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx.graph.load import Array, read_tensor
from slanc_onnx.trace.expression import (
    Expr,
    Known,
    Linear,
    Normalised,
    Opaque,
    walk,
)
from tests.models.small_graphs import (
    GAMMA,
    D,
    Weights,
    between,
    exact,
    frobenius,
    from_weights,
    graph,
    measured_map,
    normal,
    paper,
    read,
)
from tests.oracles.unoptimised import run
from tests.spellings.attention import shape

W, W2 = normal(5, D, D), normal(6, D, D)


def stop(e: Expr) -> bool:
    return isinstance(e, Normalised)


def opaque(model: onnx.ModelProto, norm: str = "last") -> list[tuple[str, str]]:
    """(op, tensor) of all that the trace could not read in front of a norm."""
    traced, _ = read(model)
    return [(e.op, e.tensor) for e in walk(traced.inputs[norm], stop) if isinstance(e, Opaque)]


# A matrix multiplication with a constant: (nodes from x to total, weights).
TWO_D = shape(-1, D)


DISGUISES: dict[str, tuple[str, Weights]] = {
    "MatMul": ("total = MatMul(x, w)", {"w": W}),
    "Transpose of the weight": (
        "t = Transpose<perm = [1, 0]>(w) total = MatMul(x, t)",
        {"w": W},
    ),
    "Transpose without perm": ("t = Transpose(w) total = MatMul(x, t)", {"w": W}),
    "Identity of the weight": ("t = Identity(w) total = MatMul(x, t)", {"w": W}),
    "a weight in FP16 behind a Cast": (
        "t = Cast<to = 1>(w) total = MatMul(x, t)",
        {"w": W.astype(np.float16)},
    ),
    "the weight first": (
        "xt = Transpose<perm = [0, 2, 1]>(x) yt = MatMul(w, xt) "
        "total = Transpose<perm = [0, 2, 1]>(yt)",
        {"w": W},
    ),
    "a weight with leading axes of 1": ("total = MatMul(x, w)", {"w": W[None]}),
    "a Reshape of the weight": (
        "t = Reshape(w, square) total = MatMul(x, t)",
        {"w": W.reshape(D * D), "square": shape(D, D)},
    ),
    "a Constant node": (
        "w = Constant<value = float[8, 2] {1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6}>() "
        "h = MatMul(x, w) total = MatMul(h, w2)",
        {"w2": normal(1, 2, D)},
    ),
    "Slice of a packed weight": (
        "t = Slice(w, from, to, axis) total = MatMul(x, t)",
        {"w": normal(1, D, 24), "from": shape(8), "to": shape(16), "axis": shape(1)},
    ),
    "Slice with a negative step": (
        "t = Slice(w, from, to, axis, step) total = MatMul(x, t)",
        {"w": W, "from": shape(-1), "to": shape(-(2**62)), "axis": shape(1), "step": shape(-1)},
    ),
    "Split of a packed weight": (
        "a, b, c = Split<axis = 1>(w, sizes) h = MatMul(x, b) total = MatMul(h, c)",
        {"w": normal(1, D, 24), "sizes": shape(8, 8, 8)},
    ),
    "Concat of weights": (
        "t = Concat<axis = 1>(w, w2) h = MatMul(x, t) total = MatMul(h, w3)",
        {"w": W, "w2": W2, "w3": normal(1, 16, D)},
    ),
    "a weight made by arithmetic (LoRA)": (
        "low = MatMul(x, a) up = MatMul(low, b) base = MatMul(x, w) total = Add(base, up)",
        {"w": W, "a": normal(1, D, 2), "b": normal(2, 2, D)},
    ),
    "a weight times a number": (
        "t = Mul(w, factor) total = MatMul(x, t)",
        {"w": W, "factor": np.array(0.1, np.float32)},
    ),
    "one weight used twice": ("h = MatMul(x, w) total = MatMul(h, w)", {"w": W}),
    "Gemm between Reshapes": (
        "two = Reshape(x, flat) g = Gemm(two, w, bias) total = Reshape(g, dims)",
        {"w": W, "bias": np.zeros(D, np.float32), "flat": TWO_D, "dims": shape(-1, 1, D)},
    ),
    "Gemm, transB, alpha and beta": (
        "two = Reshape(x, flat) g = Gemm<transB = 1, alpha = 0.5, beta = 3.0>(two, w, two) "
        "total = Reshape(g, dims)",
        {"w": W, "flat": TWO_D, "dims": shape(-1, 1, D)},
    ),
    "FusedMatMul, transB and alpha": (
        "total = com.microsoft.FusedMatMul<transB = 1, alpha = 0.25>(x, w)",
        {"w": W},
    ),
    "FusedMatMul, the weight first, transposed": (
        "xt = Transpose<perm = [0, 2, 1]>(x) "
        "yt = com.microsoft.FusedMatMul<transA = 1, alpha = 2.0>(w, xt) "
        "total = Transpose<perm = [0, 2, 1]>(yt)",
        {"w": W[None]},
    ),
    "FusedMatMul, the activation transposed": (
        "yt = com.microsoft.FusedMatMul<transB = 1>(w, x) total = Transpose<perm = [0, 2, 1]>(yt)",
        {"w": W[None]},
    ),
    "channels in another order": (
        "turned = Gather<axis = 2>(x, order) total = MatMul(turned, w)",
        {"w": W, "order": shape(7, 1, 2, 2, -4, 5, 6, 0)},
    ),
    "halves swapped (rotary)": (
        "a, b = Split<axis = -1>(x, halves) n = Neg(b) r = Concat<axis = -1>(n, a) s = Add(r, x) "
        "total = MatMul(s, w)",
        {"w": W, "halves": shape(4, 4)},
    ),
    "a window of channels padded with nothing": (
        "a = Slice(x, from, to, axis) total = MatMul(a, w)",
        {"w": W[:4], "from": shape(2), "to": shape(-2), "axis": shape(-1)},
    ),
}


@pytest.mark.parametrize(("nodes", "weights"), DISGUISES.values(), ids=DISGUISES)
def test_the_weight_that_is_read_is_the_one_that_the_graph_multiplies_with(
    nodes: str, weights: Weights
) -> None:
    truth = frobenius(measured_map(nodes, weights))
    assert paper(between(nodes, weights))["last"] == pytest.approx(truth, rel=1e-6)


def test_tied_embeddings_are_one_weight() -> None:
    """The table of the Gather is also, transposed, the matrix at the end."""
    nodes = "t = Transpose<perm = [1, 0]>(table) h = MatMul(x, t) total = MatMul(h, table)"
    table = exact(normal(0, 11, D))
    truth = frobenius(np.diag(exact(GAMMA)) @ table.T @ table)
    assert paper(between(nodes, {}))["last"] == pytest.approx(truth, rel=1e-6)


IF = """
    rows = Gather(table, ids)
    [first] x = SimplifiedLayerNormalization<axis = -1>(rows, gamma)
    total = If (flag) <
        then_branch = t () => (float[b, s, 8] o) {
            p = MatMul(x, w)
            [inside] n = SimplifiedLayerNormalization<axis = -1>(p, gamma)
            o = MatMul(n, w2)
        },
        else_branch = e () => (float[b, s, 8] q) { q = Identity(x) }
    >
    [last] y = SimplifiedLayerNormalization<axis = -1>(total, gamma)
"""


def test_norms_in_an_if_are_traced_through_outer_tensors() -> None:
    weights = {"table": normal(0, 11, D), "gamma": GAMMA, "w": W, "w2": W2}
    found = paper(graph(IF, weights, "int64[batch, sequence] ids, bool flag"))
    gamma = np.diag(exact(GAMMA))
    assert found["inside"] == pytest.approx(frobenius(gamma @ exact(W)), rel=1e-6)
    # Either branch may be taken: the mean square over both.
    both = np.hypot(frobenius(gamma @ exact(W2)), frobenius(gamma)) / 2**0.5
    assert found["last"] == pytest.approx(both, rel=1e-6)


LOOP = """
    rows = Gather(table, ids)
    [first] x = SimplifiedLayerNormalization<axis = -1>(rows, gamma)
    total = Loop (count, yes, x) <
        body = step (int64 i, bool go_on, float[b, s, 8] state)
            => (bool stay, float[b, s, 8] next) {
            stay = Identity(go_on)
            p = MatMul(x, w)
            [fixed] n = SimplifiedLayerNormalization<axis = -1>(p, gamma)
            [carried] m = SimplifiedLayerNormalization<axis = -1>(state, gamma)
            next = Add(n, m)
        }
    >
    [last] y = SimplifiedLayerNormalization<axis = -1>(total, gamma)
"""


def test_norms_in_a_loop_and_what_it_carries() -> None:
    """What a loop carries may grow: the rows of all iterations count."""
    weights = {
        "table": normal(0, 11, D),
        "gamma": GAMMA,
        "w": W,
        "count": np.array(3),
        "yes": np.array(True),
    }
    model = graph(LOOP, weights)
    assert np.isfinite(run(model, ids=np.zeros((1, 2), np.int64))["y"]).all()
    estimates, reasons = from_weights(model)
    assert sorted(estimates) == ["carried", "first", "fixed", "last"]
    assert reasons == {}


def test_a_norm_of_an_initializer() -> None:
    """DeBERTa norms its table of relative positions."""
    nodes = """
        [n] relative = LayerNormalization(table, gamma)
        rows = Gather(relative, ids) [last] y = LayerNormalization(rows, gamma)
    """
    table = normal(0, 11, D)
    model = graph(nodes, {"table": table, "gamma": GAMMA})
    found = paper(model)
    assert found["n"] == pytest.approx(frobenius(exact(table)) / 11**0.5, rel=1e-6)
    assert found["last"] == pytest.approx(frobenius(np.diag(exact(GAMMA))), rel=1e-6)
    assert from_weights(model)[1] == {}


def test_a_graph_input_of_floats_counts_with_unit_variance() -> None:
    """Frames of audio features: no weights tell their size."""
    nodes = "h = MatMul(frames, w) [n] y = LayerNormalization(h, gamma)"
    model = graph(nodes, {"w": W, "gamma": GAMMA}, "float[batch, time, 8] frames")
    assert paper(model)["n"] == pytest.approx(frobenius(exact(W)), rel=1e-6)


def test_patches_of_an_image() -> None:
    """A convolution whose taps do not overlap is a matrix over all inputs of a patch."""
    nodes = """
        c = Conv<strides = [4, 4]>(pixels, kernel, bias) f = Reshape(c, flat)
        t = Transpose<perm = [0, 2, 1]>(f) [n] y = LayerNormalization(t, gamma)
    """
    kernel = normal(1, D, 3, 4, 4)
    weights: Weights = {
        "kernel": kernel,
        "bias": normal(2, D),
        "gamma": GAMMA,
        "flat": shape(0, D, -1),
    }
    model = graph(nodes, weights, "float[batch, 3, 16, 16] pixels")
    truth = frobenius(exact(kernel))
    assert paper(model)["n"] == pytest.approx(truth, rel=1e-6)


def test_shape_arithmetic_in_floats() -> None:
    """A head size that is divided as floats must not be divided as integers."""
    nodes = """
        dims = Shape(x) last = Gather(dims, two_) f = Cast<to = 1>(last) g = Cast<to = 1>(three_)
        ratio = Div(g, f) total = Mul(x, ratio)
    """
    weights = {"two_": np.array(2), "three_": np.array(3)}
    truth = frobenius(measured_map(nodes, weights))
    assert truth == pytest.approx(frobenius(np.diag(exact(GAMMA))) * 3 / 8, rel=1e-6)
    assert paper(between(nodes, weights))["last"] == pytest.approx(truth, rel=1e-6)


def test_names_of_weights_survive_movement() -> None:
    nodes = "t = Transpose<perm = [1, 0]>(w) i = Identity(t) h = MatMul(x, i) total = Add(b, h)"
    traced, _ = read(between(nodes, {"w": W, "b": normal(1, D)}))
    expr = traced.inputs["last"]
    assert [e.weight.name for e in walk(expr, stop) if isinstance(e, Linear)] == ["w"]
    knowns = [e.weight.name for e in walk(expr, stop) if isinstance(e, Known)]
    assert knowns == ["b", "gamma"]


def test_reading_a_graph_reads_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large weights are read when an estimate needs them, and one at a time."""
    nodes = (
        "t = Transpose(w) h = MatMul(x, t) a, b = Split<axis = -1>(h) c = Concat<axis = -1>"
        "(b, a) total = MatMul(c, w)"
    )
    model = between(nodes, {"w": W}, opset=13)
    reads: list[str] = []

    def spy(proto: onnx.TensorProto, folder: Path | None) -> Array:
        reads.append(proto.name)
        return read_tensor(proto, folder)

    monkeypatch.setattr("slanc_onnx.trace.tracing.read_tensor", spy)
    traced, _ = read(model)
    assert "w" not in reads and "table" not in reads
    assert opaque(model) == []
    for e in walk(traced.inputs["last"], stop):
        if isinstance(e, Linear):
            e.weight.read()
    assert reads.count("w") == 2


@pytest.mark.parametrize("limit", ["Max(x, zero)", "Min(half, x)", "Max(x, row)"])
def test_a_limit_on_an_activation_keeps_its_rows(limit: str) -> None:
    weights: Weights = {
        "zero": np.array(0, np.float32),
        "half": np.array(0.5, np.float32),
        "row": np.zeros(D, np.float32),
    }
    limited = paper(between(f"total = {limit}", weights))["last"]
    assert limited == pytest.approx(frobenius(np.diag(exact(GAMMA))), rel=1e-6)
