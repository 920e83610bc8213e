"""The tensor that left the format first: named with its op and its size, which NumPy knows."""

import numpy as np
import onnx

from slanc_onnx import Accelerator, Options, Validation, validate
from slanc_onnx.reasons import Failure, Reason
from slanc_onnx.report.as_json import validation_entry
from slanc_onnx.report.wording import reason_text
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph, normal

ROWS = f"float[a, b, {D}] x"
X = normal(9, 1, 3, D)


def checked(model: onnx.ModelProto, **feeds: np.ndarray) -> Validation:
    device = Accelerator().summing("fp32")
    return validate(model, model, Options(inputs=feeds, emulate="all", accelerator=device))


def test_the_product_that_overflows_is_named_and_not_the_norm_behind_it() -> None:
    nodes = f"q = MatMul(x, big) m = MatMul(q, big) r = Add(m, x) [n] y = {RMS}(r, g1)"
    model = graph(nodes, weights(big=normal(3, D, D, spread=200.0)), ROWS)
    result = checked(model, x=X)
    big = {init.name: onnx.numpy_helper.to_array(init) for init in model.graph.initializer}["big"]
    size = float(np.abs(X @ big @ big).max())
    assert size > 65504 > float(np.abs(X @ big).max())
    left = result.first_out
    assert left is not None and (left.tensor, left.op, left.norm) == ("m", "MatMul", "")
    assert np.isclose(left.value, size, rtol=2**-9)
    first, second, *_ = result.failures
    assert first == Reason(Failure.LEFT_FORMAT, ("FP16", left.value), "MatMul", "m")
    assert second == Reason(Failure.ROWS_OVERFLOW, (1, "n"))
    assert reason_text(first).startswith("MatMul (m): is the first to leave FP16, with ")
    entry = validation_entry(result, None)
    assert entry is not None
    assert entry["fp16"]["first_out_of_range"] == {
        "tensor": "m",
        "op": "MatMul",
        "value": left.value,
    }


def test_a_mean_is_named_with_its_sum() -> None:
    nodes = f"m = ReduceMean<axes = [1]>(x) [n] y = {RMS}(m, g1)"
    model = graph(nodes, weights(), ROWS)
    x = np.full((1, 9216, D), 10.0, np.float32)
    left = checked(model, x=x).first_out
    assert left is not None
    assert (left.tensor, left.op, left.value) == ("m", "ReduceMean", 92160.0)


def test_a_norm_whose_rows_overflow_is_named_with_its_sum_of_squares() -> None:
    model = graph(f"a = Add(x, x) [n] y = {RMS}(a, g1)", weights(), ROWS)
    x = np.full((1, 1, D), 64.0, np.float32)
    result = checked(model, x=x)
    left = result.first_out
    assert left is not None
    assert (left.tensor, left.norm, left.value) == ("y", "n", D * 128.0**2)
    assert Failure.LEFT_FORMAT not in [reason.kind for reason in result.failures]
    alone = validate(model, model, Options(inputs={"x": x})).first_out
    assert alone == left


def test_an_infinite_mask_is_no_loss() -> None:
    nodes = f"m = Add(x, mask) s = Softmax(m) a = MatMul(s, w1) [n] y = {RMS}(a, g1)"
    mask = np.where(np.arange(D) < 3, -np.inf, 0).astype(np.float32)
    result = checked(graph(nodes, weights(mask=mask), ROWS), x=X)
    assert result.passed and result.first_out is None


def test_what_leaves_in_a_branch_is_named() -> None:
    nodes = f"""
        m = If (flag) <
            then_branch = one () => (float[a, b, c] t) {{ t = Mul(x, large) }},
            else_branch = two () => (float[a, b, c] e) {{ e = Exp(x) }}
        >
        [n] y = {RMS}(m, g1)
    """
    model = graph(nodes, weights(large=np.full(D, 60000.0, np.float32)), f"{ROWS}, bool flag")
    left = checked(model, x=X, flag=np.array(True)).first_out
    assert left is not None and (left.tensor, left.op) == ("t", "Mul")
    assert np.isclose(left.value, 60000 * np.abs(X).max(), rtol=2**-9)
