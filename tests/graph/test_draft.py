"""Drafts: names that others have are left alone, what a replaced output needed goes."""

import os
import stat
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from slanc_onnx.errors import SlancError
from slanc_onnx.graph.load import all_tensors, load_model
from slanc_onnx.graph.own_data import holds_what_it_says, is_own_name, own_name
from slanc_onnx.graph.save import Draft

TEXT = """
<ir_version: 8, opset_import: ["": 17]>
main (float[4] x) => (float[4] y) { z = Add(x, a) y = Add(z, b) }
"""


def saved(folder: Path, mode: int = 0o644) -> Path:
    """model.onnx with two weights in w.bin."""
    folder.mkdir(parents=True, exist_ok=True)
    model = onnx.parser.parse_model(TEXT)
    for name in "ab":
        model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), name))
    onnx.save(
        model, folder / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    (folder / "w.bin").chmod(mode)
    return folder / "model.onnx"


def fold(draft: Draft, model: onnx.ModelProto, value: float) -> None:
    """Give the first weight another value, in the output's own data."""
    own = draft.own_data()
    offset, length = own.add(np.full(4, value, np.float32))
    tensor = model.graph.initializer[0]
    del tensor.external_data[:]
    for key, text in (("location", own.name), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(text))


def write(source: Path, output: Path, value: float | None = None) -> None:
    model = load_model(source)
    with Draft(source, output, model) as draft:
        if value is not None:
            fold(draft, model, value)
        draft.write(model)
        draft.keep()


def first(path: Path) -> list[float]:
    """The first weight, as whoever loads the file gets it."""
    values: list[float] = numpy_helper.to_array(onnx.load(path).graph.initializer[0]).tolist()
    return values


def own(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.fold-*.data"))


def test_a_name_says_what_a_data_file_holds_and_the_same_has_the_same(tmp_path: Path) -> None:
    source = saved(tmp_path)
    write(source, tmp_path / "out.onnx", 2.0)
    (data,) = own(tmp_path)
    assert is_own_name(data.name, tmp_path / "out.onnx") and holds_what_it_says(data)
    before = data.stat().st_ino
    write(source, tmp_path / "out.onnx", 2.0)
    assert own(tmp_path) == [data] and data.stat().st_ino == before
    assert first(tmp_path / "out.onnx") == [2.0] * 4


@pytest.mark.parametrize("again", [3.0, None], ids=["fold", "div"])
def test_the_data_of_a_replaced_output_goes(tmp_path: Path, again: float | None) -> None:
    source, output = saved(tmp_path), tmp_path / "out.onnx"
    write(source, output, 2.0)
    (data,) = own(tmp_path)
    write(source, output, again)
    assert not data.exists() and len(own(tmp_path)) == (again is not None)
    assert first(output) == [again or 1.0] * 4


def test_data_that_a_derived_model_refers_to_stays(tmp_path: Path) -> None:
    source, one, two = saved(tmp_path), tmp_path / "one.onnx", tmp_path / "two.onnx"
    write(source, one, 2.0)
    write(one, two)
    write(source, one, 3.0)
    assert (first(one), first(two)) == ([3.0] * 4, [2.0] * 4)
    two.rename(tmp_path / "renamed.model")
    write(source, one, 4.0)
    assert first(tmp_path / "renamed.model") == [2.0] * 4
    assert len(own(tmp_path)) == 2  # and that of the second run is gone


def test_what_is_not_known_to_be_ours_stays(tmp_path: Path) -> None:
    """By the name alone it may be anything; so it may if an older output refers to it."""
    source, output = saved(tmp_path), tmp_path / "out.onnx"
    foreign = [tmp_path / "out.fold.data", tmp_path / "out.fold-0123456789abcdef.data"]
    for file in foreign:
        file.write_bytes(b"another's")
    older = load_model(source)
    for tensor in older.graph.initializer:
        tensor.external_data[0].value = foreign[1].name
    output.write_bytes(older.SerializeToString())
    write(source, output, 2.0)
    write(source, output)
    assert [file.read_bytes() for file in foreign] == [b"another's"] * 2


def test_a_name_that_something_else_has_is_not_taken(tmp_path: Path) -> None:
    source, output = saved(tmp_path), tmp_path / "out.onnx"
    write(source, output, 2.0)
    (data,) = own(tmp_path)
    output.unlink()
    data.write_bytes(b"another's")
    write(source, output, 2.0)
    assert data.read_bytes() == b"another's"
    assert [file.name for file in own(tmp_path)] == [f"{data.stem}-1.data", data.name]
    assert first(output) == [2.0] * 4


@pytest.mark.parametrize("same", [True, False])
def test_two_runs_to_one_output_both_end_with_a_whole_one(tmp_path: Path, same: bool) -> None:
    source, output = saved(tmp_path), tmp_path / "out.onnx"
    write(source, output, 5.0)
    one, two = load_model(source), load_model(source)
    with Draft(source, output, one) as first_draft, Draft(source, output, two) as second_draft:
        fold(first_draft, one, 2.0)
        fold(second_draft, two, 2.0 if same else 5.0)  # as the older one has
        first_draft.write(one)
        second_draft.write(two)
        first_draft.keep()
        assert first(output) == [2.0] * 4
        second_draft.keep()
    assert first(output) == [2.0 if same else 5.0] * 4
    assert len(own(tmp_path)) == 1
    assert not list(tmp_path.glob(".*"))


def test_a_run_that_gives_up_leaves_the_data_that_another_one_uses(tmp_path: Path) -> None:
    source, output = saved(tmp_path / "in"), tmp_path / "out" / "out.onnx"
    one, two = load_model(source), load_model(source)
    with Draft(source, output, one) as given_up:
        given_up.write(one)
        with Draft(source, tmp_path / "out" / "two.onnx", two) as kept:
            kept.write(two)
            given_up._tidy()
            kept.keep()
    assert sorted(os.listdir(tmp_path / "out")) == ["two.onnx", "w.bin"]
    assert first(tmp_path / "out" / "two.onnx") == [1.0] * 4


def test_what_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    source = saved(tmp_path / "in")
    model = load_model(source)
    with Draft(source, tmp_path / "new" / "folder" / "out.onnx", model) as draft:
        fold(draft, model, 2.0)
        draft.write(model)
        assert first(draft.path) == [2.0] * 4  # it can be loaded from where it is
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.skipif(sys.platform == "win32", reason="of POSIX")
def test_data_is_no_more_readable_than_where_it_comes_from(tmp_path: Path) -> None:
    source = saved(tmp_path / "in", 0o640)
    output = tmp_path / "out" / "out.onnx"
    write(source, output, 2.0)
    (data,) = own(output.parent)
    modes = {file: stat.S_IMODE(file.stat().st_mode) for file in output.parent.iterdir()}
    assert (modes[output.parent / "w.bin"], modes[data]) == (0o640, 0o640)
    output.chmod(0o600)
    write(source, output, 3.0)
    assert stat.S_IMODE(output.stat().st_mode) == 0o600


def test_all_data_is_brought_along(tmp_path: Path) -> None:
    """That of sparse initializers, of attributes and of the graphs of training as well."""
    source = saved(tmp_path / "in")
    model = load_model(source)

    def tensor(name: str, kind: int = TensorProto.FLOAT) -> TensorProto:
        found = helper.make_tensor(name, kind, [1], bytes(8)[: 4 if kind == 1 else 8], raw=True)
        external_data_helper.set_external_data(found, f"{name}.bin", 0, len(found.raw_data))
        (source.parent / f"{name}.bin").write_bytes(found.raw_data)
        found.ClearField("raw_data")
        return found

    def sparse(name: str) -> onnx.SparseTensorProto:
        indices = tensor(f"{name}_at", TensorProto.INT64)
        return helper.make_sparse_tensor(tensor(name), indices, [4])

    model.graph.sparse_initializer.append(sparse("s"))
    model.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse("v")))
    training = model.training_info.add()
    for part, name in ((training.initialization, "t"), (training.algorithm, "u")):
        part.initializer.append(tensor(name))
    function = model.functions.add()
    function.attribute_proto.append(helper.make_attribute("value", tensor("f")))
    names = {"s", "s_at", "v", "v_at", "t", "u", "f"}
    assert names <= {found.name for found in all_tensors(model)}
    source.write_bytes(model.SerializeToString())
    write(source, tmp_path / "out" / "out.onnx")
    found = set(os.listdir(tmp_path / "out"))
    assert found == {"out.onnx", "w.bin"} | {f"{name}.bin" for name in names}
    (source.parent / "u.bin").unlink()
    with pytest.raises(SlancError, match=r"'u\.bin' is missing"):
        load_model(source)


