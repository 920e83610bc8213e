"""Exit statuses: each means what README says, whatever fails and wherever."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import onnx
import pytest

from slanc_onnx import SlancError, protect_file
from slanc_onnx.arguments import make_parser
from slanc_onnx.arguments.parser import EXIT_STATUS
from slanc_onnx.norms.model import ReadModel
from tests.conftest import Run
from tests.models.four_norms import four_norms
from tests.places import ROOT

QUICK = "--no-validate --estimate weights --certify off"
posix = pytest.mark.skipif(sys.platform == "win32", reason="of POSIX")


def shell(
    folder: Path, command: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, where `slanc` is the command, in a folder with model.onnx."""
    if not (folder / "model.onnx").exists():
        onnx.save(four_norms(leaky=False), folder / "model.onnx")
    line = f'slanc() {{ "{sys.executable}" -m slanc_onnx "$@"; }}; {command}'
    kept = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT)} if env is None else {**env, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )


def failing(error: BaseException) -> object:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


FULL = OSError(errno.ENOSPC, "No space left on device")
SHORT = (  # of memory, by the names that it has
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("can't start new thread"),
    ImportError("/x.so: failed to map segment from shared object"),
    ImportError("Exception caught: std::bad_alloc"),
    ImportError(
        "DLL load failed while importing x: The paging file is too small for this operation"
    ),
)


def test_readme_and_help_state_the_same_table() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([0-9]+) \| (.*) \|$", text, re.MULTILINE)
    assert {int(status): words for status, words in rows} == EXIT_STATUS
    helped = " ".join(make_parser().format_help().split())
    assert all(f"{status}: {words}." in helped for status, words in EXIT_STATUS.items())


@posix
@pytest.mark.parametrize("closed", [">&-", ">/dev/full"])
@pytest.mark.parametrize(("quiet", "unbuffered"), [("", ""), ("-q", "1")])
def test_a_lost_stdout_gives_3_and_says_what_is_written(
    tmp_path: Path, closed: str, quiet: str, unbuffered: str
) -> None:
    line = f"export PYTHONUNBUFFERED={unbuffered}; slanc model.onnx {QUICK} {quiet} {closed}"
    done = shell(tmp_path, line)
    reason = "it is closed" if closed == ">&-" else "No space left on device"
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"ERROR: standard output: not written ({reason}). model.slanc.onnx is written. "
        "Make room there or name another place, and run again.\n"
    )
    onnx.load(tmp_path / "model.slanc.onnx")


