"""Temporary files and journals: those of dead processes go, all others stay."""

import json
import os
import sys
from pathlib import Path

import pytest

from slanc_onnx.graph.journal import clear_left_overs, close_journal, models_with, write_journal
from slanc_onnx.graph.temporary import (
    left_over,
    locked,
    not_a_file,
    same_content,
    temporary,
    write_atomically,
)
from tests.oracles.stopped_writes import at_once, in_a_child

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")


def of_a_dead_process(folder: Path, kind: str, data: bytes = b"") -> Path:
    """A temporary file that was left by a process that ended."""

    def leave() -> int:
        temporary(folder, kind).write_bytes(data)
        return 0

    before = set(os.listdir(folder))
    assert in_a_child(leave) == 0
    (name,) = set(os.listdir(folder)) - before
    return folder / name


def test_files_of_dead_processes_are_known_by_their_names(tmp_path: Path) -> None:
    mine = temporary(tmp_path, "data")
    host, process = mine.name.split("-")[1:3]
    assert process == str(os.getpid())
    names = {
        "alive": f".slanc-{host}-{os.getppid()}-00000000.data",
        "of init": f".slanc-{host}-1-00000000.data",
        "another host": f".slanc-{'0' * 8}-{process}-00000000.data",
        "foreign": ".slanc-notes.data",
        "like": f"slanc-{host}-{process}-00000000.data",
    }
    for path in (mine, *(tmp_path / name for name in names.values())):
        path.touch()
    (tmp_path / f".slanc-{host}-{process}-00000001.data").mkdir()
    (tmp_path / f".slanc-{host}-{process}-00000002.data").symlink_to(mine)
    assert left_over(tmp_path) == []
    dead = of_a_dead_process(tmp_path, "onnx")
    same_number = tmp_path / f".slanc-{host}-{process}-00000003.tmp"  # as in a container
    no_number = tmp_path / f".slanc-{host}-{'9' * 30}-00000004.tmp"
    same_number.touch()
    no_number.touch()
    assert left_over(tmp_path) == sorted([dead, same_number, no_number])
    assert left_over(tmp_path / "nowhere") == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root alone gives away")
def test_what_another_user_left_stays(tmp_path: Path) -> None:
    dead = of_a_dead_process(tmp_path, "data")
    os.chown(dead, 12345, 12345)
    assert left_over(tmp_path) == []


def test_a_report_takes_away_what_reports_left_and_no_more(tmp_path: Path) -> None:
    of_a_dead_process(tmp_path, "tmp")
    data = of_a_dead_process(tmp_path, "data")  # the next model will
    write_atomically(tmp_path / "r.json", b"{}")
    assert sorted(os.listdir(tmp_path)) == sorted([data.name, "r.json"])
    clear_left_overs(tmp_path)
    assert os.listdir(tmp_path) == ["r.json"]


def test_a_journal_removes_what_no_model_refers_to(tmp_path: Path) -> None:
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    files = {name: tmp_path / name for name in ("used", "unused", "sub/deep/unused", "changed")}
    for path in files.values():
        path.write_bytes(b"data")
    (tmp_path / "m.onnx").write_bytes(b"... used ...")
    (tmp_path / "notes").write_bytes(b"... unused ...")  # is no model
    journal = tmp_path / "journal"
    write_journal(journal, files, ["sub", "sub/deep"])
    (tmp_path / "changed").write_bytes(b"by somebody else")
    close_journal(journal)
    assert sorted(os.listdir(tmp_path)) == ["changed", "m.onnx", "notes", "used"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3, "folders": []}', '{"files": {}}'])
def test_a_journal_that_was_cut_short_removes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "data").touch()
    (tmp_path / "journal").write_text(text)
    close_journal(tmp_path / "journal")
    assert os.listdir(tmp_path) == ["data"]


def test_a_journal_reaches_nothing_outside_its_folder(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    folder.mkdir()
    outside.touch()
    found = outside.stat()
    identity = [found.st_ino, found.st_size, found.st_mtime_ns]
    names = {"../outside": identity, str(outside): identity}
    text = json.dumps({"files": names, "folders": ["../empty"]})
    (tmp_path / "empty").mkdir()
    (folder / "journal").write_text(text)
    close_journal(folder / "journal")
    assert sorted(os.listdir(tmp_path)) == ["empty", "folder", "outside"]


def test_who_uses_a_data_file_is_looked_for_up_to_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    data = folder / "sub" / "w.bin"
    data.write_bytes(b"\x08 w.bin")  # itself, though it looks like a model
    (tmp_path / "above.onnx").write_bytes(b"sub/w.bin")
    (folder / "empty.onnx").touch()
    assert not list(models_with(data, folder))
    for model in (folder / "m.onnx", folder / "sub" / "m.onnx", folder / "by_its_first_byte"):
        model.write_bytes(b"\x08 sub/w.bin")
        assert list(models_with(data, folder)) == [model]
        model.unlink()


def test_what_stands_at_a_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    told = {name: not_a_file(tmp_path / name) for name in ("file", "link", "pipe", "no", ".")}
    expected = {"file": "", "link": "a link to file", "pipe": "no regular file", "no": ""}
    assert told == {**expected, ".": "a folder"}
    assert not_a_file(tmp_path / "file" / "below") == ""


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_nothing_but_a_file_is_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd"
    path.symlink_to("nowhere") if kind == "link" else os.mkfifo(path)
    with pytest.raises(FileExistsError):
        write_atomically(path, b"data")
    assert os.listdir(tmp_path) == ["odd"]
    assert path.is_symlink() == (kind == "link")


def test_a_folder_is_locked_by_one_process_at_a_time(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def twice() -> int:
        for _ in range(20):
            with locked(tmp_path), log.open("a") as file:
                for word in ("in\n", "out\n"):
                    file.write(word)
                    file.flush()
        return 0

    assert at_once([twice] * 4) == [0] * 4
    assert log.read_text() == "in\nout\n" * 80


def test_equal_files_are_told_from_others(tmp_path: Path) -> None:
    for name, data in (("one", b"abc"), ("same", b"abc"), ("other", b"abd"), ("longer", b"abcd")):
        (tmp_path / name).write_bytes(data)
    found = [n for n in ("same", "other", "longer") if same_content(tmp_path / "one", tmp_path / n)]
    assert found == ["same"]
    assert same_content(tmp_path / "one", tmp_path / "nowhere") is None
    assert same_content(tmp_path / "one", tmp_path) is False