def test_a_folder_that_begins_with_dots_is_inside(tmp_path: Path) -> None:
    source = saved(tmp_path / "in")
    (tmp_path / "in" / "..w").mkdir()
    (tmp_path / "in" / "w.bin").rename(tmp_path / "in" / "..w" / "w.bin")
    model = onnx.load(source, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "..w/w.bin"
    source.write_bytes(model.SerializeToString())
    write(source, tmp_path / "out" / "out.onnx")
    assert sorted(os.listdir(tmp_path / "out")) == ["..w", "out.onnx"]


def test_data_is_not_written_through_a_link_to_elsewhere(tmp_path: Path) -> None:
    source = saved(tmp_path / "in")
    (tmp_path / "in" / "sub").mkdir()
    (tmp_path / "in" / "w.bin").rename(tmp_path / "in" / "sub" / "w.bin")
    model = onnx.load(source, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "sub/w.bin"
    source.write_bytes(model.SerializeToString())
    for name in ("out", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SlancError, match="its folder is a link to elsewhere"):
        write(source, tmp_path / "out" / "out.onnx")
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_link_to_nothing_is_in_the_way_of_data(tmp_path: Path) -> None:
    source = saved(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "w.bin").symlink_to("nowhere")
    with pytest.raises(SlancError, match="in the way"):
        write(source, tmp_path / "out" / "out.onnx")
    assert os.listdir(tmp_path / "out") == ["w.bin"]


@pytest.mark.parametrize("name", ["ö" * 120 + ".onnx", os.fsdecode(b"\xff.onnx")])
def test_any_name_of_a_file_serves(tmp_path: Path, name: str) -> None:
    """As long as the file system allows, and one that is no text."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        pytest.skip(f"names are {sys.getfilesystemencoding()} here")
    source, output = saved(tmp_path), tmp_path / name
    write(source, output, 2.0)
    assert first(output) == [2.0] * 4
    assert is_own_name(own_name(output, "0" * 16), output)


@pytest.mark.parametrize("ends", ["kept", "given up"])
def test_what_a_replaced_output_needed_goes_once_no_other_run_does(
    tmp_path: Path, ends: str
) -> None:
    """The second run has taken over the data of the output that the first replaces."""
    source, output = saved(tmp_path), tmp_path / "out.onnx"
    write(source, output, 5.0)
    model = load_model(source)
    with Draft(source, tmp_path / "out.onnx", model) as second:
        fold(second, model, 5.0)
        second.write(model)
        write(source, output, 2.0)
        assert len(own(tmp_path)) == 2
        if ends == "kept":
            second.keep()
    assert first(output) == [5.0 if ends == "kept" else 2.0] * 4
    assert len(own(tmp_path)) == 1
    assert not list(tmp_path.glob(".*"))