@posix
@pytest.mark.parametrize("closed", [">/dev/full", "2>/dev/full", "<&- >&- 2>&-"])
def test_who_prints_nothing_needs_no_stdout(tmp_path: Path, closed: str) -> None:
    done = shell(tmp_path, f"slanc model.onnx -qq {closed}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert protect_file(tmp_path / "model.onnx", tmp_path / "same.onnx").passed
    outputs = [(tmp_path / name).read_bytes() for name in ("model.slanc.onnx", "same.onnx")]
    assert outputs[0] == outputs[1]  # no warning of a library went into it
    assert shell(tmp_path, f"slanc no.onnx {closed}").returncode == 2


@posix
@pytest.mark.parametrize(
    "line", ["--help >&-", "--version >&-", "--version >/dev/full", "--list-targets >/dev/full"]
)
def test_help_that_cannot_be_printed_gives_3(tmp_path: Path, line: str) -> None:
    done = shell(tmp_path, f"slanc {line}")
    assert done.returncode == 3 and "standard output: not written" in done.stderr


@posix
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_that_nobody_reads_is_no_error(tmp_path: Path, option: str) -> None:
    done = shell(tmp_path, f"slanc {option} | true")
    assert (done.returncode, done.stderr) == (0, "")


@posix
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    done = shell(tmp_path, f"slanc model.onnx {QUICK} | head -1")
    assert (done.returncode, done.stderr) == (0, "")
    onnx.save(four_norms(), tmp_path / "model.onnx")
    assert shell(tmp_path, "slanc model.onnx | true").returncode == 1  # FAILED, read or not


@pytest.mark.parametrize("leaky", [False, True], ids=["passed", "failed"])
@pytest.mark.parametrize(("option", "writer"), [("--report", "as_json"), ("--html", "html.page")])
@pytest.mark.parametrize("error", [FULL, MemoryError(), TypeError("odd")])
def test_a_lost_report_gives_3_or_1_and_the_last_line_names_both(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    leaky: bool,
    option: str,
    writer: str,
    error: Exception,
) -> None:
    if option == "--html":
        pytest.importorskip("matplotlib")
        monkeypatch.setattr("slanc_onnx.report.html.page.page", lambda _: "")  # it draws
    onnx.save(four_norms(leaky), "model.onnx")
    monkeypatch.setattr(f"slanc_onnx.report.{writer}.write_atomically", failing(error))
    status, out, err = run("model.onnx", option, "r")
    reason = {OSError: FULL.strerror, MemoryError: "not enough memory"}.get(
        type(error), "this is a bug in slanc-onnx: TypeError: odd"
    )
    assert status == (1 if leaky else 3)
    last = out.splitlines()[-1]
    assert last.startswith("FAILED | " if leaky else "NORMS PASSED | ")
    assert f" | {option} r: not written ({reason}" in last
    assert err.startswith(f"ERROR: {option} r: not written ({reason}") and err.count("\n") == 1
    failed = ", but validation FAILED" if leaky else ""
    assert f"model.slanc.onnx is written{failed}. Make room there or" in err
    assert sorted(os.listdir()) == ["model.onnx", "model.slanc.onnx"]


def test_a_lost_report_without_a_norm_says_that_there_is_no_model(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]> main (float[2] x) => (float[2] y) { y = Neg(x) }""")
    onnx.save(model, "model.onnx")
    monkeypatch.setattr("slanc_onnx.report.as_json.write_atomically", failing(FULL))
    status, out, err = run("model.onnx", "--report", "r.json")
    assert status == 3
    assert out.endswith(
        "nothing written. | --report r.json: not written (No space left on device)\n"
    )
    assert "No norm, so no model either" in err


@posix
def test_names_that_are_no_text_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    onnx.save(four_norms(leaky=False), tmp_path / os.fsdecode(b"\xff.onnx"))
    done = shell(tmp_path, "slanc $'\\xff.onnx' --report $'\\xff.json' --html $'\\xff.html'")
    assert (done.returncode, done.stderr) == (0, "")
    names = {b"\xff.onnx", b"\xff.slanc.onnx", b"\xff.json", b"\xff.html", b"model.onnx"}
    assert set(os.listdir(os.fsencode(tmp_path))) == names


@posix
@pytest.mark.parametrize("length", [250, 255])
def test_long_names_are_written(run: Run, length: int) -> None:
    name = "r" * (length - 5) + ".json"
    assert run("model.onnx", *QUICK.split(), "-qq", "--report", name)[0] == 0
    assert Path(name).exists()


@posix
def test_names_that_are_too_long_are_refused(run: Run) -> None:
    status, _, err = run("model.onnx", *QUICK.split(), "-o", "o.onnx", "--report", "r" * 256)
    assert (status, Path("o.onnx").exists()) == (2, False)
    assert "File name too long" in err and "Traceback" not in err


def test_a_bug_gives_4_and_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("model.slanc.onnx").write_bytes(b"older")

    def decide(read: ReadModel, *_: object) -> None:
        for node in read.model.graph.node[1:]:
            raise TypeError(f"odd\n{node.op_type}")

    monkeypatch.setattr("slanc_onnx.job.files.decide", decide)
    status, out, err = run("model.onnx", "--report", "r.json")
    assert (status, out) == (4, "")
    assert err == (
        "ERROR: this is a bug in slanc-onnx: TypeError: odd LayerNormalization at node 'hot'. "
        "Report it where you got slanc-onnx from, with this line and, if you may, the model; "
        "--traceback shows where it happened. Nothing was written.\n"
    )
    assert Path("model.slanc.onnx").read_bytes() == b"older"
    assert sorted(os.listdir()) == ["model.onnx", "model.slanc.onnx"]
    status, _, shown = run("model.onnx", "--traceback")
    assert status == 4 and shown.endswith(err)
    assert shown.startswith("Traceback (most recent call last):") and ", in decide\n" in shown
    with pytest.raises(TypeError):  # in the library it stays what it is
        protect_file(Path("model.onnx"), Path("other.onnx"))


@pytest.mark.parametrize(
    "stage", ["job.draft._validate", "job.draft.write_folded", "job.files.fold"]
)
def test_a_bug_at_any_stage_writes_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(f"slanc_onnx.{stage}", failing(RecursionError("too deep")))
    status, _, err = run("model.onnx", "-o", "new/out.onnx", "--apply", "fold")
    assert (status, err.count("\n")) == (4, 1)
    assert os.listdir() == ["model.onnx"]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        *((error, 2, "not enough memory. Try --estimate weights") for error in SHORT),
        (ImportError("No module named 'x'"), 4, "this is a bug in slanc-onnx: ImportError: No mod"),
        (RuntimeError("odd"), 4, "this is a bug in slanc-onnx: RuntimeError: odd"),
        (SlancError("bad input"), 2, "bad input"),
        (FULL, 2, "file: No space left on device"),
    ],
)
def test_an_end_before_the_commit_leaves_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, message: str
) -> None:
    monkeypatch.setattr("slanc_onnx.graph.save.Draft.keep", failing(error))
    found, out, err = run("model.onnx", "-o", "new/out.onnx")
    assert (found, out) == (status, "")
    assert err.startswith(f"ERROR: {message}")
    assert os.listdir() == ["model.onnx"]


@posix
@pytest.mark.parametrize("kilobytes", [170_000, 190_000, 210_000])
def test_little_memory_is_no_bug(tmp_path: Path, kilobytes: int) -> None:
    """Libraries are not loaded, when it starts or when a model is to be run, or threads not."""
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # which ends the process by itself
    done = shell(tmp_path, f"ulimit -v {kilobytes}; slanc model.onnx", env)
    told = done.stdout + done.stderr
    assert done.returncode in (1, 2), told
    assert "not enough memory" in told or "not validated: ONNX Runtime died" in told
    assert "Traceback" not in told and "bug" not in told


@posix
@pytest.mark.parametrize("set_", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {}])
def test_bare_environments_serve(tmp_path: Path, set_: dict[str, str]) -> None:
    """Without HOME, and without colours where no terminal is."""
    pytest.importorskip("matplotlib")
    env = {"PATH": os.environ["PATH"], **set_}
    page = "" if set_ else "--html r.html"  # which has no colours, and takes long to import
    done = shell(tmp_path, f"slanc model.onnx {QUICK} {page}", env)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "r.html").exists() == bool(page)
