"""Where folded scales would keep in the format what left it, the last line says so."""

from pathlib import Path

import numpy as np
import onnx

from slanc_onnx import Options, Outcome, protect_file
from slanc_onnx.report.terminal import final_parts
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph
from tests.verify.test_input_left import DEVICE, ROWS, X, stream

SAID = "next: --apply fold heals that: it was tried on the same inputs, and passes"


def job(folder: Path, size: float, apply: str = "div", behind: str = "") -> Outcome:
    onnx.save(stream(size, behind), folder / "m.onnx")
    options = Options(inputs={"x": X}, accelerator=DEVICE, certify="off", apply=apply)  # type: ignore[arg-type]
    return protect_file(folder / "m.onnx", folder / "new.onnx", options)


def test_weights_that_make_too_much_are_named_as_what_fold_heals(tmp_path: Path) -> None:
    outcome = job(tmp_path, 3e5)
    assert not outcome.passed and SAID in final_parts(outcome)
    written = (tmp_path / "new.onnx").read_bytes()
    [big] = [t for t in onnx.load_from_string(written).graph.initializer if t.name == "big"]
    assert float(np.abs(X * onnx.numpy_helper.to_array(big)).max()) > 65504  # nothing is folded
    assert job(tmp_path, 3e5, "fold").passed  # as it says
    [big] = [t for t in onnx.load(tmp_path / "new.onnx").graph.initializer if t.name == "big"]
    assert float(np.abs(X * onnx.numpy_helper.to_array(big)).max()) < 65504


def test_nothing_is_said_where_it_passes_or_fold_does_not_heal(tmp_path: Path) -> None:
    assert SAID not in final_parts(job(tmp_path, 1e4))
    # What overflows is an exponential: nothing in front of it divides it.
    small = np.full(D, np.log(3e5) / float(np.abs(X).max()), np.float32)
    nodes = f"[m] a = {RMS}(x, g1) z = Mul(x, small) h = Exp(z) [n] n = {RMS}(h, g2) y = Add(a, n)"
    onnx.save(graph(nodes, weights(small=np.abs(small)), ROWS), tmp_path / "m.onnx")
    assert np.exp(X * small).max() > 65504
    options = Options(inputs={"x": X}, accelerator=DEVICE, certify="off")
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "new.onnx", options)
    assert not outcome.passed and SAID not in final_parts(outcome)
