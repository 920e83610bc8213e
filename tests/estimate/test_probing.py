"""Self-probing: the figures are those of a direct run on the same ids."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx.estimate import probing as probe_module
from slanc_onnx.estimate.estimate import Estimate
from slanc_onnx.estimate.probing import LENGTH, probe
from slanc_onnx.graph.inputs import input_specs
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.run.inputs import make_feeds, random_ids
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.run.sizes import Said, Sizes
from tests.models.small_graphs import GAMMA, D, Weights, graph, normal
from tests.oracles.unoptimised import Values, run
from tests.places import SAMPLES

Inputs = dict[str, NDArray[np.generic]]


def probed(model: onnx.ModelProto, inputs: Inputs | None = None) -> dict[str, Estimate]:
    scopes = read_graph(model)
    return probe(
        model, find_norms_in(scopes), input_specs(scopes[0]), None, Said(given=inputs or {})
    )


def tensors(model: onnx.ModelProto, names: list[str], **feeds: NDArray[np.generic]) -> Values:
    """Inner values of a model, as ONNX Runtime computes them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in names:
        copy.graph.output.add(name=name).type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return run(copy, **feeds)


def sums(rows: NDArray[np.generic], centred: bool) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    if centred:
        wide -= wide.mean(axis=-1, keepdims=True)
    return np.asarray((wide**2).sum(-1)).reshape(-1)


def expect(found: Estimate, ordinary: NDArray[np.float64], singles: NDArray[np.float64]) -> None:
    both = np.concatenate([ordinary, singles])
    assert found.by == "probe"
    assert found.typical == pytest.approx(np.quantile(ordinary, 0.05), rel=1e-5)
    assert found.largest == pytest.approx(both.max(), rel=1e-5)
    assert both.max() <= found.upper <= 2.001 * both.max()
    assert found.lowest == pytest.approx(both.min(), rel=1e-5)


@pytest.mark.parametrize("name", ["bert_like", "llama_like", "sandwich_like"])
def test_the_figures_are_those_of_a_run_on_the_same_ids(name: str) -> None:
    model = onnx.load(SAMPLES / f"{name}.onnx")
    norms = find_norms_in(read_graph(model))
    inner = sorted({norm.input for norm in norms})

    def values(ids: NDArray[np.int64]) -> Values:
        every = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        return tensors(model, inner, **{i.name: every[i.name] for i in model.graph.input})

    ordinary, singles = values(random_ids(200, (8, 32))), values(random_ids(200, (256, 1)))
    found = probed(model)
    assert list(found) == [norm.name for norm in norms]
    for norm in norms:
        centred = norm.kind == "layer"
        expect(
            found[norm.name],
            sums(ordinary[norm.input], centred),
            sums(singles[norm.input], centred),
        )


def test_the_same_model_gives_the_same_figures() -> None:
    model = onnx.load(SAMPLES / "llama_like.onnx")
    before = model.SerializeToString()
    assert probed(model) == probed(model)
    assert model.SerializeToString() == before


TEXT = "rows = Gather(table, ids) [n] y = SimplifiedLayerNormalization<axis = -1>(rows, gamma)"
TABLE = normal(0, 500, D) * np.arange(1, 501, dtype=np.float32)[:, None]
WEIGHTS: Weights = {"table": TABLE, "gamma": GAMMA}


def test_begin_of_text_and_other_first_ids_are_tried() -> None:
    """Ids 0 to 31 come first in a sequence of their own."""
    table = TABLE.copy()
    table[17] *= 1e4
    found = probed(graph(TEXT, {**WEIGHTS, "table": table}))["n"]
    assert found.largest == pytest.approx(sums(table[17], False)[0], rel=1e-5)


ONE_SEQUENCE = """
    rows = Gather(table, ids) flat = Squeeze(rows, first)
    [n] y = SimplifiedLayerNormalization<axis = -1>(flat, gamma)
"""


