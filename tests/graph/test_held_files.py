"""On Windows a file that is open or mapped can be neither renamed, replaced nor removed.

Here it can, so these tests refuse it in the place of the system: /proc says what this process has
open and mapped.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from slanc_onnx.cli import main
from slanc_onnx.errors import SlancError
from slanc_onnx.graph import Draft, load_model
from slanc_onnx.graph.copying import copied
from slanc_onnx.graph.temporary import remove
from tests.models.four_norms import four_norms
from tests.places import SAMPLES

proc = pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="no /proc to ask")


def held() -> set[str]:
    """The files that this process has open or mapped."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        found = {fields[5].strip() for line in maps if len(fields := line.split(maxsplit=5)) == 6}
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # the one of the list itself
            continue
    return found


def as_on_windows(call: Callable[..., Any], paths: int) -> Callable[..., Any]:
    """A call of the system that refuses where one of its first arguments is a file in use."""

    def guarded(*given: Any, **more: Any) -> Any:
        for path in given[:paths]:
            if os.path.realpath(path) in held():
                raise PermissionError(13, "a file in use", str(path))
        return call(*given, **more)

    return guarded


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No processes of their own, no locks on folders, and files in use that stay."""
    for module in ("graph.apart", "run.isolation"):
        monkeypatch.setattr(f"slanc_onnx.{module}.can_fork", lambda: False)
    monkeypatch.setattr("slanc_onnx.graph.temporary.fcntl", None)
    for name, paths in (("replace", 2), ("rename", 2), ("unlink", 1), ("remove", 1)):
        monkeypatch.setattr(os, name, as_on_windows(getattr(os, name), paths))
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    monkeypatch.delattr(os, "sendfile", raising=False)
    yield


@proc
@pytest.mark.parametrize(
    ("stored", "options"),
    [
        ("inside", ["--apply", "fold"]),
        ("beside", ["--to", "fp16"]),
        ("elsewhere", ["--apply", "fold", "--external-data", "yes"]),
    ],
    ids=["inside", "beside", "elsewhere"],
)
def test_no_file_is_replaced_or_removed_while_it_is_in_use(
    windows: None, tmp_path: Path, stored: str, options: list[str]
) -> None:
    source, output = tmp_path / "in" / "m.onnx", tmp_path / "in" / "o.onnx"
    source.parent.mkdir()
    outside = stored != "inside"
    model = onnx.load(SAMPLES / "llama_like.onnx")
    onnx.save(model, source, save_as_external_data=outside, location="m.data", size_threshold=1024)
    if stored == "elsewhere":
        output = tmp_path / "out" / "o.onnx"
    for _ in range(2):  # over nothing, and over the output of the first run
        assert main([str(source), "-o", str(output), "-q", "--certify", "off", *options]) == 0
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {"m.onnx", "o.onnx"} <= names and not any(n.startswith(".slanc") for n in names)


@proc
def test_the_guard_of_these_tests_refuses(windows: None, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    with (tmp_path / "a").open("rb"), pytest.raises(PermissionError):
        os.replace(tmp_path / "a", tmp_path / "b")
    os.replace(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("number", [5, 32, 1224])
def test_an_output_that_another_program_has_open_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    onnx.save(four_norms(), tmp_path / "m.onnx")
    (tmp_path / "o.onnx").write_bytes(b"in use")

    def refuse(*_: object) -> None:
        error = PermissionError(13, "Access is denied")
        error.winerror = number  # type: ignore[attr-defined,unused-ignore]
        raise error

    model = load_model(tmp_path / "m.onnx")
    with Draft(tmp_path / "m.onnx", tmp_path / "o.onnx", model) as draft:
        draft.write(model)
        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(SlancError, match="Close what has it open, or give another -o"):
            draft.keep()
    assert (tmp_path / "o.onnx").read_bytes() == b"in use"
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "o.onnx"]


def test_macos_sends_from_no_file_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There sendfile takes no None as an offset, and there is no copy_file_range."""

    def sendfile(*_: object) -> int:
        raise TypeError("an integer is required")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    monkeypatch.setattr(os, "sendfile", sendfile, raising=False)
    (tmp_path / "a").write_bytes(b"abc")
    with (tmp_path / "a").open("rb", buffering=0) as read, (tmp_path / "b").open("wb") as written:
        assert copied(read.fileno(), written.fileno(), 2) == 2
        assert copied(read.fileno(), written.fileno(), 2) == 1
        assert copied(read.fileno(), written.fileno(), 2) == 0
    assert (tmp_path / "b").read_bytes() == b"abc"


def test_what_may_not_be_written_to_is_removed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"")
    file.chmod(0o400)
    unlink = Path.unlink

    def as_windows_does(path: Path, missing_ok: bool = False) -> None:
        if not path.stat().st_mode & 0o200:
            raise PermissionError(13, "Access is denied")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", as_windows_does)
    remove(file)
    assert not file.exists()
