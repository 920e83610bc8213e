"""Files: bad ones are refused with a sentence, good ones are read in place and written safely."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from slanc_onnx.errors import SlancError
from slanc_onnx.graph.load import load_model, read_tensor
from slanc_onnx.graph.save import Draft
from slanc_onnx.progress import Progress, no_progress

TEXT = """
<ir_version: 8, opset_import: ["": 17]>
main (float[4] x) => (float[4] y) { y = Add(x, w) }
"""
WEIGHT = np.arange(4, dtype=np.float32)


def saved(
    folder: Path,
    location: str = "weights.bin",
    offset: int | None = None,
    length: int | None = None,
) -> Path:
    """model.onnx in the folder, its one weight in a data file called `location`."""
    model = onnx.parser.parse_model(TEXT)
    weight = numpy_helper.from_array(WEIGHT, "w")
    external_data_helper.set_external_data(weight, location, offset, length)
    weight.ClearField("raw_data")
    model.graph.initializer.append(weight)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(WEIGHT.tobytes())
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def save_model(
    model: onnx.ModelProto, source: Path, output: Path, progress: Progress = no_progress
) -> None:
    with Draft(source, output, model) as draft:
        draft.write(model, progress)
        draft.keep()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlancError, match="no such file"):
        load_model(tmp_path / "no.onnx")
    with pytest.raises(SlancError, match="is a folder"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no model", b"\x08\x08", b"\xff" * 99])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(SlancError, match=r"bad\.onnx: (not an ONNX model|holds no graph)"):
        load_model(tmp_path / "bad.onnx")


def test_a_model_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path).read_bytes()
    assert len(load_model(tmp_path / "model.onnx").graph.node) == 1
    for length in range(len(whole)):
        (tmp_path / "model.onnx").write_bytes(whole[:length])
        with pytest.raises(SlancError):
            load_model(tmp_path / "model.onnx")


def test_missing_external_data_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(SlancError, match=r"'w': external data file 'weights\.bin' is missing"):
        load_model(path)


@pytest.mark.parametrize("location", ["../weights.bin", "a/../../weights.bin", "/etc/hosts", ""])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    with pytest.raises(SlancError, match=r"leaves the model's folder"):
        load_model(saved(tmp_path / "inner", location))


@pytest.mark.parametrize(("offset", "length"), [(None, 17), (8, 16), (17, None), (4096, None)])
def test_a_data_file_that_is_too_short_is_refused(
    tmp_path: Path, offset: int | None, length: int | None
) -> None:
    with pytest.raises(SlancError, match="has 16 bytes"):
        load_model(saved(tmp_path, offset=offset, length=length))


def test_a_weight_with_less_data_than_its_shape_needs_is_refused(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path, offset=8))
    with pytest.raises(SlancError, match=r"8 bytes of data for shape \[4\]"):
        read_tensor(model.graph.initializer[0], tmp_path)


def test_an_external_weight_without_a_folder_is_refused(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path))
    with pytest.raises(SlancError, match="folder is unknown"):
        read_tensor(model.graph.initializer[0], None)


TYPES = [np.float32, np.float16, np.float64, np.int8, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]


@pytest.mark.parametrize("dtype", TYPES)
def test_a_weight_is_read_inline_and_from_its_file(tmp_path: Path, dtype: type) -> None:
    values: NDArray[Any] = np.arange(-6, 6).reshape(3, 4).astype(dtype)
    tensor = numpy_helper.from_array(values, "w")
    inline = read_tensor(tensor, None)
    (tmp_path / "data").write_bytes(b"\0" * 5000 + values.tobytes())
    external_data_helper.set_external_data(tensor, "data", offset=5000, length=values.nbytes)
    tensor.ClearField("raw_data")
    mapped = read_tensor(tensor, tmp_path)
    for read in (inline, mapped):
        assert (read.dtype, read.shape) == (values.dtype, values.shape)
        assert np.array_equal(read, values)
        assert not read.flags.owndata
        assert not read.flags.writeable


@pytest.mark.parametrize("data_type", [TensorProto.INT4, TensorProto.UINT4])
def test_packed_weights_are_unpacked(tmp_path: Path, data_type: int) -> None:
    tensor = helper.make_tensor("w", data_type, [3], b"\x21\x03", raw=True)
    (tmp_path / "data").write_bytes(tensor.raw_data)
    assert read_tensor(tensor, None).astype(int).tolist() == [1, 2, 3]
    external_data_helper.set_external_data(tensor, "data")
    tensor.ClearField("raw_data")
    assert read_tensor(tensor, tmp_path).astype(int).tolist() == [1, 2, 3]


def test_typed_fields_and_empty_weights_are_read(tmp_path: Path) -> None:
    typed = helper.make_tensor("w", TensorProto.FLOAT16, [2], [1.5, -2.0])
    assert read_tensor(typed, None).tolist() == [1.5, -2.0]
    empty = numpy_helper.from_array(np.zeros((0, 3), np.float32), "w")
    (tmp_path / "data").write_bytes(b"")
    external_data_helper.set_external_data(empty, "data", length=0)
    assert read_tensor(empty, tmp_path).shape == (0, 3)


def identity(path: Path) -> tuple[int, int, bytes]:
    return path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()


def test_an_output_beside_the_input_shares_its_data(tmp_path: Path) -> None:
    source = saved(tmp_path)
    before = identity(tmp_path / "weights.bin"), identity(source)
    save_model(load_model(source), source, tmp_path / "out.onnx")
    assert before == (identity(tmp_path / "weights.bin"), identity(source))
    (weight,) = onnx.load(tmp_path / "out.onnx").graph.initializer
    assert np.array_equal(numpy_helper.to_array(weight), WEIGHT)
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "out.onnx", "weights.bin"]


def test_an_output_elsewhere_gets_a_copy_of_the_data(tmp_path: Path) -> None:
    source, output = saved(tmp_path / "a"), tmp_path / "b" / "c" / "out.onnx"
    for _ in range(2):  # again: equal data is there already
        save_model(load_model(source), source, output)
    assert identity(output.parent / "weights.bin")[0] != identity(tmp_path / "a/weights.bin")[0]
    assert sorted(os.listdir(output.parent)) == ["out.onnx", "weights.bin"]
    onnx.load(output)


@pytest.mark.parametrize("content", [b"other", bytes(16)])
def test_other_data_in_the_way_is_not_overwritten(tmp_path: Path, content: bytes) -> None:
    source = saved(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/weights.bin").write_bytes(content)
    for folder in (tmp_path / "a", tmp_path / "b"):
        os.utime(folder / "weights.bin", (0, 0))  # equal sizes and times make no equal files
    with pytest.raises(SlancError, match="in the way"):
        save_model(load_model(source), source, tmp_path / "b/out.onnx")
    assert os.listdir(tmp_path / "b") == ["weights.bin"]


def to_the_input(folder: Path) -> Path:
    return folder / "model.onnx"


def to_a_link_to_the_input(folder: Path) -> Path:
    (folder / "link.onnx").symlink_to(folder / "model.onnx")
    return folder / "link.onnx"


def to_the_data(folder: Path) -> Path:
    return folder / "x" / ".." / "weights.bin"


def to_the_name_of_the_data_elsewhere(folder: Path) -> Path:
    return folder / "elsewhere" / "weights.bin"


def to_a_folder(folder: Path) -> Path:
    return folder


@pytest.mark.parametrize(
    "output",
    [
        to_the_input,
        to_a_link_to_the_input,
        to_the_data,
        to_the_name_of_the_data_elsewhere,
        to_a_folder,
    ],
)
def test_an_output_that_destroys_something_is_refused(
    tmp_path: Path, output: Callable[[Path], Path]
) -> None:
    source = saved(tmp_path)
    (tmp_path / "x").mkdir()
    before = identity(source), identity(tmp_path / "weights.bin")
    with pytest.raises(SlancError, match=r"is (the input itself|the model's data file|a folder)"):
        save_model(load_model(source), source, output(tmp_path))
    assert before == (identity(source), identity(tmp_path / "weights.bin"))


def test_an_output_that_is_the_data_file_in_a_folder_below_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/weights.bin").write_bytes(WEIGHT.tobytes())
    source = saved(tmp_path, "data/weights.bin")
    with pytest.raises(SlancError, match="is the model's data file"):
        save_model(load_model(source), source, tmp_path / "data/weights.bin")
    assert (tmp_path / "data/weights.bin").read_bytes() == WEIGHT.tobytes()


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_what_was_there(
    tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = saved(tmp_path), tmp_path / "out.onnx"
    output.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("slanc_onnx.graph.save.os.replace", fail)
    with pytest.raises((SlancError, KeyboardInterrupt)):
        save_model(load_model(source), source, output)
    assert output.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "out.onnx", "weights.bin"]


def test_a_written_file_has_the_permissions_of_any_other_file(tmp_path: Path) -> None:
    source = saved(tmp_path)
    save_model(load_model(source), source, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").stat().st_mode == source.stat().st_mode


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_takes_back_the_data_that_it_brought(
    tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not data that was there before."""
    source, there, empty = saved(tmp_path / "in"), tmp_path / "there", tmp_path / "empty"
    for folder in (there, empty):
        folder.mkdir()
    (there / "weights.bin").write_bytes(WEIGHT.tobytes())

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("slanc_onnx.graph.save.Draft._unused_afterwards", fail)
    for folder, left in ((there, ["weights.bin"]), (empty, [])):
        with pytest.raises((SlancError, KeyboardInterrupt)):
            save_model(load_model(source), source, folder / "out.onnx")
        assert os.listdir(folder) == left