@pytest.mark.parametrize(
    ("nodes", "ids"),
    [(TEXT, "int64[1, sequence] ids"), (ONE_SEQUENCE, "int64[batch, sequence] ids")],
    ids=["its input says so", "a Squeeze takes no more"],
)
def test_a_model_for_one_sequence_is_run_several_times_on_other_ids(nodes: str, ids: str) -> None:
    model = graph(nodes, {**WEIGHTS, "first": np.array([0])}, ids)
    found = probed(model)["n"]
    ordinary = np.concatenate([random_ids(500, (1, 32), k) for k in range(8)])
    singles = np.concatenate([random_ids(500, (1, 1), k) for k in range(64)])
    assert len(np.unique(ordinary)) > 150 and len(np.unique(singles)) > 55
    assert set(range(32)) <= set(singles.reshape(-1).tolist())
    expect(found, sums(TABLE[ordinary], False), sums(TABLE[singles], False))


def test_draws_of_ids_are_different_and_the_first_is_the_default() -> None:
    assert (random_ids(500, (3, 7), 0) == random_ids(500, (3, 7))).all()
    assert (random_ids(500, (3, 7), 1) != random_ids(500, (3, 7), 2)).any()
    firsts = np.concatenate([random_ids(500, (3, 7), k)[:, 0] for k in range(11)])
    assert firsts[:32].tolist() == list(range(32))
    assert random_ids(5, (9, 2)).max() < 5


def test_a_model_of_fixed_length_is_not_run_on_single_tokens() -> None:
    model = graph(TEXT, WEIGHTS, "int64[2, 24] ids")
    ids = np.concatenate([random_ids(500, (2, 24), k) for k in range(4)])
    rows = sums(TABLE[ids], False)
    expect(probed(model)["n"], rows, rows)


def test_a_model_with_few_positions_is_run_on_shorter_sequences() -> None:
    nodes = """
        rows = Gather(table, ids) dims = Shape(ids) n = Gather(dims, one)
        where = Range(zero, n, one) p = Gather(positions, where) sum = Add(rows, p)
        [n] y = SimplifiedLayerNormalization<axis = -1>(sum, gamma)
    """
    weights = {**WEIGHTS, "positions": normal(2, 20, D), "zero": np.array(0), "one": np.array(1)}
    model = graph(nodes, weights)
    ids = np.concatenate([random_ids(500, (1, 16), k) for k in range(8)])
    singles = random_ids(500, (256, 1))
    rows = tensors(model, ["sum"], ids=ids)["sum"]
    single_rows = tensors(model, ["sum"], ids=singles)["sum"]
    expect(probed(model)["n"], sums(rows, False), sums(single_rows, False))


