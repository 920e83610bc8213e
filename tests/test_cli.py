"""The command line's contract: files, exit status, what goes to stdout and what to stderr."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

from slanc_onnx import __version__
from slanc_onnx.accelerator import ACCUMULATE
from slanc_onnx.cli import main
from slanc_onnx.report import targets_table
from slanc_onnx.targets import TARGETS
from tests.conftest import Run
from tests.models.four_norms import four_norms
from tests.places import ROOT


def scaled(path: str) -> dict[str, float]:
    """The scale by norm, as the Divs of a written model carry it."""
    properties = [n.metadata_props for n in onnx.load(path).graph.node if n.op_type == "Div"]
    stamps = [{p.key: p.value for p in props} for props in properties]
    return {s["slanc.norm"]: float(s["slanc.scale"]) for s in stamps if s}


def as_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Colours only if somebody asks for them, which a shell that runs the tests may do.
    env = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env={**env, "PYTHONPATH": str(ROOT)},
    )


def test_the_result_stands_beside_the_input_and_passes(run: Run) -> None:
    status, out, err = run("model.onnx")
    assert (status, err) == (0, "")
    assert sorted(os.listdir()) == ["model.onnx", "model.slanc.onnx"]
    assert list(scaled("model.slanc.onnx")) == ["hot", "plain"]  # and "inner", in a branch
    lines = out.splitlines()
    assert lines[0].split()[:5] == ["#", "norm", "form", "rule", "scale"]
    for line, name in zip(lines[1:5], ("hot", "mild", "plain", "inner"), strict=True):
        assert line.split()[1] == name
    assert "written: model.slanc.onnx" in lines
    assert lines[-1].startswith(
        "NORMS PASSED | this model needs it: 64 rows lose their norm in FP16 as exported | FP32 "
        "outputs bit-identical with optimisation off; at the default level: bit-identical | FP16 "
        "norms: rows overflowed"
    )
    assert "(tolerance 0.1)" in lines[-1]


def test_an_output_can_be_named_in_a_folder_that_is_made(run: Run) -> None:
    assert run("model.onnx", "-o", "new/folder/out.onnx")[0] == 0
    assert sorted(os.listdir()) == ["model.onnx", "new"]
    assert os.listdir("new/folder") == ["out.onnx"]


def test_an_older_output_is_replaced(run: Run) -> None:
    Path("model.slanc.onnx").write_bytes(b"old")
    assert run("model.onnx", "-q")[0] == 0
    assert scaled("model.slanc.onnx")


def test_a_failed_validation_gives_1_and_the_file(run: Run) -> None:
    onnx.save(four_norms(), "model.onnx")
    status, out, err = run("model.onnx", "--report", "report.json")
    assert (status, err) == (1, "")
    assert sorted(os.listdir()) == ["model.onnx", "model.slanc.onnx", "report.json"]
    assert "STILL OVERFLOW" in out
    assert out.splitlines()[-1].startswith("FAILED | ")
    assert "rows still overflow in 1 norms, first 'plain'" in out.splitlines()[-1]


def test_quiet_and_very_quiet(run: Run) -> None:
    _, full, _ = run("model.onnx")
    _, short, _ = run("model.onnx", "-q")
    assert full.endswith(short)
    assert "written:" not in short
    told = (
        "4 norms: ",
        "note: the epsilon of 3 norms, divided, becomes 0",
        "limits of",
        "certified if the device adds no epsilon below",
        "NORMS PASSED",
    )
    starts = zip(short.splitlines(), told, strict=True)
    assert all(line.startswith(start) for line, start in starts)
    assert run("model.onnx", "-qq") == (0, "", "")


def test_without_validation_nothing_is_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a session was made")

    monkeypatch.setattr("slanc_onnx.run.session.Session.__init__", fail)
    status, out, _ = run("model.onnx", "--no-validate", "--estimate", "weights")
    assert status == 0
    assert "estimated by weights" in out
    last = "NOT VALIDATED | --no-validate was given | certified 3 of 4 norms"  # one is in a branch
    assert out.splitlines()[-1] == last
    status, out, _ = run("model.onnx", "--no-validate", "--estimate", "weights", "--certify", "off")
    assert out.splitlines()[-1] == "NOT VALIDATED | --no-validate was given"


@pytest.mark.parametrize("scale", ["window", "paper"])
@pytest.mark.parametrize("estimate", ["auto", "probe", "weights"])
def test_scale_and_estimate(run: Run, scale: str, estimate: str) -> None:
    status, out, _ = run("model.onnx", "--scale", scale, "--estimate", estimate)
    assert status == 0
    scales = scaled("model.slanc.onnx").values()
    assert all(value == 2 ** round(np.log2(value)) for value in scales) == (scale == "window")
    by = {"auto": "probe", "probe": "probe", "weights": "weights"}[estimate]
    assert f"estimated by {by if scale == 'window' else 'paper'}\n" in out
    told = f"--estimate {estimate} has no effect with --scale paper" in out
    assert told == (scale == "paper" and estimate != "auto")


@pytest.mark.parametrize("order", ACCUMULATE)
@pytest.mark.parametrize("flush", [False, True])
def test_the_accelerator_is_named_in_the_output(run: Run, order: str, flush: bool) -> None:
    status, out, _ = run("model.onnx", "--accumulate", order, *["--flush-subnormals"] * flush)
    assert status == 0
    assert f"FP16, {order} sums, subnormals {'flushed' if flush else 'kept'}, two-pass" in out


def test_given_inputs_are_run(run: Run) -> None:
    np.savez("inputs.npz", ids=np.zeros((1, 3), np.int64), deep=np.array(True))
    status, out, _ = run("model.onnx", "--inputs", "inputs.npz")
    assert status == 0
    assert "rows overflowed 9 -> 0" in out.splitlines()[-1]  # 3 rows in each of 3 norms


def test_no_norm_is_no_error(run: Run) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[2, 4] x) => (float[2, 1] y) { [site] y = ReduceMean<axes = [-1]>(x) }""")
    onnx.save(model, "other.onnx")
    assert run("other.onnx", "-q") == (
        0,
        "other.onnx: no norm found in 1 ReduceMean sites (site), where an optimiser or quantiser "
        "may have left a norm in ops that are not read: scale before it runs; nothing to do, "
        "nothing written.\n",
        "",
    )
    assert sorted(os.listdir()) == ["model.onnx", "other.onnx"]


