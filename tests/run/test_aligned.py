"""Weights of inline files on ONNX Runtime: as if they were in memory, at whatever byte they lie."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import ref

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from slanc_onnx.graph import is_inside, load_model
from slanc_onnx.graph.load import all_tensors
from slanc_onnx.run import Session
from slanc_onnx.run.aligned import ALIGNED, weights_kept, with_weights_in_place

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 64])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
RNG = np.random.default_rng(0)
FED = {"x": RNG.standard_normal((4, 64)).astype(np.float32)}
node = helper.make_node


def weight(name: str = "w", dtype: Any = np.float32) -> TensorProto:
    return numpy_helper.from_array(RNG.standard_normal((64, 64)).astype(dtype), name)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    *weights: TensorProto,
    functions: Sequence[onnx.FunctionProto] = (),
    sparse: Sequence[onnx.SparseTensorProto] = (),
) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
    graph = helper.make_graph(nodes, "g", [X], [Y], weights, sparse_initializer=sparse)
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=9)


def constant(name: str) -> onnx.NodeProto:
    return node("Constant", [], [name], value=weight(""))


def branch(name: str, *, told: bool) -> onnx.GraphProto:
    """A graph with a large weight called w, an initializer or of a Constant."""
    out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    nodes = [node("MatMul", ["x", "w"], [name])]
    if told:
        return helper.make_graph([constant("w"), *nodes], name, [], [out])
    return helper.make_graph(nodes, name, [], [out], [weight()])


def branches(taken: bool) -> onnx.ModelProto:
    """Branches whose weights have the same name."""
    graphs = {"then_branch": branch("t", told=False), "else_branch": branch("e", told=True)}
    return model_of(
        [node("If", ["c"], ["y"], **graphs)], numpy_helper.from_array(np.array(taken), "c")
    )


SUMS = [
    node("ReduceMean", ["w"], ["mean"]),
    node("Softmax", ["w"], ["soft"]),
    node("MatMul", ["x", "soft"], ["h"]),
    node("Gemm", ["h", "w"], ["z"], transB=1),
    node("Add", ["z", "mean"], ["y"]),
]
SPARSE = helper.make_sparse_tensor(
    numpy_helper.from_array(RNG.standard_normal(2000).astype(np.float32), "w"),
    numpy_helper.from_array(np.arange(2000), ""),
    [64, 64],
)
FUNCTION = helper.make_function(
    "my",
    "F",
    ["x"],
    ["y"],
    [constant("w"), node("MatMul", ["x", "w"], ["y"])],
    [helper.make_opsetid("", 18)],
)
MODELS = {
    "sums of a weight": model_of(SUMS, weight()),
    "a constant": model_of([constant("w"), *SUMS]),
    "one branch": branches(True),
    "the other": branches(False),
    "a function": model_of([node("F", ["x"], ["y"], domain="my")], functions=[FUNCTION]),
    "sparse": model_of(SUMS, sparse=[SPARSE]),
    "half": model_of([node("Cast", ["half"], ["w"], to=1), *SUMS], weight("half", np.float16)),
    "brain": model_of(
        [node("Cast", ["half"], ["w"], to=1), *SUMS], weight("half", ml_dtypes.bfloat16)
    ),
    "bytes": model_of([node("Cast", ["half"], ["w"], to=1), *SUMS], weight("half", np.int8)),
}


# ONNX Runtime 1.20 does not look for data files in a folder: it gets such models whole.
TAKES_FOLDER = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 21)
with_folder = pytest.mark.skipif(not TAKES_FOLDER, reason="ONNX Runtime 1.20 takes no folder")


def taken_in(model: onnx.ModelProto, shift: int, folder: Path) -> onnx.ModelProto:
    """The skeleton of a model in a file, a number of bytes further on."""
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    moved.producer_name = "p" * (100 + shift)
    (folder / "model.onnx").write_bytes(moved.SerializeToString())
    found = load_model(folder / "model.onnx")
    assert any(map(is_inside, all_tensors(found)))
    return found


@pytest.mark.parametrize("optimised", [False, True])
@pytest.mark.parametrize("title", MODELS)
def test_outputs_are_those_of_the_model_in_memory(
    title: str, optimised: bool, tmp_path: Path
) -> None:
    model = MODELS[title]
    wanted = Session(model, None, optimised=optimised).run(FED)["y"]
    for shift in (0, 1, 2, 4, 7):
        found = taken_in(model, shift, tmp_path)
        before = found.SerializeToString()
        made: NDArray[Any] = Session(found, tmp_path, optimised=optimised).run(FED)["y"]
        assert np.array_equal(made, wanted), shift
        assert found.SerializeToString() == before


@pytest.mark.parametrize("title", MODELS)
def test_weights_at_odd_bytes_give_the_same_but_for_the_last_bits(
    title: str, tmp_path: Path
) -> None:
    wanted = Session(MODELS[title], None).run(FED)["y"]
    for shift in (0, 1, 2, 4, 7):
        found = taken_in(MODELS[title], shift, tmp_path)
        assert not with_weights_in_place(found, tmp_path, at_odd_bytes=True).weights
        made = Session(found, tmp_path, at_odd_bytes=True).run(FED)["y"]
        np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("title", MODELS)
def test_an_old_runtime_gets_the_whole_model(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime 1.20 is not told where data files lie."""
    monkeypatch.setattr("onnxruntime.__version__", "1.20.1")
    placed = with_weights_in_place(taken_in(MODELS[title], 3, tmp_path), tmp_path)
    assert not placed.weights
    assert all(t.data_location != TensorProto.EXTERNAL for t in all_tensors(placed.model))
    wanted = Session(MODELS[title], None).run(FED)["y"]
    assert np.array_equal(Session(placed.model, None).run(FED)["y"], wanted)


