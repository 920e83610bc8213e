"""Outputs of inline files: inline again, of the same bytes as protobuf writes."""

import errno
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from slanc_onnx.errors import SlancError
from slanc_onnx.graph.inline import LEAST
from slanc_onnx.graph.load import all_tensors, load_model
from slanc_onnx.graph.save import Draft

SIZE = LEAST // 4 + 8


def values(seed: int) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)


def saved(folder: Path, external: bool = False) -> Path:
    """model.onnx with the weights a, b and c; if asked for, c lies in a data file."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = [numpy_helper.from_array(values(i), name) for i, name in enumerate("abc")]
    if external:
        (folder / "w.bin").write_bytes(weights[2].raw_data)
        weights[2].ClearField("raw_data")
        weights[2].data_location = TensorProto.EXTERNAL
        weights[2].external_data.add(key="location", value="w.bin")
    nodes = [helper.make_node("Sum", ["a", "b", "c"], ["y"])]
    info = helper.make_tensor_value_info("y", TensorProto.FLOAT, [SIZE])
    model = helper.make_model(helper.make_graph(nodes, "g", [], [info], weights))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def rewritten(source: Path, output: Path) -> None:
    """Rename the node, and let b and c have other values."""
    model = load_model(source)
    with Draft(source, output, model) as draft:
        model.graph.node[0].name = "n"
        for seed, tensor in enumerate(model.graph.initializer):
            if seed:
                assert draft.new_data().put(tensor, partial(values, 10 + seed))
        draft.write(model)
        draft.keep()


def expected(source: Path) -> onnx.ModelProto:
    """The same, in memory."""
    model = onnx.load(source)
    model.graph.node[0].name = "n"
    for seed in (1, 2):
        name = "abc"[seed]
        new = numpy_helper.from_array(values(10 + seed), name)
        model.graph.initializer[seed].CopyFrom(new)
    return model


def refused(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    """A system that has none of these calls for these files."""

    def no(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "no")

    for call in calls:
        monkeypatch.setattr(f"slanc_onnx.graph.copying.os.{call}", no, raising=False)


@pytest.mark.parametrize("calls", [[], ["copy_file_range"], ["copy_file_range", "sendfile"]])
@pytest.mark.parametrize("at_once", [1000, 1 << 26])
@pytest.mark.parametrize("output", ["out.onnx", "new/out.onnx"])
def test_an_output_has_the_bytes_that_protobuf_writes(
    tmp_path: Path, calls: list[str], at_once: int, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(tmp_path / "in")
    before = source.read_bytes()
    refused(monkeypatch, calls)
    monkeypatch.setattr("slanc_onnx.graph.copying.COPIED_AT_ONCE", at_once)
    rewritten(source, source.parent / output)
    assert (source.parent / output).read_bytes() == expected(source).SerializeToString()
    assert source.read_bytes() == before
    names = {path.name for path in source.parent.rglob("*") if path.is_file()}
    assert names == {"model.onnx", "out.onnx"}


def test_a_system_without_the_calls_copies_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in ("copy_file_range", "sendfile"):
        monkeypatch.delattr(f"slanc_onnx.graph.copying.os.{call}", raising=False)
    source = saved(tmp_path)
    rewritten(source, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == expected(source).SerializeToString()


def test_what_is_external_stays_external(tmp_path: Path) -> None:
    source = saved(tmp_path, external=True)
    rewritten(source, tmp_path / "out.onnx")
    model = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    kinds = {t.name: t.data_location == TensorProto.EXTERNAL for t in all_tensors(model)}
    assert kinds == {"a": False, "b": False, "c": True}
    whole = onnx.load(tmp_path / "out.onnx")
    found = [numpy_helper.to_array(t) for t in whole.graph.initializer]
    for values_found, seed in zip(found, (0, 11, 12), strict=True):
        assert np.array_equal(values_found, values(seed))


def test_an_output_that_protobuf_could_not_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(tmp_path)
    size = len(expected(source).SerializeToString())
    monkeypatch.setattr("slanc_onnx.graph.save.LARGEST", size)
    rewritten(source, tmp_path / "out.onnx")
    monkeypatch.setattr("slanc_onnx.graph.save.LARGEST", size - 1)
    with pytest.raises(SlancError, match=r"cannot be written as one file .*external data"):
        rewritten(source, tmp_path / "other.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "out.onnx"}


def test_an_input_that_was_cut_short_meanwhile_ends_with_a_sentence(tmp_path: Path) -> None:
    source, output = saved(tmp_path), tmp_path / "out.onnx"
    model = load_model(source)
    with Draft(source, output, model) as draft, source.open("r+b") as file:
        file.truncate(source.stat().st_size - 2 * LEAST)
        with pytest.raises(SlancError, match="cut short"):
            draft.write(model)
    assert not output.exists()