def test_brackets_and_colons_in_names_are_no_markup(run: Run) -> None:
    model = four_norms(leaky=False)
    model.graph.node[1].name = "[/red]a[bold]:smile:"
    onnx.save(model, "model.onnx")
    _, out, _ = run("model.onnx")
    assert "[/red]a[bold]:smile:" in out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("model.onnx", "--scale", "other"),
        ("model.onnx", "--estimate", "paper"),
        ("model.onnx", "--accumulate", "fp16"),
        ("model.onnx", "--target", "bf16", "--target-file", "model.onnx"),
        ("--target", "bf16"),
        ("model.onnx", "--no-such-option"),
        ("model.onnx", "--sequence-length", "8"),
        ("model.onnx", "--max-sequences", "8"),
        ("model.onnx", "--bos", "2"),
        ("model.onnx", "--jobs", "0"),
        ("model.onnx", "--jobs", "all"),
        ("model.onnx", "--tokens", "ids.npy", "--sequence-length", "0"),
        ("model.onnx", "--tokens", "ids.npy", "--max-sequences", "-1"),
        ("model.onnx", "--tokens", "ids.npy", "--no-validate"),
    ],
)
def test_bad_usage_gives_2(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run(*arguments)
    assert exit_info.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: slanc-onnx")
    assert os.listdir() == ["model.onnx"]


def test_as_a_process(tmp_path: Path) -> None:
    onnx.save(four_norms(), tmp_path / "model.onnx")
    done = as_a_process("-m", "slanc_onnx", str(tmp_path / "model.onnx"), "-v")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("FAILED | ")
    told = [line for line in done.stderr.splitlines() if line.startswith("INFO ")]
    assert told.count("INFO slanc_onnx.report.watching: validating: FP32, original") == 1
    assert len(set(told)) == len(told)
    assert "\x1b" not in done.stdout + done.stderr
    bad = as_a_process("-m", "slanc_onnx", str(tmp_path / "no.onnx"))
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "Traceback" not in bad.stderr


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_help_and_version_import_nothing_slow(option: str) -> None:
    program = f"""
import sys
from slanc_onnx.cli import main
try:
    main(["{option}"])
except SystemExit as done:
    print({{"onnxruntime", "matplotlib"}} & set(sys.modules), done.code)
"""
    done = as_a_process("-c", program)
    lines = done.stdout.splitlines()
    assert lines[-1] == "set() 0"
    assert lines[0] == (f"slanc-onnx {__version__}" if option == "--version" else lines[0])


def test_the_version_waits_for_no_library() -> None:
    program = """
import sys
from slanc_onnx.__main__ import main
sys.argv[1:] = ["--version"]
status = main()
print({"numpy", "onnx", "rich"} & set(sys.modules), status)
"""
    done = as_a_process("-c", program)
    assert done.stdout.splitlines() == [f"slanc-onnx {__version__}", "set() 0"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
@pytest.mark.parametrize("library", ["slanc_onnx.cli", "numpy", "onnx"])
def test_ctrl_c_while_libraries_are_read_says_nothing(library: str) -> None:
    program = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job of a script may ignore it
class Stop:
    def find_spec(self, name, *_):
        if name == "{library}":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Stop())
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" has it ignored
sys.argv[1:] = ["model.onnx"]
from slanc_onnx.__main__ import main
main()
"""
    done = as_a_process("-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_while_arguments_are_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slanc_onnx.cli.command.make_parser", stop)
    assert run("model.onnx") == (130, "", "ERROR: interrupted\n")


def test_a_validation_that_cannot_be_done_gives_1_and_the_file(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("slanc_onnx.job.draft.validate_on", fail)
    status, out, _ = run("model.onnx", "-q")
    assert status == 1
    assert scaled("model.slanc.onnx")
    told = r"FAILED \| not validated: (not enough memory|it needs more than 1\.5 GB of memory)"
    assert re.match(told, out.splitlines()[-1])


def test_names_that_stdout_cannot_spell_are_replaced(tmp_path: Path) -> None:
    sample = str(ROOT / "sample_models" / "bert_like.onnx")
    script = (
        "import sys; sys.stdout.reconfigure(encoding='ascii', errors='strict');"
        "from slanc_onnx.cli import main;"
        f"sys.exit(main([{sample!r}, '-o', sys.argv[1], '--no-validate', '--estimate', 'weights']))"
    )
    done = as_a_process("-c", script, str(tmp_path / "out.onnx"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "attention (eq. 10) + x ?" in done.stdout


def test_the_targets_are_listed_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--list-targets"])
    assert exit_info.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    table, _, below = out.partition(" leaves in FP32: ")
    assert [line.split()[0] for line in table.splitlines()[:-1]] == ["target", *TARGETS]
    assert below


@pytest.mark.parametrize("width", [80, 100])
def test_the_targets_are_whole_on_a_narrow_terminal(width: int) -> None:
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(targets_table())
    lines = text.getvalue().splitlines()
    words = {word.strip(",") for line in lines for word in line.split()}
    assert max(map(len, lines)) <= width
    assert words >= set(TARGETS) | {step for t in TARGETS.values() for step in t.steps_in_fp32}


@pytest.mark.parametrize("name", ["fp16-pairwise-flush", "bf16", "fp8-e4m3", "fp8-e5m2-flush"])
def test_a_target_is_emulated_and_reported(run: Run, name: str) -> None:
    status, out, _ = run("model.onnx", "--target", name, "--report", "r.json")
    assert status == 0
    assert f"emulated: {TARGETS[name]}" in out
    options = json.loads(Path("r.json").read_text())["options"]
    assert options["target"] == name
    assert options["accelerator"] == TARGETS[name].as_dict()


def test_single_fields_of_a_target_are_overridden(run: Run) -> None:
    given = ("--accumulate", "pairwise", "--no-flush-subnormals", "--report", "r.json")
    assert run("model.onnx", "--target", "fp8-e4m3-flush", *given)[0] == 0
    shown = json.loads(Path("r.json").read_text())["options"]["accelerator"]
    assert (shown["name"], shown["accumulate"]) == ("fp8-e4m3-flush, changed", "pairwise")
    assert (shown["flush_subnormals"], shown["input_format"]) == (False, "float8_e4m3fn")


def test_a_target_file_is_read_and_never_written_over(run: Run) -> None:
    Path("npu.toml").write_text("accumulate = 'pairwise'\nformat = 'bfloat16'\n")
    status, out, _ = run("model.onnx", "--target-file", "npu.toml")
    assert (status, "emulated: npu: BF16, pairwise sums" in out) == (0, True)
    status, _, err = run("model.onnx", "--target-file", "npu.toml", "-o", "npu.toml")
    assert (status, "is the file of the target" in err) == (2, True)
    assert Path("npu.toml").read_text().startswith("accumulate")


def test_a_model_that_does_not_end_is_written_and_not_validated(run: Run) -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        m (float[1, s, 8] x) => (float[1, s, 8] y)
        <int64 trips = {9223372036854775807}, bool yes = {1},
         float[8] g = {1, 1, 1, 1, 1, 1, 1, 1}> {
            h = Loop(trips, yes, x) <body = b (int64 i, bool c, float[1, s, 8] a)
                => (bool d, float[1, s, 8] z) { d = Identity(c) z = Cos(a) }>
            y = LayerNormalization(h, g)
        }
    """
    onnx.save(onnx.parser.parse_model(text), "model.onnx")
    status, out, _ = run("model.onnx", "--time-limit", "1", "-q")
    assert status == 1
    assert "not validated: ONNX Runtime was not done after 1 s" in out.splitlines()[-1]
    assert onnx.load("model.slanc.onnx").graph.node


def test_the_death_of_onnx_runtime_is_not_ours(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(four_norms(), "model.onnx")
    parent = os.getpid()

    def dies(*_: object) -> None:
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGSEGV)

    monkeypatch.setattr("slanc_onnx.job.draft.validate_on", dies)
    status, out, _ = run("model.onnx", "-q")
    assert status == 1
    assert "not validated: ONNX Runtime died (SIGSEGV)" in out.splitlines()[-1]
    assert onnx.load("model.slanc.onnx").graph.node
