"""Control of norms and of a run: --set-scale, --dry-run, --require, --sidecar, --report -."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest

from slanc_onnx import Options, SlancError, compute_scales, protect, protect_file
from slanc_onnx.cli import main
from slanc_onnx.cli.process import BAD_INPUT, FAILED, PASSED
from slanc_onnx.options import ApplyRule, Required
from slanc_onnx.report.sidecar import schema
from tests.models.small_graphs import between, graph
from tests.oracles.unoptimised import run
from tests.places import SAMPLES

LLAMA, BERT = SAMPLES / "llama_like.onnx", SAMPLES / "bert_like.onnx"
FIRST, SECOND = "/model.layers.0/Mul_2", "/model.layers.1/Mul"
FEEDS = {"input_ids": np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])}


def command(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def scales(path: Path) -> dict[str, Any]:
    return {norm["name"]: norm["scale"] for norm in json.loads(path.read_text())["norms"]}


@pytest.mark.parametrize(
    ("option", "regex", "out", "noted"),
    [
        ("--only", "nosuch", 7, True),
        ("--exclude", "nosuch", 0, True),
        ("--exclude", "Mul_2", 3, False),
        ("--exclude", ".", 7, False),
    ],
)
def test_norms_that_are_left_out_are_counted_and_a_slip_is_noted(
    option: str,
    regex: str,
    out: int,
    noted: bool,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    usual = ("-q", "--certify", "off", "--estimate", "weights", "--no-validate")
    assert command(LLAMA, "-o", tmp_path / "o.onnx", option, regex, *usual) == PASSED
    *lines, last = capfd.readouterr().out.splitlines()
    assert (f" | {out} of 7 norms left out" in last) == (out > 0)
    note = f"note: {option} {regex}: is in the name of no norm and of nothing like one"
    assert (note in lines) == noted


@pytest.mark.parametrize("apply", ["div", "fold"])
@pytest.mark.parametrize("asked", ["2^5", "32", "3.2e1"])
def test_a_scale_that_is_set_is_written_and_the_outputs_stay_the_same(
    asked: str, apply: str, tmp_path: Path
) -> None:
    out, report = tmp_path / "out.onnx", tmp_path / "r.json"
    command(
        *(LLAMA, "-o", out, "--apply", apply, "--set-scale", f"{FIRST}={asked}"),
        *("--report", report, "--no-validate", "--certify", "off", "-q"),
    )
    found = next(n for n in json.loads(report.read_text())["norms"] if n["name"] == FIRST)
    assert found["scale"] == 32.0
    assert found["reason"].startswith("set by hand")
    before, after = run(onnx.load(LLAMA), **FEEDS), run(onnx.load(out), **FEEDS)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def certified(norms: Mapping[str, Any], name: str) -> Any:
    return norms[name].certificate is not None and norms[name].certificate.certified


def test_the_certificate_is_that_of_the_scale_that_is_set() -> None:
    model = onnx.load(LLAMA)
    usual = {d.norm.name: d for d in compute_scales(model)}
    assert certified(usual, FIRST)
    high = {d.norm.name: d for d in compute_scales(model, Options(set_scale={FIRST: 256.0}))}
    assert certified(high, FIRST)
    low = {d.norm.name: d for d in compute_scales(model, Options(set_scale={FIRST: 2.0**-6}))}
    assert not certified(low, FIRST)
    radii = [found[FIRST].safe_radius or 0.0 for found in (low, usual, high)]
    assert radii == sorted(set(radii))


def test_a_decision_that_is_given_another_scale_has_no_certificate() -> None:
    (decided,) = [d for d in compute_scales(onnx.load(LLAMA)) if d.norm.name == FIRST]
    assert decided.certificate is not None and decided.scale is not None
    changed = replace(decided, scale=decided.scale / 1024)
    assert changed.certificate is None
    assert changed.safe_radius is None
    assert replace(decided, sources=[]).certificate == decided.certificate


def test_a_scale_that_is_set_and_overflows_fails(tmp_path: Path) -> None:
    """It is not taken back, as one that the tool chose is."""
    model = LLAMA, "-o", tmp_path / "out.onnx", "--set-scale", f"{FIRST}=2^-6", "-q"
    assert command(*model) == FAILED


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("/model.layers.0/Mul_3=2", "no norm is named '/model.layers.0/Mul_3'. The most similar"),
        (f"{FIRST}=3", "is not NAME=2^K"),
        (f"{FIRST}=2^x", "is not NAME=2^K"),
        (f"{FIRST}=2^99999", "is not NAME=2^K"),
        (f"{FIRST}=-2", "is not NAME=2^K"),
        ("=2", "is not NAME=2^K"),
        (f"{FIRST}=2^-140", "cannot be scaled by 7.17465e-43: FLOAT would not hold"),
    ],
)
def test_what_cannot_be_set_is_bad_input(
    given: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.onnx"
    try:
        status = command(LLAMA, "-o", out, "--set-scale", given)
    except SystemExit as usage:
        status = int(usage.code or 0)
    assert status == BAD_INPUT
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [(), ("--apply", "fold"), ("--apply", "fold", "--merge", "all")])
def test_a_scale_that_an_earlier_run_set_is_there(
    more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So a command that is run again on what it wrote changes nothing; another scale is refused."""
    once, again = tmp_path / "once.onnx", tmp_path / "again.onnx"
    usual = ("--certify", "off", "--estimate", "weights", "--no-validate", "-q", *more)
    assert command(LLAMA, "-o", once, "--set-scale", f"{FIRST}=2^6", *usual) == PASSED
    assert command(once, "-o", again, "--set-scale", f"{FIRST}=2^6", *usual) == PASSED
    assert once.read_bytes() == again.read_bytes()
    assert command(once, "-o", again, "--set-scale", f"{FIRST}=2^7", *usual) == BAD_INPUT
    assert "cannot be scaled by 128: scaled by an earlier run." in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    ["-o", "--report", "--html", "--sidecar", "--config", "--target-file", "--inputs", "--observe"],
)
def test_a_name_that_is_empty_is_bad_usage(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a variable of a script that is not set; by itself it would be the folder."""
    for words, told in (((LLAMA, option, ""), option), (("",), "MODEL.onnx")):
        with pytest.raises(SystemExit) as stopped:
            command(*words)
        assert stopped.value.code == BAD_INPUT
        assert f"{told}: the name of the file is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "one", "other"),
    [
        ("--set-scale", f"{FIRST}=2^3", f"{FIRST}=2^4"),
        ("--feed", "input_ids=ids(0,3)", "input_ids=ids(0,4)"),
        ("--dim", "batch=1", "batch=2"),
    ],
)
def test_two_values_for_one_name_are_bad_usage(
    option: str, one: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = ("--dry-run", "--certify", "off", "--estimate", "weights", "-q")
    with pytest.raises(SystemExit) as stopped:
        command(LLAMA, option, one, option, other, *rest)
    assert stopped.value.code == BAD_INPUT and "is given twice" in capsys.readouterr().err
    assert command(LLAMA, option, one, option, one, *rest) == PASSED  # says nothing else


@pytest.mark.parametrize("option", ["--exclude", "--only"])
def test_a_second_expression_is_bad_usage(
    option: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It would replace the first, and norms that were meant to be left alone would be scaled."""
    output = str(tmp_path / "o.onnx")
    with pytest.raises(SystemExit) as stopped:
        main([str(SAMPLES / "bert_like.onnx"), "-o", output, option, "a", f"{option}=b"])
    assert stopped.value.code == BAD_INPUT
    assert f"{option}: given twice; join both as" in capsys.readouterr().err


def test_a_norm_that_is_left_out_cannot_be_set() -> None:
    options = Options(set_scale={FIRST: 2.0}, exclude="layers.0")
    with pytest.raises(SlancError, match="cannot be scaled by 2: left out by"):
        protect(onnx.load(LLAMA), options)


def test_a_scale_that_the_input_cannot_be_divided_by_is_refused() -> None:
    model = graph("y = LpNormalization<axis = -1, p = 2>(x)", {}, "float[2, 4] x", "float[2, 4] y")
    model.graph.node[0].name = "unit"
    with pytest.raises(SlancError, match=r"1\.70141e\+38 is the nearest that the type"):
        protect(model, Options(set_scale={"unit": 2.0**200}))


def test_what_is_no_power_of_two_is_not_folded() -> None:
    """Nor where nothing but the user gives the scale, as the trace does not reach the norm."""
    endless = between("p = Pow(x, far) total = Add(x, p)", {"far": np.array(np.inf, np.float32)})
    for model, name in ((onnx.load(LLAMA), FIRST), (endless, "last")):
        options = Options(set_scale={name: 3.0}, apply="fold", estimate="weights")
        with pytest.raises(SlancError, match="is no power of two"):
            protect(model, options)


def test_norms_of_one_group_that_are_set_to_two_scales_are_refused_by_a_fold() -> None:
    two = {FIRST: 32.0, SECOND: 64.0}
    with pytest.raises(SlancError, match="read one group of tensors"):
        protect(onnx.load(LLAMA), Options(set_scale=two, apply="fold"))
    alike = {FIRST: 32.0, SECOND: 32.0}
    protect(onnx.load(LLAMA), Options(set_scale=alike, apply="fold"))
    protect(onnx.load(LLAMA), Options(set_scale=two))


def test_a_group_takes_the_scale_of_its_norm() -> None:
    usual = protect(onnx.load(LLAMA), Options(apply="fold"))
    of_group = next(d.scale for d in usual if d.norm.name == FIRST)
    assert of_group is not None
    asked = 2 * of_group
    decided = protect(onnx.load(LLAMA), Options(apply="fold", set_scale={FIRST: asked}))
    in_group = [d for d in decided if d.scale == asked]
    assert len(in_group) > 1


@pytest.mark.parametrize("apply", ["div", "fold"])
def test_a_dry_run_decides_and_reports_and_writes_no_model(
    apply: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report, page = (tmp_path / name for name in ("out.onnx", "r.json", "s.json"))
    given = LLAMA, "-o", out, "--apply", apply
    assert command(*given, "--dry-run", "--report", report, "--sidecar", page) == PASSED
    said = capsys.readouterr().out
    assert "nothing written" in said and "NOT VALIDATED | --dry-run was given" in said
    assert sorted(tmp_path.iterdir()) == [report, page]
    assert json.loads(report.read_text())["output"] is None
    dry = scales(report)
    assert command(*given, "--no-validate", "--report", report) == PASSED
    assert dry == scales(report)


@pytest.mark.parametrize("option", ["--fp32-nodes=FILE.txt", "--tokens=ids.npy"])
def test_a_dry_run_runs_nothing(option: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as usage:
        command(LLAMA, "-o", tmp_path / "out.onnx", "--dry-run", option)
    assert usage.value.code == BAD_INPUT


@pytest.mark.parametrize(
    ("given", "required", "missing"),
    [
        ((), "validated", ""),
        ((), "scaled", ""),
        (("--no-validate",), "validated", "--require validated: no validation passed"),
        (("--dry-run",), "validated", "--require validated: no validation passed"),
        (("--exclude", "layers.0"), "scaled", ""),
        (("--certify", "off"), "certified", "--require certified: 7 of 7 norms are not"),
        (("--set-scale", f"{FIRST}=2^-6", "--dry-run"), "certified", "are not, first"),
    ],
)
def test_a_shortfall_of_what_is_required_fails(
    given: tuple[str, ...],
    required: Required,
    missing: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.onnx"
    status = command(LLAMA, "-o", out, *given, "--require", required, "-q")
    last = capsys.readouterr().out.splitlines()[-1]
    assert status == (FAILED if missing else PASSED), last
    assert missing in last
    assert ("--require" in last) == bool(missing)
    assert ("FAILED" in last) == bool(missing)
    assert out.exists() == ("--dry-run" not in given)


def test_all_of_several_requirements_are_told(tmp_path: Path) -> None:
    required: tuple[Required, ...] = ("validated", "certified", "scaled")
    options = Options(require=required, validate=False, certify="off")
    outcome = protect_file(BERT, tmp_path / "out.onnx", options)
    assert not outcome.passed
    assert len(outcome.not_as_required) == 2


@pytest.mark.parametrize("apply", ["div", "fold"])
@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.onnx")), ids=lambda path: path.stem)
def test_a_sidecar_keeps_to_its_schema_and_says_what_the_report_says(
    sample: Path, apply: ApplyRule, tmp_path: Path
) -> None:
    out, report, beside = (tmp_path / name for name in ("out.onnx", "r.json", "s.json"))
    for _ in range(2):  # the second replaces those of the first
        status = command(
            *(sample, "-o", out, "--apply", apply, "--no-validate", "--exclude", "layers.1", "-q"),
            *("--report", report, "--sidecar", beside),
        )
        assert status == PASSED
    found = json.loads(beside.read_text())
    jsonschema.validate(found, schema())
    told = json.loads(report.read_text())["norms"]
    for norm, entry in zip(found["norms"], told, strict=True):
        assert norm["name"] == entry["name"] and norm["tensor"] == entry["input"]
        for key in ("kind", "width", "status", "applied", "epsilon", "scaled_epsilon"):
            assert norm[key] == entry[key]
        assert norm["safe_radius"] == entry["safe_radius"]
        if norm["status"] == "scaled":
            assert norm["scale"] == 2.0 ** norm["exponent"] == entry["scale"]
        else:
            assert norm["exponent"] is None


def test_a_sidecar_replaces_no_other_file(tmp_path: Path) -> None:
    other = tmp_path / "weights.json"
    other.write_text('{"version": "1"}')
    assert command(LLAMA, "-o", tmp_path / "o.onnx", "--sidecar", other) == BAD_INPUT
    assert other.read_text() == '{"version": "1"}'


def test_a_report_to_stdout_of_a_model_without_norms_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(graph("y = Relu(x)", {}, "float[2, 4] x", "float[2, 4] y"), tmp_path / "m.onnx")
    assert command(tmp_path / "m.onnx", "--report", "-") == PASSED
    said = capsys.readouterr()
    assert json.loads(said.out)["norms"] == []
    assert "no norm found; nothing to do, nothing written" in said.err


def test_a_report_to_stdout_is_json_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "out.onnx", tmp_path / "r.json"
    given = BERT, "-o", out, "--no-validate"
    assert command(*given, "--report", "-") == PASSED
    said = capsys.readouterr()
    assert command(*given, "--report", file, "-q") == PASSED
    to_stdout, to_file = json.loads(said.out), json.loads(file.read_text())
    for report in (to_stdout, to_file):
        del report["seconds"], report["options"]
    assert to_stdout == to_file
    assert said.err.startswith("NOT VALIDATED")
    assert sorted(tmp_path.iterdir()) == [out, file]


NO_NORM = graph("y = Relu(x)", {}, "float[2, 4] x", "float[2, 4] y")


@pytest.mark.parametrize(
    ("path", "given", "status"),
    [
        (None, (), PASSED),  # nothing is written that could be validated
        (None, ("--to", "fp16"), FAILED),
        (LLAMA, (), FAILED),
        (LLAMA, ("--exclude", "."), FAILED),
    ],
)
def test_what_is_written_unvalidated_is_not_as_required(
    path: Path | None,
    given: tuple[str, ...],
    status: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.onnx"
    if path is None:
        path = tmp_path / "m.onnx"
        onnx.save(NO_NORM, path)
    asked = ("--no-validate", "-q", "-o", out, "--require", "validated")
    assert command(path, *given, *asked) == status
    last = capsys.readouterr().out.splitlines()[-1]
    assert ("--require validated: no validation passed" in last) == (status == FAILED)
    assert out.exists() == (status == FAILED)
    assert command(path, *given, *asked[:4]) == PASSED
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("NOT VALIDATED") == (status == FAILED)
