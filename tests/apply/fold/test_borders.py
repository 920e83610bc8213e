"""A stream is divided in front of what leaves the format, not behind it."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from slanc_onnx.apply.fold.borders import promising
from slanc_onnx.apply.fold.folding import fold_windows
from slanc_onnx.apply.fold.groups import parted, partition
from slanc_onnx.apply.fold.least import least_exponents
from slanc_onnx.graph.flow import Tensor, read_flow
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.job import protect
from slanc_onnx.options import Options
from tests.models.fold_models import (
    ACCELERATOR,
    IDS_FED,
    LN,
    RMS,
    Windows,
    decided,
    folded,
    ops,
    same_bits,
    weights,
)
from tests.models.small_graphs import D, graph, normal
from tests.oracles.rounded_ops import LARGEST, run_rounded
from tests.oracles.unoptimised import Values, run
from tests.versions import needs_onnx_runtime

# The product of the second block leaves FP16: its weights are 2^14 times those of the others.
LARGE = {"w2": normal(2, D, D, spread=2.0**14)}
BLOCK = {
    "residual first": "m{i} = MatMul(x{i}, w{i}) r{i} = Add(r{j}, m{i})",
    "residual last": "m{i} = MatMul(x{i}, w{i}) r{i} = Add(m{i}, r{j})",
    "with a bias": "m{i} = MatMul(x{i}, w{i}) a{i} = Add(m{i}, b{i}) r{i} = Add(r{j}, a{i})",
    "Gemm of rows": """
        f{i} = Reshape(x{i}, flat) m{i} = Gemm(f{i}, w{i}, b{i}) u{i} = Reshape(m{i}, back)
        r{i} = Add(r{j}, u{i})
    """,
    "two branches at once": """
        m{i} = MatMul(x{i}, w{i}) p{i} = Exp(x{i}) q{i} = MatMul(p{i}, v{i})
        s{i} = Add(m{i}, q{i}) r{i} = Add(s{i}, r{j})
    """,
    "subtracted": "m{i} = MatMul(x{i}, w{i}) r{i} = Sub(r{j}, m{i})",
    "a copy of the stream": """
        m{i} = MatMul(x{i}, w{i}) c{i} = Identity(r{j}) r{i} = Add(c{i}, m{i})
    """,
}
MORE = {"flat": np.array([-1, D]), "back": np.array([2, 5, D])}
MORE |= {f"v{i}": normal(30 + i, D, D) for i in (1, 2, 3)}


def chain(block: str, count: int = 3, norm: str = RMS) -> str:
    nodes = "r0 = Gather(table, ids)"
    for i in range(1, count + 1):
        nodes += f" [n{i}] x{i} = {norm}(r{i - 1}, g{i}) " + block.format(i=i, j=i - 1)
    return nodes + f" [last] y = {norm}(r{count}, g7)"


# Another node reads the weight of the second product, and no weight is in front of its input.
SHARED = chain("p{i} = Tanh(x{i}) m{i} = MatMul(p{i}, w{i}) r{i} = Add(r{j}, m{i})")
SHARED += " t = Tanh(w2) z = MatMul(y, t)"


def protected(model: onnx.ModelProto) -> onnx.ModelProto:
    after = onnx.ModelProto()
    after.CopyFrom(model)
    protect(after, Options(apply="fold", certify="off", inputs={"ids": IDS_FED}))
    return after


def error(model: onnx.ModelProto, rounded: Values) -> float:
    """The largest difference of an output to FP32, of its largest number."""
    (exact,) = run(model, ids=IDS_FED).values()
    (found,) = rounded.values()
    return float(np.abs(found.astype(np.float64) - exact).max() / np.abs(exact).max())


def stored(model: onnx.ModelProto) -> dict[str, NDArray[np.float64]]:
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {name: a.astype(np.float64) for name, a in found.items() if a.dtype.kind == "f"}


def changed(before: onnx.ModelProto, after: onnx.ModelProto) -> set[str]:
    was, now = stored(before), stored(after)
    return {name for name in was if not np.array_equal(was[name], now[name])}


@pytest.mark.parametrize("block", BLOCK.values(), ids=BLOCK)
def test_what_overflows_is_divided_before_it_is_added(block: str) -> None:
    model = graph(chain(block), weights(**LARGE, **MORE))
    assert not np.isfinite(run_rounded(model, ids=IDS_FED)["y"]).all()
    after = protected(model)
    assert error(model, run_rounded(after, ids=IDS_FED)) < 0.01
    assert same_bits(model, after)
    (node,) = [n for n in after.graph.node if n.name not in {m.name for m in model.graph.node}]
    assert node.op_type == "Mul" and node.input[0] in ("r1", "c2")
    assert {"w2", "w3"} <= changed(model, after) and "table" not in changed(model, after)


def test_a_stream_that_stays_in_the_format_is_cut_where_it_was() -> None:
    model = graph(chain(BLOCK["residual first"], count=6), weights())
    low, high = (0, 0), (6, 6)  # of sums of squares: no element leaves
    names = {f"n{i}": low if i < 4 else high for i in range(1, 7)} | {"last": high}
    after, found = folded(model, names)
    assert (found.inserted, set(found.applied.values())) == (1, {"fold"})
    (mul,) = [node for node in after.graph.node if node.op_type == "Mul"]
    assert "n4" not in str(mul.input) and mul.input[0] == "r3"
    assert changed(model, after) == {"w4", "w5", "w6"}  # r3 is made as it was
    assert same_bits(model, after)


def test_folding_again_changes_nothing() -> None:
    once = protected(graph(chain(BLOCK["residual first"]), weights(**LARGE)))
    assert protected(once).SerializeToString() == once.SerializeToString()


def test_a_skip_norm_takes_the_divided_sum() -> None:
    needs_onnx_runtime(1, 30, for_what="a Cast of an output that a Skip norm may leave out")
    skip = "com.microsoft.SkipSimplifiedLayerNormalization"
    model = graph(
        f"""
        r0 = Gather(table, ids)
        [n1] x1 = {RMS}(r0, g1)
        m1 = MatMul(x1, w1)
        [n2] x2, none2, inv2, r1 = {skip}(r0, m1, g2)
        m2 = MatMul(x2, w2)
        [n3] x3, none3, inv3, r2 = {skip}(r1, m2, g3)
        m3 = MatMul(x3, w3)
        [last] y = {skip}(m3, r2, g7)
        """,
        weights(**LARGE),
    )
    after = protected(model)
    assert error(model, run_rounded(after, ids=IDS_FED)) < 0.01
    assert same_bits(model, after)
    (node,) = [n for n in after.graph.node if n.op_type == "Div"]
    assert len(after.graph.node) == len(model.graph.node) + 1 and node.input[0] == "r1"
    assert {"w2", "w3"} <= changed(model, after)


def test_a_sum_that_casts_reach_beside_the_norm_is_divided_as_well() -> None:
    """A file in FP16 with its norms in FP32: a Cast stands between the stream and the norm."""
    nodes = "r0 = Gather(table, ids)"
    for i in range(1, 4):
        nodes += f"""
            t{i} = Cast<to = 1>(r{i - 1}) [n{i}] z{i} = {LN}(t{i}, g{i}, b{i})
            x{i} = Cast<to = 10>(z{i}) m{i} = MatMul(x{i}, w{i}) r{i} = Add(r{i - 1}, m{i})
        """
    made = weights(**{"w2": normal(2, D, D, spread=1.0)})
    half = {n: (a * 4).astype(np.float16) if n[0] in "wt" else a for n, a in made.items()}
    half["w2"] = np.round(half["w2"]).astype(np.float16) * np.float16(2.0**12)
    for name in ("w3", "table"):  # multiples of 1/4: exact in FP16 when divided
        half[name] = (np.round(half[name] * 4) / 4).astype(np.float16)
    model = graph(nodes + f" t4 = Cast<to = 1>(r3) [last] y = {LN}(t4, g7, b7)", half)
    assert not np.isfinite(run_rounded(model, ids=IDS_FED)["y"]).all()
    after = protected(model)
    assert error(model, run_rounded(after, ids=IDS_FED)) < 0.02
    assert same_bits(model, after)
    assert ops(after).count("Mul") == 1 and {"w2", "w3"} <= changed(model, after)


def test_where_a_weight_cannot_be_divided_the_node_stands_before_its_product() -> None:
    model = graph(SHARED, weights(**LARGE), outputs="float[a, b, c] z")
    assert not np.isfinite(run_rounded(model, ids=IDS_FED)["z"]).all()
    after = protected(model)
    assert "w2" not in changed(model, after)
    muls = {node.input[0] for node in after.graph.node if node.op_type == "Mul"}
    assert muls == {"r1", "p2"}
    rounded = run_rounded(after, ids=IDS_FED)["z"]
    assert np.isfinite(rounded).all()
    assert same_bits(model, after)


def test_and_behind_it_where_the_product_stays_in_the_format() -> None:
    model = graph(SHARED, weights(), outputs="float[a, b, c] z")
    after, _ = folded(model, dict.fromkeys(("n1", "n2", "n3", "last"), (4, 4)))
    (mul,) = [node for node in after.graph.node if node.op_type == "Mul"]
    assert mul.input[0] == "m2"
    assert same_bits(model, after)


def test_what_is_made_early_and_added_late_stays_out_of_the_border() -> None:
    nodes = "early = MatMul(given, w6) " + chain(BLOCK["residual first"])
    nodes = nodes.replace("r2 = Add(r1, m2)", "k2 = Add(m2, early) r2 = Add(r1, k2)")
    model = graph(nodes, weights(**LARGE), f"int64[a, b] ids, float[a, b, {D}] given")
    windows: Windows = {"n1": (0, 2), "n2": (0, 2), "n3": (14, 16), "last": (14, 16)}
    after, found = folded(model, windows)
    assert found.inserted == 1
    assert {"w2", "w6"} <= changed(model, after)
    assert same_bits(model, after, ids=IDS_FED, given=normal(3, 2, 5, D))


def test_borders_stand_behind_a_norms_input_and_in_front_of_what_follows_it() -> None:
    model = graph(chain(BLOCK["residual first"]), weights())
    scopes = read_graph(model)
    norms = decided(model, {"n1": (0, 0), "n2": (0, 0), "n3": (14, 14), "last": (14, 14)})
    windows = fold_windows(norms, ACCELERATOR)
    parts = partition(read_flow(scopes), [n.norm for n in norms])
    read = {
        frozenset((parts.flow.reads[use].name, parts.flow.op((), use.node)) for use in border)
        for border in promising(parts, windows)
    }
    rms = "SimplifiedLayerNormalization"
    assert {("r2", rms), ("r2", "Add")} in read
    assert {("r1", "Add")} in read
    after = parted(parts, next(b for b in promising(parts, windows) if len(b) == 1))
    assert after.of_output[Tensor((), "r0")] != after.of_output[Tensor((), "m2")]


def test_what_is_added_is_taken_to_be_as_large_as_the_sum_that_a_norm_reads() -> None:
    model = graph(chain(BLOCK["with a bias"]), weights())
    norms = decided(model, {"n1": (0, 0), "n2": (9, 9), "n3": (12, 12), "last": (3, 3)})
    parts = partition(read_flow(read_graph(model)), [n.norm for n in norms])
    least = least_exponents(parts, fold_windows(norms, ACCELERATOR))
    expected = {"r1": 9, "a1": 9, "m1": 9, "r2": 12, "a2": 12, "m2": 12}  # r3 and m3 stay in it
    assert {t.name for t in least} == set(expected)
    for tensor, exponent in least.items():
        largest = 2.0 ** expected[tensor.name] * LARGEST**0.5  # of a row with that sum of squares
        assert largest / 2.0**exponent <= LARGEST < largest / 2.0 ** (exponent - 1)


def test_the_oracle_rounds_behind_every_op() -> None:
    model = graph(
        "a = Add(x, x) y = Mul(a, half)", {"half": np.array(0.5, np.float32)}, "float[n] x"
    )
    (y,) = run_rounded(model, x=np.array([1 + 2.0**-12, 40000.0, 3.0], np.float32)).values()
    assert y.tolist() == [1.0, np.inf, 3.0]
    half = graph("y = Cast<to = 10>(x)", {}, "float[n] x", "float16[n] y")
    assert half.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    (y,) = run_rounded(half, x=np.array([70000.0], np.float32)).values()
    assert y.tolist() == [np.inf]
