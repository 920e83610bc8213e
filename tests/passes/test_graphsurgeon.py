"""The graphsurgeon pass edits a graph as the library edits its export, and a second one sees it."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, numpy_helper

import slanc_onnx
from passes.graphsurgeon import protect
from slanc_onnx import Accelerator, Options, SlancError
from slanc_onnx.options import ApplyRule, Merge
from tests.models.every_edit import IDS, every_edit
from tests.norms.test_heads import written
from tests.oracles.proto_diff import differences
from tests.oracles.unoptimised import different, run
from tests.places import SAMPLES

BOTH = pytest.mark.parametrize("apply", ["div", "fold"])
TOKENS = np.arange(12).reshape(2, 6) % 2  # as types of tokens too

# A function with a norm, one without, and a branch on each side that reads one gamma.
SHARED = """
<ir_version: 10, opset_import: ["": 17, "local": 1], producer_name: "exporter">
main (float[2, 4] x, bool deep) => (float[2, 4] y)
<float[4, 4] w = {900,1,2,3, 4,-900,6,7, 8,9,900,5, 4,3,2,-900}, float[4] g = {1, 2, 3, 4}>
{
    h = MatMul(x, w)
    n = local.norm (h, g)
    m = MatMul(n, w)
    [choice] c = If (deep) <
        then_branch = a () => (float[2, 4] o) {
            [left] p = LayerNormalization<axis = -1>(m, g) o = MatMul(p, w)
        },
        else_branch = b () => (float[2, 4] o) {
            [right] q = LayerNormalization<axis = -1>(m, g) o = Add(q, g)
        }
    >
    y = local.twice (c)
}
<domain: "local", opset_import: ["": 17]>
norm (a, g) => (b) { b = LayerNormalization<axis = -1>(a, g) }
<domain: "local", opset_import: ["": 17], doc_string: "is kept">
twice (a) => (b) { b = Add(a, a) }
"""


def by_weights(apply: ApplyRule, **more: Any) -> Options:
    return Options(estimate="weights", apply=apply, **more)


def imported(model: onnx.ModelProto) -> gs.Graph:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return gs.import_onnx(copy)


def exported(graph: gs.Graph) -> onnx.ModelProto:
    model: onnx.ModelProto = gs.export_onnx(graph)
    model.ir_version = min(model.ir_version, 10)  # that of onnx is newer than what runtimes take
    return model


def of_text(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def values_of(graph: gs.Graph) -> dict[str, Any]:
    """What each constant of the main graph holds, without loading it."""
    found = graph.tensors().values()
    return {t.name: t._values for t in found if isinstance(t, gs.Constant)}


@BOTH
@pytest.mark.parametrize("name", ["bert_like", "llama_like", "sandwich_like"])
def test_a_sample_model_becomes_what_the_library_makes_of_it(name: str, apply: ApplyRule) -> None:
    model = onnx.load(SAMPLES / f"{name}.onnx")
    graph, options = imported(model), Options(apply=apply, certify="off")
    library = exported(imported(model))
    decided = protect(graph, options)
    assert decided == slanc_onnx.protect(library, options)
    assert "scaled" in {d.status for d in decided}
    scaled = exported(graph)
    changed = [f for f in differences(library, scaled) if "metadata_props" not in f]
    # Only graphsurgeon's own habits: nodes' names have the notes, and constants that nothing reads
    # are gone.
    assert all(
        ".name: " in f or f.endswith(("]: removed", "initializer: reordered")) or "value_info[" in f
        for f in changed
    ), changed
    feeds = {i.name: TOKENS for i in model.graph.input}
    assert different(run(model, **feeds), run(scaled, **feeds)) == []


# Notes of an earlier run are read alike in any model: one in the suite, the others are slow.
NAMES, ALL = ["bert_like", "llama_like", "sandwich_like"], ("all",)
AFTER = [pytest.param(name, (), marks=pytest.mark.slow) for name in NAMES[1:]]


@pytest.mark.parametrize(("name", "first"), [(NAMES[0], ()), *AFTER, *((n, ALL) for n in NAMES)])
def test_parts_of_norms_are_merged_as_the_library_does(name: str, first: tuple[Merge, ...]) -> None:
    """Also those of norms that an earlier run scaled, so that none has the status "scaled"."""
    model = onnx.load(SAMPLES / f"{name}.onnx")
    graph, library = imported(model), exported(imported(model))
    every: tuple[Merge, ...] = ("all",)
    given = [Options(apply="fold", merge=merge, certify="off") for merge in (first, every)]
    for options in given:
        assert protect(graph, options) == slanc_onnx.protect(library, options)
    merged, feeds = exported(graph), {i.name: TOKENS for i in model.graph.input}
    assert different(run(library, **feeds), run(merged, **feeds)) == []
    assert different(run(model, **feeds), run(merged, **feeds)) != []
    assert sorted(n.op_type for n in merged.graph.node) == sorted(
        n.op_type for n in library.graph.node
    )
    protect(graph, given[1])
    assert exported(graph).SerializeToString() == merged.SerializeToString()


@BOTH
def test_a_second_run_changes_nothing_even_after_an_export(apply: ApplyRule) -> None:
    graph, options = imported(every_edit()), by_weights(apply)
    first = protect(graph, options)
    assert {d.status for d in first} == {"scaled"}
    once = exported(graph).SerializeToString()
    again = gs.import_onnx(onnx.ModelProto.FromString(once))
    names = [d.norm.name for d in first]
    for seen in (graph, again):
        second = protect(seen, options)
        assert {d.status for d in second} == {"unchanged"}
        assert [d.norm.name for d in second] == names  # without the notes
        assert exported(seen).SerializeToString() == once


SPELLED: dict[str, dict[str, Any]] = {
    "div": {},
    "fold": {"apply": "fold"},
    "merged": {"apply": "fold", "merge": ["all"]},
    "paper": {"scale": "paper"},
    "by hand": {"set_scale": {"/encoder.layer.0/LayerNormalization": 2.0**5}},
}


@pytest.mark.parametrize("how", SPELLED)
def test_the_command_finds_what_is_done_and_changes_nothing(how: str, tmp_path: Path) -> None:
    graph = gs.import_onnx(onnx.load(SAMPLES / "bert_like.onnx"))
    first = protect(graph, Options(estimate="weights", **SPELLED[how]))
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    onnx.save(exported(graph), once)
    more = {key: value for key, value in SPELLED[how].items() if key != "set_scale"}
    options = Options(estimate="weights", validate=False, **more)
    second = slanc_onnx.protect_file(once, twice, options).norms
    assert once.read_bytes() == twice.read_bytes()
    assert {d.status for d in second} == {"unchanged"}
    assert [d.scale for d in second] == [d.scale for d in first]
    certified = [
        [d.certificate is not None and d.certificate.certified for d in each]
        for each in (first, second)
    ]
    assert certified[0] == certified[1]


def test_the_command_takes_out_scales_for_another_target(tmp_path: Path) -> None:
    graph = gs.import_onnx(onnx.load(SAMPLES / "bert_like.onnx"))
    protect(graph, by_weights("div"))
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    onnx.save(exported(graph), once)
    target = slanc_onnx.targets.target("fp16-fp32")
    options = by_weights("div", accelerator=target, validate=False)
    found = slanc_onnx.protect_file(once, twice, options).norms
    assert {d.status for d in found} == {"scaled"}
    nodes = [onnx.load(file).graph.node for file in (once, twice)]
    assert len(nodes[0]) == len(nodes[1])
    assert not any("?slanc." in node.name for node in nodes[1])


@BOTH
@pytest.mark.parametrize("deep", [True, False])
def test_every_edit_gives_the_same_bits(apply: ApplyRule, deep: bool) -> None:
    graph = imported(every_edit())
    protect(graph, by_weights(apply))
    scaled = exported(graph)
    onnx.checker.check_model(scaled)
    feeds = {"ids": IDS, "deep": np.array(deep)}
    assert different(run(every_edit(), **feeds), run(scaled, **feeds)) == []


@BOTH
@pytest.mark.parametrize("deep", [True, False])
def test_functions_and_branches_that_share_a_weight(apply: ApplyRule, deep: bool) -> None:
    model = of_text(SHARED)
    graph = imported(model)
    decided = protect(graph, by_weights(apply))
    assert [d.status for d in decided] == ["scaled"] * 3
    assert [(f.name, f.doc_string) for f in graph.functions] == [("twice", "is kept")]
    scaled = exported(graph)
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    feeds = {"x": x, "deep": np.array(deep)}
    assert different(run(model, **feeds), run(scaled, **feeds)) == []
    seen = protect(gs.import_onnx(scaled), by_weights(apply))
    assert {d.status for d in seen} == {"unchanged"}


def test_norms_inside_an_attention_op_are_written_out() -> None:
    model = written()
    graph = imported(model)
    scaled = [d for d in protect(graph, by_weights("div")) if d.status == "scaled"]
    assert scaled
    library = exported(imported(model))
    slanc_onnx.protect(library, by_weights("div"))
    ops = [node.op_type for node in library.graph.node]
    assert [node.op for node in graph.nodes] == ops
    assert "slanc.scale" in "".join(node.name for node in graph.nodes)


@BOTH
def test_what_stays_is_the_same_object_and_is_not_read(apply: ApplyRule) -> None:
    graph = imported(every_edit())
    nodes, tensors = list(graph.nodes), dict(graph.tensors())
    outputs, before = list(graph.outputs), values_of(graph)
    protect(graph, by_weights(apply))
    assert all(any(node is kept for kept in graph.nodes) for node in nodes)
    now = graph.tensors()
    assert all(now[name] is tensor for name, tensor in tensors.items() if name in now)
    assert all(new is old for new, old in zip(graph.outputs, outputs, strict=True))
    held = values_of(graph)
    divided = {name for name in before.keys() & held if before[name] is not held[name]}
    assert divided == ({"table", "bias"} if apply == "fold" else set())
    for node in graph.nodes:  # both ends of each edge know of it
        assert all(any(node is reader for reader in t.outputs) for t in node.inputs if t.name)
        assert all([node] == list(t.inputs) for t in node.outputs if t.name)


def test_new_tensors_have_the_type_and_shape_of_what_they_scale() -> None:
    graph = imported(every_edit())
    protect(graph, by_weights("div"))
    total = graph.tensors()["sum"]
    assert [node.op for node in total.inputs] == ["Mul"]
    inner = total.inputs[0].inputs[0]
    assert [node.name.partition("?")[0] for node in inner.inputs] == ["second"]
    scaled = graph.tensors()["h/slanc"]
    assert (scaled.dtype, scaled.shape) == (np.float32, [1, "rows", 4])


NOT_SCALED = {
    "no norm": "y = Relu(x)",
    "its inverse deviation is read": (
        "n, m, d = LayerNormalization<axis = -1>(x, g) y = Mul(n, d)"
    ),
}


@pytest.mark.parametrize("title", NOT_SCALED)
def test_a_graph_without_a_norm_to_scale_is_not_modified(title: str) -> None:
    graph = imported(
        of_text(f"""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[3, 4] x) => (float[3, 4] y)
        <float[4] g = {{1, 1, 1, 1}}>
        {{ {NOT_SCALED[title]} }}""")
    )
    before, nodes = exported(graph), list(graph.nodes)
    assert "scaled" not in {d.status for d in protect(graph)}
    assert differences(before, exported(graph)) == []
    assert all(new is old for new, old in zip(graph.nodes, nodes, strict=True))


def test_a_norm_whose_best_scale_is_1_gets_a_note_behind_its_name() -> None:
    graph = imported(
        of_text("""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[3, 4] x) => (float[3, 4] y) <float[4] g = {1, 1, 1, 1}, float k = {2}>
        { u = Mul(x, k) [n] y = LayerNormalization<axis = -1>(u, g) }""")
    )
    before = exported(graph)
    protect(graph)
    name = (
        "n?slanc.scale=1.0&"
        "slanc.target=FP16%2C+sequential+sums%2C+subnormals+kept%2C+two-pass+variance"
    )
    found = differences(before, exported(graph))
    assert found == [f"graph.node[y].name: 'n' -> {name!r}"]
    assert [(d.norm.name, d.status) for d in protect(graph)] == [("n", "unchanged")]


def test_scales_for_another_target_are_taken_out() -> None:
    other = by_weights("div", accelerator=Accelerator("pairwise"))
    graph, fresh = imported(every_edit()), imported(every_edit())
    protect(graph, by_weights("div"))
    assert {d.status for d in protect(graph, other)} == {"scaled"}
    protect(fresh, other)
    assert {n.name for n in graph.nodes} == {n.name for n in fresh.nodes}
    feeds = {"ids": IDS, "deep": np.array(True)}
    assert different(run(every_edit(), **feeds), run(exported(graph), **feeds)) == []
    for node in graph.nodes:
        assert all([node] == list(t.inputs) for t in node.outputs if t.name)


def test_bad_input_leaves_the_graph_as_it_is() -> None:
    model = every_edit()
    table = np.full((8, 4), np.nan, np.float32)
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(table, "table"))
    graph = imported(model)
    before, held = exported(graph).SerializeToString(), values_of(graph)
    with pytest.raises(SlancError, match="weight 'table' holds nan"):
        protect(graph, by_weights("div"))
    with pytest.raises(SlancError, match="to 'fp16' is not done on a graph of graphsurgeon"):
        protect(graph, Options(to="fp16"))
    assert exported(graph).SerializeToString() == before
    assert all(values is held[name] for name, values in values_of(graph).items())


@BOTH
def test_external_weights_are_read_from_their_folder(tmp_path: Path, apply: ApplyRule) -> None:
    onnx.save(
        every_edit(),
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=100,
    )
    data = (tmp_path / "w.bin").read_bytes()
    graph = gs.import_onnx(onnx.load(tmp_path / "model.onnx", load_external_data=False))
    with pytest.raises(SlancError, match="folder is unknown"):
        protect(graph, by_weights(apply))
    protect(graph, by_weights(apply), folder=tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "w.bin").write_bytes(data)
    onnx.save(exported(graph), tmp_path / "out" / "model.onnx")
    bare = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    (table,) = [t for t in bare.graph.initializer if t.name == "table"]
    inside = table.data_location == TensorProto.DEFAULT
    assert inside == (apply == "fold")
    assert (tmp_path / "w.bin").read_bytes() == data
    feeds = {"ids": IDS, "deep": np.array(True)}
    scaled = onnx.load(tmp_path / "out" / "model.onnx")
    assert different(run(every_edit(), **feeds), run(scaled, **feeds)) == []


@BOTH
@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_graphs_built_in_memory(apply: ApplyRule, kind: type) -> None:
    """Constants that are arrays, without imports of opsets, and with 16 bits."""
    draw = np.random.default_rng(3)
    x = gs.Variable("x", kind, [3, 8])
    y, h = gs.Variable("y", kind, [3, 8]), gs.Variable("h")
    weight = gs.Constant("w", (draw.normal(size=(8, 8)) * 300).astype(kind))
    gamma = gs.Constant("g", np.ones(8, kind))
    graph = gs.Graph(
        [
            gs.Node("MatMul", inputs=[x, weight], outputs=[h]),
            gs.Node("LayerNormalization", attrs={"axis": -1}, inputs=[h, gamma], outputs=[y]),
        ],
        [x],
        [y],
        opset=17,
    )
    graph.ir_version = 10  # no parameter of older releases
    before = exported(graph)
    (decided,) = protect(graph, by_weights(apply))
    assert (decided.status, decided.norm.name) == ("scaled", "y")
    after = exported(graph)
    assert {t.data_type for t in after.graph.initializer} == {
        t.data_type for t in before.graph.initializer
    }
    if kind is np.float32:
        values = draw.normal(size=(3, 8)).astype(kind)
        assert different(run(before, x=values), run(after, x=values)) == []
    seen = protect(gs.import_onnx(after), by_weights(apply))
    assert [(d.status, d.norm.name) for d in seen] == [("unchanged", "y")]


def test_a_sparse_constant_beside_a_scaled_norm_stays() -> None:
    model = every_edit()
    values = onnx.helper.make_tensor("k", TensorProto.FLOAT, [2], [1.0, 2.0])
    places = onnx.helper.make_tensor("k.at", TensorProto.INT64, [2], [0, 3])
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, places, [4]))
    model.graph.node[-1].input[1] = "third"
    model.graph.node.insert(
        len(model.graph.node) - 1, onnx.helper.make_node("Add", ["n", "k"], ["third"])
    )
    graph = imported(model)
    sparse = graph.tensors()["k"]
    protect(graph, by_weights("fold"))
    assert graph.tensors()["k"] is sparse
    feeds = {"ids": IDS, "deep": np.array(True)}
    assert different(run(model, **feeds), run(exported(graph), **feeds)) == []


def test_surgery_between_two_runs_keeps_the_notes() -> None:
    graph = imported(every_edit())
    protect(graph, by_weights("fold"))
    graph = graph.copy()
    graph.cleanup().toposort().fold_constants()
    assert {d.status for d in protect(graph, by_weights("fold"))} == {"unchanged"}