@pytest.mark.parametrize("refused", [None, errno.EXDEV])
def test_data_is_copied_in_pieces_and_tells_how_far_it_is(
    tmp_path: Path, refused: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the kernel, and where it cannot."""
    monkeypatch.setattr("slanc_onnx.graph.copying.COPIED_AT_ONCE", 5)
    if refused is not None:

        def fail(*_: object) -> int:
            raise OSError(refused, "no")

        monkeypatch.setattr("slanc_onnx.graph.copying.os.copy_file_range", fail)
    told: list[tuple[str, float]] = []
    source = saved(tmp_path / "in")
    output = tmp_path / "out" / "model.onnx"
    save_model(
        load_model(source), source, output, progress=lambda what, done: told.append((what, done))
    )
    assert (tmp_path / "out/weights.bin").read_bytes() == WEIGHT.tobytes()
    assert [done for _, done in told] == [5 / 16, 10 / 16, 15 / 16, 1.0]
    assert all(what.startswith("copying data: ") and "GB/s" in what for what, _ in told)


def test_a_copy_that_fails_for_another_reason_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("slanc_onnx.graph.copying.os.copy_file_range", full)
    source = saved(tmp_path / "in")
    with pytest.raises(SlancError, match="No space left"):
        save_model(load_model(source), source, tmp_path / "out" / "model.onnx")
    assert os.listdir(tmp_path) == ["in"]