def linked(folder: Path) -> Path:
    """A link to model.onnx from another folder, as download caches keep models."""
    (folder / "snapshot").mkdir(exist_ok=True)
    link = folder / "snapshot" / "link.onnx"
    link.unlink(missing_ok=True)
    link.symlink_to("../model.onnx")
    return link


@pytest.mark.parametrize("title", MODELS)
def test_a_model_behind_a_link_runs_as_well(title: str, tmp_path: Path) -> None:
    """ONNX Runtime follows no link that leads out of a folder."""
    taken_in(MODELS[title], 1, tmp_path)
    link = linked(tmp_path)
    found = load_model(link)
    assert any(map(is_inside, all_tensors(found)))
    wanted = Session(MODELS[title], None).run(FED)["y"]
    assert np.array_equal(Session(found, link.parent).run(FED)["y"], wanted)


@with_folder
def test_a_link_beside_a_data_file_runs_as_well(tmp_path: Path) -> None:
    model = model_of([node("Add", ["v", "w"], ["v+w"]), node("MatMul", ["x", "v+w"], ["y"])])
    weights = weight("v"), weight("w")
    model.graph.initializer.extend(weights)
    wanted = Session(model, None).run(FED)["y"]
    external = model.graph.initializer[1]
    external.ClearField("raw_data")
    external.data_location = TensorProto.EXTERNAL
    external.external_data.add(key="location", value="w.bin")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    link = linked(tmp_path)
    (link.parent / "w.bin").write_bytes(weights[1].raw_data)
    assert np.array_equal(Session(load_model(link), link.parent).run(FED)["y"], wanted)


@with_folder
def test_weights_begin_where_memory_does_and_are_those_of_the_file(tmp_path: Path) -> None:
    found = taken_in(MODELS["sums of a weight"], 3, tmp_path)
    placed = with_weights_in_place(found, tmp_path)
    assert placed.model is found
    assert placed.weights["w"].ctypes.data % ALIGNED == 0
    (original,) = MODELS["sums of a weight"].graph.initializer
    assert np.array_equal(placed.weights["w"], numpy_helper.to_array(original))


def test_a_model_without_such_weights_is_run_as_it_is(tmp_path: Path) -> None:
    model = MODELS["sums of a weight"]
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin")
    for kept in (model, load_model(tmp_path / "m.onnx")):
        placed = with_weights_in_place(kept, tmp_path)
        assert placed.model is kept and placed.folder == tmp_path and not placed.weights


@with_folder
def test_weights_are_read_once_for_all_sessions_on_files_that_hold_the_same(tmp_path: Path) -> None:
    folders = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    for folder in folders:
        folder.mkdir()
    model = model_of([node("MatMul", ["x", "w"], ["y"])], weight())
    other = onnx.ModelProto()
    other.CopyFrom(model)
    (weight_of_other,) = other.graph.initializer
    changed = numpy_helper.to_array(weight_of_other).copy()
    changed.reshape(-1)[-1] += 1
    weight_of_other.CopyFrom(numpy_helper.from_array(changed, "w"))
    models = model, model, other
    files = [taken_in(m, i, f) for i, (m, f) in enumerate(zip(models, folders, strict=True), 3)]
    with weights_kept():
        one, again, moved, differs = (
            with_weights_in_place(files[i], folders[i]).weights["w"] for i in (0, 0, 1, 2)
        )
        assert again is one
        assert moved is one
        assert np.array_equal(differs, changed)
        alive = ref(one)
        del one, again, moved
        gc.collect()
        assert alive() is not None
    gc.collect()
    assert alive() is None
