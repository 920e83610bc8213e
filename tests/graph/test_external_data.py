"""--external-data: the weights of an output lie where they were asked for, bit for bit."""

from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from slanc_onnx import Options, SlancError, protect_file
from slanc_onnx.graph import new_data
from slanc_onnx.graph.load import all_tensors, stays_inside
from slanc_onnx.graph.new_data import ExternalData
from slanc_onnx.options import To
from tests.places import SAMPLES

SAMPLE = SAMPLES / "llama_like.onnx"


def source_in(folder: Path, external: bool) -> Path:
    """The sample, as one file or with its weights beside it."""
    folder.mkdir()
    path = folder / "m.onnx"
    onnx.save(onnx.load(SAMPLE), path, save_as_external_data=external, location="w.data")
    return path


def written(source: Path, folder: Path, external: ExternalData, to: To | None = None) -> Path:
    folder.mkdir()
    output = folder / "out.onnx"
    options = Options(external_data=external, to=to, validate=False, estimate="weights")
    protect_file(source, output, options)
    return output


def data_files(output: Path) -> list[str]:
    return sorted(file.name for file in output.parent.iterdir() if file != output)


def constants(output: Path) -> dict[str, bytes]:
    tensors = onnx.load(output).graph.initializer
    return {t.name: numpy_helper.to_array(t).tobytes() for t in tensors}


@pytest.mark.parametrize("to", [None, "fp16"])
@pytest.mark.parametrize("before", [True, False])
def test_weights_lie_where_they_were_asked_for(tmp_path: Path, before: bool, to: To | None) -> None:
    source = source_in(tmp_path / "in", before)
    found = {how: written(source, tmp_path / how, how, to) for how in ("auto", "yes", "no")}
    assert data_files(found["no"]) == []
    assert len(data_files(found["yes"])) == 1
    assert bool(data_files(found["auto"])) == before, "as in the input"
    whole = constants(found["no"])
    assert constants(found["yes"]) == constants(found["auto"]) == whole
    if to is None:
        assert {n: whole[n] for n in constants(source)} == constants(source), "already so: kept"


def test_small_tensors_and_those_of_nodes_stay_in_the_file(tmp_path: Path) -> None:
    source = source_in(tmp_path / "in", False)
    bare = onnx.load(written(source, tmp_path / "out", "yes"), load_external_data=False)
    kept = [t for t in all_tensors(bare) if t.data_location != onnx.TensorProto.EXTERNAL]
    assert kept and all(len(t.raw_data) < new_data.LEAST for t in kept)


def test_what_is_too_large_for_one_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_in(tmp_path / "in", True)
    monkeypatch.setattr("slanc_onnx.graph.save.LARGEST", 1 << 16)
    with pytest.raises(SlancError, match="need external data"):
        written(source, tmp_path / "out", "no")
    assert list((tmp_path / "out").iterdir()) == []


def test_integers_of_another_file_come_along(tmp_path: Path) -> None:
    ids = numpy_helper.from_array(np.arange(4096, dtype=np.int64), "ids")
    model = onnx.load(SAMPLE)
    model.graph.initializer.append(ids)
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "m.onnx"
    onnx.save(model, source, save_as_external_data=True, location="w.data")
    output = written(source, tmp_path / "out", "auto", "fp16")
    (name,) = data_files(output)
    assert name != "w.data", "the FP32 weights are not copied"
    assert constants(output)["ids"] == np.arange(4096, dtype=np.int64).tobytes()


@pytest.mark.parametrize("to", [None, "fp16"])
@pytest.mark.parametrize("how", ["auto", "yes", "no"])
def test_what_the_file_says_of_a_tensor_stays(
    tmp_path: Path, how: ExternalData, to: To | None
) -> None:
    model = onnx.load(SAMPLE)
    for tensor in model.graph.initializer:
        tensor.doc_string = f"about {tensor.name}"
        tensor.metadata_props.add(key="of", value=tensor.name)
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "m.onnx"
    onnx.save(model, source)
    names = {tensor.name for tensor in model.graph.initializer}
    found = onnx.load(written(source, tmp_path / "out", how, to)).graph.initializer
    kept = {t.name: (t.doc_string, t.metadata_props[0].value) for t in found if t.name in names}
    assert kept and kept == {name: (f"about {name}", name) for name in kept}


@pytest.mark.parametrize("kind", [PurePosixPath, PureWindowsPath])
def test_where_a_location_leads_is_told_by_its_name(kind: type[PurePath]) -> None:
    for inside in ("a.data", "sub/a.data", "sub/../a.data", "./a.data"):
        assert stays_inside(inside, kind)
    for outside in ("/a.data", "../a.data", "sub/../../a.data", "sub/../../in/a.data"):
        assert not stays_inside(outside, kind)
    for on_windows in (r"C:\a.data", "C:a.data", r"\a.data", r"..\a.data", r"sub\..\..\a.data"):
        assert stays_inside(on_windows, kind) == (kind is PurePosixPath)
