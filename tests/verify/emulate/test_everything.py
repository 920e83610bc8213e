"""A device that has FP16 alone: against NumPy, which rounds after every operation."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.verify.emulate.everything import Everything
from slanc_onnx.verify.emulate.norms import emulate
from tests.models.fold_models import RMS, folded, weights
from tests.models.small_graphs import D, graph, normal
from tests.oracles.unoptimised import Values, run

ROWS = f"float[a, b, {D}] x"


def half(values: NDArray[Any]) -> NDArray[np.float32]:
    """To FP16 and back."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float16).astype(np.float32)


def emulated(
    model: onnx.ModelProto,
    accelerator: Accelerator | None = None,
    how: Everything | None = None,
    **feeds: NDArray[Any],
) -> Values:
    norms = find_norms_in(read_graph(model))
    device = accelerator or Accelerator().summing("fp32")
    copy = emulate(model, norms, device, everything=how or Everything())
    values = run(copy.model, **feeds)
    return {output.name: values[output.name] for output in model.graph.output}


def test_every_operation_and_every_weight_is_rounded() -> None:
    nodes = "m = MatMul(x, w1) a = Add(m, b1) t = Transpose<perm = [0, 2, 1]>(a) y = Mul(t, t)"
    model, w = graph(nodes, weights(), ROWS), weights()
    x = half(normal(9, 2, 3, D))
    a = half(half(x @ half(w["w1"])) + half(w["b1"]))
    expected = half(np.square(a.transpose(0, 2, 1)))
    assert (emulated(model, x=x)["y"] == expected).all()
    assert not (run(model, x=x)["y"] == expected).all()


def test_a_table_is_rounded_where_it_is_read() -> None:
    model, w = graph("y = Gather(table, ids)", weights()), weights()
    ids = np.array([[3, 1, 4]], np.int64)
    assert (emulated(model, ids=ids)["y"] == half(w["table"][ids])).all()


def test_a_finite_constant_beyond_the_format_is_its_largest_number() -> None:
    nodes = "m = Mul(x, zero) y = Add(m, mask)"
    mask = np.full(D, -3.4e38, np.float32)
    model = graph(nodes, weights(mask=mask, zero=np.zeros(D, np.float32)), ROWS)
    assert (emulated(model, x=normal(9, 1, 2, D))["y"] == -65504.0).all()


def test_infinity_stays_infinity_and_what_is_kept_becomes_it() -> None:
    nodes = "m = Mul(x, zero) a = Add(m, mask) b = Where(no, x, mask) y = Concat<axis = 1>(a, b)"
    for value in (-np.inf, -3.4e38, np.finfo(np.float32).min):
        mask, no = np.full(D, value, np.float32), np.zeros(D, bool)
        model = graph(nodes, weights(mask=mask, zero=np.zeros(D, np.float32), no=no), ROWS)
        x = normal(9, 1, 2, D)
        kept = emulated(model, how=Everything(beyond="infinite"), x=x)["y"]
        assert (kept == -np.inf).all()
        clipped = emulated(model, x=x)["y"]
        assert (clipped == (-65504.0 if np.isfinite(value) else -np.inf)).all()


def test_subnormal_results_are_flushed_where_the_device_does() -> None:
    model = graph("y = Mul(x, b1)", weights(b1=np.full(D, 2.0**-12, np.float32)), ROWS)
    x = np.full((1, 1, D), 2.0**-8, np.float32)
    assert (emulated(model, x=x)["y"] == 2.0**-20).all()
    assert (
        emulated(model, Accelerator(flush_subnormals=True).summing("fp32"), x=x)["y"] == 0
    ).all()


def test_integers_and_shapes_are_left_alone() -> None:
    nodes = "s = Shape(x) n = Gather(s, one) c = Cast<to = 1>(n) y = Mul(x, c)"
    model = graph(nodes, weights(one=np.array(1)), ROWS)
    x = half(normal(9, 1, 3, D))
    assert (emulated(model, x=x)["y"] == half(x * 3)).all()


def test_what_lies_in_a_branch_is_rounded() -> None:
    nodes = """
        y = If (flag) <
            then_branch = one () => (float[a, b, c] t) { t = Mul(x, b1) },
            else_branch = two () => (float[a, b, c] e) { e = Exp(x) }
        >
    """
    model, w = graph(nodes, weights(), f"{ROWS}, bool flag"), weights()
    x = half(normal(9, 1, 3, D))
    then = emulated(model, x=x, flag=np.array(True))["y"]
    assert (then == half(x * half(w["b1"]))).all()
    other = emulated(model, x=x, flag=np.array(False))["y"]
    assert np.allclose(other, half(np.exp(x)), rtol=2**-10)


STREAM = f"""
    e = Gather(table, ids)
    [n1] h = {RMS}(e, g1)
    m = MatMul(h, big)
    r = Add(e, m)
    [n2] y = {RMS}(r, g2)
"""


def test_a_stream_that_leaves_the_format_is_lost_and_folding_heals_it() -> None:
    table = normal(0, 11, D, spread=30.0)
    model = graph(STREAM, weights(big=normal(3, D, D, spread=60000.0), table=table))
    ids = np.array([[3, 1, 4, 1, 5]], np.int64)
    exact = run(model, ids=ids)["y"]
    assert not np.isfinite(emulated(model, ids=ids)["y"]).all()
    after, found = folded(model, {"n1": (2, 2), "n2": (14, 14)})
    assert found.inserted == 1
    assert np.allclose(emulated(after, ids=ids)["y"], exact, atol=0.02, rtol=0.02)


def test_the_sum_of_a_skip_norm_is_rounded() -> None:
    nodes = """
        k = Mul(x, ones)
        [n] y, , , r = com.microsoft.SkipSimplifiedLayerNormalization(x, k, g1)
    """
    model = graph(nodes, weights(), ROWS, "float[a, b, c] y, float[a, b, c] r")
    x = np.full((1, 1, D), 40000.0, np.float32)
    assert np.isinf(emulated(model, x=half(x))["r"]).all()
