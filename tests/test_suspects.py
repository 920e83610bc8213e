"""What looks like a norm is accounted for: in reports, on a terminal, in the exit status."""

import json
import re
from pathlib import Path

import onnx
import pytest

from slanc_onnx import Options, SlancError, protect, protect_file
from tests.conftest import Run
from tests.models.four_norms import four_norms
from tests.spellings.no_norms import SUSPECTS
from tests.spellings.regions import L2

SUSPECT, KNOWN = SUSPECTS[0], L2[0]
NONE_FOUND = (
    "m.onnx: FAILED | no norm found; 1 not understood, first 'v' (ReduceMean): Add (t): joins"
)


def save(*, known: bool) -> None:
    """A model with a suspect, and with a norm besides."""
    model = SUSPECT.model()
    if known:
        norm = onnx.parser.parse_model(
            """<ir_version: 10, opset_import: ["": 18]> n (float[2, rows, 8] x) => (float[] r)
            <int64[1] along = {-1}, float small = {1e-5}> {
            square = Mul(x, x) mean = ReduceMean(square, along) more = Add(mean, small)
            root = Sqrt(more) [known] r = Div(x, root) }"""
        )
        model.graph.node.extend(norm.graph.node)
        model.graph.initializer.extend(norm.graph.initializer)
        model.graph.output.extend(norm.graph.output)
    onnx.save(model, "m.onnx")


def test_a_suspect_without_any_norm_is_no_success(run: Run) -> None:
    save(known=False)
    status, out, _ = run("m.onnx", "--report", "r.json")
    assert (status, Path("m.slanc.onnx").exists()) == (1, False)
    assert out.startswith(NONE_FOUND) and out.endswith("; nothing written.\n")
    (entry,) = json.loads(Path("r.json").read_text())["suspects"]
    assert (entry["name"], entry["op"], entry["excluded"]) == ("v", "ReduceMean", False)
    assert entry["reasons"][0]["kind"] == "degrees_differ"


def test_a_suspect_beside_a_norm_is_counted_in_the_verdict(run: Run) -> None:
    pytest.importorskip("matplotlib")
    save(known=True)
    status, out, _ = run("m.onnx", "--html", "p.html")
    *_, last = out.splitlines()
    assert status == 1 and last.startswith(
        "FAILED | 1 of 2 norms safe; 1 not understood, first 'v'"
    )
    assert "note: v (ReduceMean) looks like a norm and was not understood: " in out
    page = Path("p.html").read_text()
    _, section = page.split("<h2>Suspects</h2>")
    row = r'<tr class="bad"><td class="[a-z ]+">v</td><td class="[a-z ]+">ReduceMean</td>'
    assert re.search(row, section) and "1 of 1 not understood" in section
    status, out, _ = run("m.onnx", "--no-validate", "-q")
    assert status == 1 and "| --no-validate was given" in out


@pytest.mark.parametrize("option", [("--exclude", "^v$"), ("--only", "kno")])
def test_a_suspect_that_is_left_out_is_accepted(run: Run, option: tuple[str, str]) -> None:
    save(known=True)
    status, out, _ = run("m.onnx", *option, "--report", "r.json")
    assert status == 0 and out.splitlines()[-1].startswith("NORMS PASSED")
    assert "v (ReduceMean) looks like a norm and was left out" in out
    assert json.loads(Path("r.json").read_text())["suspects"][0]["excluded"]
    save(known=False)
    status, out, _ = run("m.onnx", *option)
    assert (status, out) == (0, "m.onnx: no norm found; nothing to do, nothing written.\n")


def test_a_norm_that_is_left_out_is_skipped_and_accepted(run: Run) -> None:
    status, out, _ = run("model.onnx", "--only", "hot", "--report", "r.json")
    norms = json.loads(Path("r.json").read_text())["norms"]
    assert status == 0 and out.splitlines()[-1].startswith("NORMS PASSED")
    assert [n["name"] for n in norms if n["status"] == "scaled"] == ["hot"]
    assert {n["reason"] for n in norms if n["name"] != "hot"} == {"left out by --exclude or --only"}
    assert {n["observed"] is None for n in norms if n["name"] != "hot"} == {True}


def test_every_norm_skipped_is_no_success(run: Run) -> None:
    onnx.save(four_norms(leaky=True), "model.onnx")
    status, out, _ = run("model.onnx", "--exclude", "hot|mild|inner")
    assert status == 1  # a value inside the one that is left is read elsewhere
    assert out.splitlines()[-1].startswith("FAILED | every norm was skipped; --exclude accepts")
    status, out, _ = run("model.onnx", "--exclude", ".")
    assert status == 0 and out.splitlines()[-1].startswith("NORMS PASSED")


@pytest.mark.parametrize("option", ["exclude", "only"])
def test_what_is_no_regular_expression_is_refused(run: Run, option: str) -> None:
    status, _, err = run("model.onnx", f"--{option}", "(")
    assert status == 2 and f"--{option} (: is no regular expression" in err
    with pytest.raises(SlancError, match="is no regular expression"):
        protect(KNOWN.model(), Options(exclude="("))


def test_an_l2_normalisation_is_scaled_and_has_no_certificate(run: Run) -> None:
    onnx.save(KNOWN.model(), "m.onnx")
    status, out, _ = run("m.onnx", "--report", "r.json")
    assert status == 0 and out.splitlines()[-1].startswith("NORMS PASSED")
    (norm,) = json.loads(Path("r.json").read_text())["norms"]
    assert (norm["kind"], norm["status"]) == ("l2", "scaled")
    outcome = protect_file(Path("m.onnx"), Path("n.onnx"), Options(apply="fold", emulate="all"))
    assert outcome.passed
