"""Constants that the graph itself quantises: read as they are after it, to what the type keeps."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.models.small_graphs import GAMMA, D, Weights, between, exact, frobenius, normal, paper
from tests.oracles.shown_rows import estimated, shown, sums, x_rows

N = 12
ROUNDED = {
    "float8 E4M3": (TensorProto.FLOAT8E4M3FN, None, 2.0**-4),
    "float8 E4M3, per column": (TensorProto.FLOAT8E4M3FN, 1, 2.0**-4),
    "float8 E5M2": (TensorProto.FLOAT8E5M2, None, 2.0**-3),
    "int8": (TensorProto.INT8, None, 1e-6),
    "uint8, per row": (TensorProto.UINT8, 0, 1e-6),
    "int16": (TensorProto.INT16, None, 1e-6),
    "int4": (TensorProto.INT4, None, 1e-6),
    "uint4, per column": (TensorProto.UINT4, 1, 1e-6),
}
MIDDLES: dict[int, int] = {TensorProto.UINT8: 120, TensorProto.UINT4: 7}


@pytest.mark.parametrize("kind_given", ["zero", "output_dtype"])
@pytest.mark.parametrize(("kind", "per", "tolerance"), ROUNDED.values(), ids=ROUNDED)
def test_a_constant_that_the_graph_quantises_and_dequantises(
    kind: int, per: int | None, tolerance: float, kind_given: str
) -> None:
    """Floats keep half a unit of their last bit, 4 or 3 bits down; integers what a run shows."""
    w = normal(5, D, N)
    axis = "" if per is None else f"axis = {per}"
    zero = ", w_zero" if kind_given == "zero" else ""
    more = ", ".join(filter(None, (axis, "" if zero else f"output_dtype = {kind}")))
    nodes = f"""
        c = QuantizeLinear<{more}>(w, w_step{zero})
        m = DequantizeLinear<{axis}>(c, w_step{zero})
        total = MatMul(x, m)
    """.replace("<>", "")
    size = () if per is None else ((D, N)[per],)
    # The largest elements of w do not fit the integers' range and are clipped.
    step = np.full(size, 0.02 if kind in (TensorProto.INT8, TensorProto.UINT8) else 0.3, np.float32)
    weights: Weights = {"w": w, "w_step": step, "gamma_of_last": np.ones(N, np.float32)}
    model = between(nodes, weights, opset=21)
    if zero:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        middle = np.full(size, MIDDLES.get(kind, 0)).astype(dtype)
        model.graph.initializer.append(numpy_helper.from_array(middle, "w_zero"))
    truth = exact(shown(model, "m"))
    assert paper(model)["last"] == pytest.approx(
        frobenius(np.diag(exact(GAMMA)) @ truth), rel=tolerance
    )
    found = estimated(model)
    rows = sums(x_rows() @ truth)
    assert found.seen == pytest.approx(rows.max(), rel=3 * tolerance + 1e-4)
