"""What stops a trace: it is named, its norm is listed, and the norms after it are traced anew."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from slanc_onnx.estimate.paper import paper_estimates
from slanc_onnx.ops import CannotFollow
from slanc_onnx.reasons import Decision, Reason, Unread
from slanc_onnx.report.wording import reason_text
from slanc_onnx.trace.expression import Input
from slanc_onnx.trace.rules import RULES
from slanc_onnx.trace.values import Value, View
from slanc_onnx.trace.visit import Visit
from tests.models.small_graphs import (
    GAMMA,
    D,
    between,
    exact,
    frobenius,
    from_weights,
    graph,
    normal,
    read,
)
from tests.spellings.attention import shape

W = normal(5, D, D)

STOPPED = {
    "Einsum": ('total = Einsum<equation = "bsi,bti->bst">(x, x)', "Einsum", "total"),
    "an op of another domain": (
        "h = my.domain.Whirl(x) g = Cast<to = 1>(h) total = Add(g, x)",
        "Whirl",
        "h",
    ),
    "a product of two activations": (
        "t = Transpose<perm = [0, 2, 1]>(x) p = MatMul(x, t) total = Add(p, x)",
        "MatMul",
        "p",
    ),
    "a remainder": ("total = Mod<fmod = 1>(x, half)", "Mod", "total"),
    "a power per channel": ("total = Pow(x, row)", "Pow", "total"),
    "a choice between constants": (
        "g = Cast<to = 9>(x) t = Where(g, row, half) total = Add(t, x)",
        "Where",
        "t",
    ),
    "a MatMul of another domain": ("total = my.domain.MatMul(x, w)", "MatMul", "total"),
    "a stack of matrices": ("total = MatMul(x, stack)", "MatMul", "total"),
    "an op on a weight": ("t = Det(stack) total = Mul(x, t)", "Det", "t"),
    "sequence arithmetic": ("c = CumSum(x, axis) total = MatMul(c, w)", "CumSum", "c"),
    "a matrix product the other way round": (
        "f = com.microsoft.FusedMatMul<transA = 1>(x, w) total = MatMul(f, w)",
        "FusedMatMul",
        "f",
    ),
}


@pytest.mark.parametrize(("nodes", "op", "tensor"), STOPPED.values(), ids=STOPPED)
def test_what_cannot_be_followed_is_named_and_its_norm_listed(
    nodes: str, op: str, tensor: str
) -> None:
    weights = {"w": W, "stack": np.stack([W] * D), "axis": np.array(1), "last_axis": shape(-1)}
    numbers = {"half": np.array(0.5, np.float32), "row": np.arange(D, dtype=np.float32)}
    model = between(nodes, {**weights, **numbers})
    model.opset_import.add(domain="my.domain", version=1)
    estimates, reasons = from_weights(model)
    if op == "Det":  # of a weight alone: nothing tells how large it is
        assert reasons == {"last": f"the trace stopped at {op} ({tensor})"}
    else:
        assumed = estimates["last"].assumes
        assert assumed is not None and f"{op} ({tensor})" in reason_text(assumed)
    (why,) = paper_estimates(*read(model))[1].values()
    assert reason_text(why) == f"the trace stopped at {op} ({tensor})"


def test_a_rule_that_fails_on_a_node_stops_the_trace_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(visit: Visit) -> list[Value]:
        raise IndexError("no such axis")

    monkeypatch.setitem(RULES, "MatMul", failing)
    estimates, reasons = from_weights(between("total = MatMul(x, w)", {"w": W}))
    assumed = estimates["last"].assumes
    assert reasons == {} and assumed is not None
    assert "MatMul (total)" in reason_text(assumed)


def test_what_follows_a_norm_is_traced_anew() -> None:
    """An op that stops the trace costs one norm, not those after it."""
    nodes = """
        h = my.domain.Whirl(x)
        [mid] m = SimplifiedLayerNormalization<axis = -1>(h, gamma)
        total = MatMul(m, w)
    """
    model = between(nodes, {"w": W})
    model.opset_import.add(domain="my.domain", version=1)
    estimates, reasons = from_weights(model)
    assert reasons == {}
    assert estimates["mid"].assumes == Reason(Decision.SIZE_KEPT, (("Whirl", "h"),))
    assert [estimates[name].assumes for name in ("first", "last")] == [None, None]
    paper_estimate, _ = paper_estimates(*read(model))
    truth = frobenius(np.diag(exact(GAMMA)) @ exact(W))
    assert paper_estimate["last"].upper ** 0.5 == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize(
    "norm",
    [
        "[last] y = SimplifiedLayerNormalization<axis = -1>(h, gamma)",
        "[last] y = com.microsoft.SkipSimplifiedLayerNormalization(h, rows, gamma)",
        "[last] y = com.microsoft.SkipSimplifiedLayerNormalization(rows, h, gamma)",
    ],
)
def test_a_norm_of_a_tensor_without_a_shape_is_listed_too(norm: str) -> None:
    nodes = f"rows = Gather(table, ids) g = my.domain.Whirl(rows) h = my.domain.Spin(g) {norm}"
    model = graph(nodes, {"table": normal(0, 11, D), "gamma": GAMMA})
    model.opset_import.add(domain="my.domain", version=1)
    estimates, reasons = from_weights(model)
    assert reasons == {}
    assert estimates["last"].assumes == Reason(Decision.SIZE_KEPT, (("Whirl", "g"),))


def test_a_norm_of_an_empty_cache_is_listed_too() -> None:
    nodes = "[n] y = LayerNormalization(past, gamma)"
    inputs = "float[batch, 4, past_sequence_length, 8] past"
    estimates, reasons = from_weights(graph(nodes, {"gamma": GAMMA}, inputs))
    assert estimates == {}
    assert reasons == {
        "n": "the trace stopped at LayerNormalization (y): has no elements at sequence length 1"
    }


def test_attention_over_no_values_is_not_followed() -> None:
    """NumPy repeats an array without elements along all its axes, however long they are."""
    row = Input(5, "x")
    some, none = (View(row, np.zeros((2, heads, n, 5), np.int64)) for heads, n in ((2, 3), (1, 0)))
    node = gs.Node("Attention", inputs=[gs.Variable(name) for name in "qkv"])
    with pytest.raises(CannotFollow) as told:
        RULES["Attention"](Visit(node, [some, some, none]))
    assert told.value.reason.kind is Unread.EMPTY