def test_given_inputs_keep_their_shapes_and_all_values_but_the_ids() -> None:
    nodes = """
        rows = Gather(table, ids) sum = Add(rows, frames)
        [n] y = LayerNormalization(sum, gamma)
    """
    model = graph(nodes, WEIGHTS, "int64[batch, sequence] ids, float[batch, sequence, 8] frames")
    frames = normal(3, 3, 5, D, spread=2000.0)
    found = probed(model, {"ids": np.full((3, 5), 499), "frames": frames})["n"]
    draws = [TABLE[random_ids(500, (3, 5), k)] + frames for k in range(256 // 15)]
    rows = sums(np.concatenate(draws), True)
    expect(found, rows, rows)
    found = probed(model, {"frames": frames})["n"]  # the ids are made, of the sizes of the frames
    expect(found, sums(draws[0], True), sums(draws[0], True))


def test_a_model_of_floats_is_probed_with_unit_variance() -> None:
    nodes = "[n] y = SimplifiedLayerNormalization<axis = -1>(frames, gamma)"
    found = probed(graph(nodes, {"gamma": GAMMA}, "float[batch, time, 8] frames"))["n"]
    frames = np.random.default_rng(0).standard_normal((8, 32, D)).astype(np.float32)
    rows = sums(frames, False)
    expect(found, rows, rows)


def test_an_image_gets_the_first_size_that_runs() -> None:
    nodes = """
        c = Conv<strides = [16, 16]>(pixels, kernel) f = Reshape(c, flat)
        t = Transpose<perm = [0, 2, 1]>(f) s = Add(t, positions)
        [n] y = LayerNormalization(s, gamma)
    """
    weights = {
        "kernel": normal(1, D, 3, 16, 16),
        "gamma": GAMMA,
        "flat": np.array([0, D, -1]),
        "positions": normal(2, 16, D),
    }
    found = probed(graph(nodes, weights, "float[batch, 3, height, width] pixels"))["n"]
    assert found.typical == pytest.approx(D * 3 * 256, rel=0.9)


IF = """
    rows = Gather(table, ids)
    [outside] x = SimplifiedLayerNormalization<axis = -1>(rows, gamma)
    y = If (flag) <
        then_branch = t () => (float[b, s, 8] o) {
            [inside] o = SimplifiedLayerNormalization<axis = -1>(x, gamma) },
        else_branch = e () => (float[b, s, 8] q) { q = Identity(x) }
    >
"""


def test_the_width_of_a_row_that_the_file_does_not_tell_is_measured() -> None:
    """An InstanceNormalization's rows are images, whose size only a run knows."""
    nodes = """
        rows = Gather(table, ids) x = Transpose<perm = [0, 2, 1]>(rows)
        [n] y = InstanceNormalization(x, gamma, gamma)
    """
    model = graph(nodes, WEIGHTS)
    (norm,) = find_norms_in(read_graph(model))
    assert norm.width is None
    assert probed(model)["n"].width == 2 * LENGTH  # the larger of the two sizes that are run
    fixed = graph(TEXT, WEIGHTS)
    assert probed(fixed)["n"].width == D


def test_a_norm_in_the_branch_that_is_taken_has_figures() -> None:
    model = graph(IF, WEIGHTS, "int64[batch, sequence] ids, bool flag")
    assert sorted(probed(model)) == ["inside", "outside"]


def test_a_model_without_norms_is_not_run() -> None:
    assert probed(graph("y = my.domain.Whirl(ids)", {})) == {}


def test_what_the_runtime_cannot_run_is_said() -> None:
    nodes = TEXT.replace("[n]", "spun = my.domain.Whirl(rows) [n]").replace("(rows, g", "(spun, g")
    unknown = graph(nodes, WEIGHTS)
    unknown.opset_import.add(domain="my.domain", version=1)
    with pytest.raises(CannotRun, match="cannot load"):
        probed(unknown)
    nodes = TEXT.replace("[n]", "bad = Reshape(rows, sevens) [n]").replace("(rows, g", "(bad, g")
    failing = graph(nodes, {**WEIGHTS, "sevens": np.array([7, 7, 7])})
    with pytest.raises(CannotRun, match="cannot run"):
        probed(failing)


def test_a_model_unrolled_to_a_length_is_probed_without_single_tokens() -> None:
    """It takes sequences of 32 only, which its input's shape does not tell."""
    nodes = TEXT.replace("[n]", "same = Reshape(rows, dims) [n]").replace("(rows, g", "(same, g")
    model = graph(nodes, {**WEIGHTS, "dims": np.array([0, 32, D])})
    rows = sums(TABLE[random_ids(500, (8, 32))], False)
    expect(probed(model)["n"], rows, rows)


def test_rows_that_are_not_finite_are_left_out() -> None:
    table = TABLE.copy()
    table[::2] = np.nan
    found = probed(graph(TEXT, {**WEIGHTS, "table": table}))["n"]
    assert np.isfinite([found.typical, found.upper, found.lowest]).all()
    none = np.full_like(TABLE, np.nan)
    assert probed(graph(TEXT, {**WEIGHTS, "table": none})) == {}


def test_progress_reaches_the_end() -> None:
    seen: list[float] = []
    model = graph(TEXT, WEIGHTS)
    scopes = read_graph(model)
    probe(
        model,
        find_norms_in(scopes),
        input_specs(scopes[0]),
        None,
        progress=lambda what, done: seen.append(done),
    )
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_the_number_of_runs_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "MOST_RUNS", 2)
    found = probed(graph(TEXT, WEIGHTS, "int64[1, sequence] ids"))["n"]
    ids = np.concatenate([random_ids(500, (1, 32), k) for k in range(2)])
    expect(found, sums(TABLE[ids], False), sums(TABLE[[0, 1]], False))


def test_negative_sizes_are_dynamic_and_undefined_types_are_floats() -> None:
    """As old exporters write them."""
    model = graph("y = Neg(x)", {}, "float[4, 3, 2] x, float[2] odd")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.UNDEFINED
    specs = input_specs(read_graph(model)[0])
    assert [spec.dims for spec in specs] == [("", 3, 2), (2,)]
    feeds = make_feeds(specs, np.random.default_rng(0), Sizes(batch=5))
    assert feeds["x"].shape == (5, 3, 2)
    assert feeds["odd"].dtype == np.float32
