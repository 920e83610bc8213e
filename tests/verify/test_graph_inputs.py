"""Graph inputs are stored in FP16 too where everything is in FP16; truth is NumPy's float16."""

import numpy as np
import onnx
import pytest

from slanc_onnx import Accelerator, Options, Validation, validate
from slanc_onnx.graph.edits import name_nodes
from slanc_onnx.norms.model import read_model
from slanc_onnx.options import EmulateRule
from slanc_onnx.reasons import Failure, Reason
from slanc_onnx.report.terminal import verdict
from slanc_onnx.run.feeds import validation_inputs
from slanc_onnx.verify.emulate.everything import Everything
from slanc_onnx.verify.emulate.norms import emulate
from slanc_onnx.verify.fp32_nodes import find_fp32_nodes
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph, normal
from tests.oracles.half_ops import half_run
from tests.oracles.unoptimised import run

ROWS = f"float[a, b, {D}] x"
SMALL = np.full(1, 2.0**-14, np.float32)
NODES = f"[s] s = Mul(x, small) [a] a = Add(s, s) [n] y = {RMS}(a, g1)"
X = normal(9, 1, 3, D, spread=1e5)


def checked(model: onnx.ModelProto, x: np.ndarray, what: EmulateRule = "all") -> Validation:
    device = Accelerator().summing("fp32")
    return validate(model, model, Options(inputs={"x": x}, emulate=what, accelerator=device))


def test_an_input_that_fp16_does_not_hold_is_named_with_its_size() -> None:
    model = graph(NODES, weights(small=SMALL), ROWS)
    name_nodes(model)
    _, fits = half_run(model, (), x=X)
    assert not fits  # every node in FP16: x itself is not held
    result = checked(model, X)
    size = float(np.abs(X).max())
    assert result.failures[0] == Reason(Failure.LEFT_FORMAT, ("FP16", size), "input", "x")
    told = " | ".join(verdict(result))
    assert told.startswith("FAILED | ") and "input (x): is the first to leave FP16, with " in told
    first, *others = result.tensors
    assert (first.tensor, first.op, first.largest, first.left) == ("x", "input", size, True)
    assert not any(other.left for other in others)


def test_an_input_within_fp16_passes_and_norms_alone_round_none() -> None:
    model = graph(NODES, weights(small=SMALL), ROWS)
    assert checked(model, (X / 16).astype(np.float32)).passed
    assert checked(model, X, what="norms").passed


@pytest.mark.parametrize("kept", [(), ("s",), ("s", "a")], ids=str)
def test_what_reads_an_input_in_fp32_reads_it_as_it_is(kept: tuple[str, ...]) -> None:
    nodes = "[s] s = Mul(x, small) [a] a = Add(s, s) [m] y = Mul(a, x)"
    model = graph(nodes, weights(small=SMALL), ROWS)
    x = normal(9, 1, 3, D, spread=100.0)  # with more bits than FP16 has
    expected, _ = half_run(model, kept, x=x)
    copy = emulate(model, [], Accelerator(), True, Everything(True, frozenset(kept)))
    assert np.array_equal(run(copy.model, x=x)["y"], expected["y"])


def test_an_input_that_a_branch_reads_is_stored_as_well() -> None:
    nodes = f"""
        m = If (flag) <
            then_branch = one () => (float[a, b, c] t) {{ t = Mul(x, small) }},
            else_branch = two () => (float[a, b, c] e) {{ e = Neg(x) }}
        >
        [n] y = {RMS}(m, g1)
    """
    model = graph(nodes, weights(small=SMALL), f"{ROWS}, bool flag")
    feeds = {"x": X, "flag": np.array(True)}
    result = validate(model, model, Options(inputs=feeds, emulate="all"))
    assert result.first_out is not None and result.first_out.tensor == "x"


def test_the_node_that_reads_such_an_input_has_to_stay_in_fp32() -> None:
    model = graph(NODES, weights(small=SMALL), ROWS)
    read, options = read_model(model, None), Options(inputs={"x": X}, emulate="all")
    result = checked(model, X)
    found = find_fp32_nodes(read, read, options, validation_inputs(read, options), result)
    assert found.works and found.names == ("s",)
