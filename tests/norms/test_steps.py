"""Spellings whose ops are other steps than a norm's: in FP16 they overflow where those do not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from slanc_onnx import Options, compute_scales
from slanc_onnx.reasons import Unproved
from tests.models.small_graphs import graph

D, EPSILON, GAMMA, BETA = 8, 1e-5, 500.0, 0.25
CENTRED = "m = ReduceMean<axes = [-1]>(x) c = Sub(x, m) "
VARIANCE = CENTRED + "q = Mul(c, c) v = ReduceMean<axes = [-1]>(q) t = Add(v, eps) "
AFFINE = " o = Mul(n, g) y = Add(o, b)"
OTHERS = {
    "the reciprocal before the root": VARIANCE + "r = Reciprocal(t) i = Sqrt(r) n = Mul(c, i)",
    "one over the variance": VARIANCE + "r = Div(one, t) i = Sqrt(r) n = Mul(c, i)",
    "gamma first": VARIANCE + "s = Sqrt(t) k = Mul(c, g) n = Div(k, s)",
    "gamma in the inverse": VARIANCE + "s = Sqrt(t) i = Reciprocal(s) k = Mul(i, g) n = Mul(c, k)",
    "gamma over the root": VARIANCE + "s = Sqrt(t) i = Div(one, s) k = Mul(g, i) n = Mul(k, c)",
    "two parts": VARIANCE
    + "s = Sqrt(t) i = Reciprocal(s) k = Mul(i, g) w = Mul(x, k) u = Mul(m, k) z = Sub(b, u) "
    "y = Add(w, z)",
}
SAME = {
    "a quotient": VARIANCE + "s = Sqrt(t) n = Div(c, s)" + AFFINE,
    "an inverse": VARIANCE + "s = Sqrt(t) i = Reciprocal(s) n = Mul(c, i)" + AFFINE,
    "a power": VARIANCE + "i = Pow(t, minus_half) n = Mul(c, i)" + AFFINE,
    "sums over the width": CENTRED
    + "q = Mul(c, c) h = ReduceSum(q, last) v = Div(h, width) t = Add(v, eps) s = Sqrt(t) "
    "n = Div(c, s)" + AFFINE,
}
# What comes out smaller or less exact, and so without bounds as well.
LESS = {
    "squares over the width": CENTRED
    + "q = Mul(c, c) h = Div(q, width) v = ReduceSum(h, last) t = Add(v, eps) s = Sqrt(t) "
    "n = Div(c, s)" + AFFINE,
    "a floor": CENTRED
    + "q = Mul(c, c) v = ReduceMean<axes = [-1]>(q) t = Max(v, eps) s = Sqrt(t) n = Div(c, s)"
    + AFFINE,
    "the square of a length": CENTRED
    + "l = ReduceL2<axes = [-1]>(c) h = Mul(l, l) v = Div(h, width) t = Add(v, eps) s = Sqrt(t) "
    "n = Div(c, s)" + AFFINE,
}
WEIGHTS = {
    "table": np.random.default_rng(0).standard_normal((20, D)).astype(np.float32),
    "eps": np.float32(EPSILON),
    "one": np.float32(1),
    "width": np.float32(D),
    "minus_half": np.float32(-0.5),
    "last": np.array([-1]),
    "g": np.full(D, GAMMA, np.float32),
    "b": np.full(D, BETA, np.float32),
}


def spelled(nodes: str) -> onnx.ModelProto:
    weights = {name: np.asarray(values) for name, values in WEIGHTS.items()}
    used = {name: w for name, w in weights.items() if name == "table" or f"{name}" in nodes}
    return graph(f"x = Gather(table, ids) {nodes}", used)


def in_half(model: onnx.ModelProto, row: NDArray[np.float16]) -> dict[str, NDArray[np.float16]]:
    """Every result in FP16, by name; epsilon as the smallest number where it would be less."""
    known = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    halves = {n: np.asarray(v, np.float16) for n, v in known.items() if v.dtype == np.float32}
    made = {"x": row}
    ops: dict[str, Callable[..., Any]] = {
        "Sub": np.subtract,
        "Add": np.add,
        "Mul": np.multiply,
        "Div": np.divide,
        "Sqrt": np.sqrt,
        "Reciprocal": lambda a: np.float16(1) / a,
        "ReduceMean": lambda a: np.mean(a, keepdims=True, dtype=np.float16),
    }
    with np.errstate(all="ignore"):
        for node in model.graph.node[1:]:
            read = [made.get(name, halves.get(name)) for name in node.input]
            made[node.output[0]] = np.asarray(ops[node.op_type](*read))
            assert made[node.output[0]].dtype == np.float16
    return made


@pytest.mark.parametrize("title", OTHERS)
def test_what_overflows_by_its_spelling_is_not_certified(title: str) -> None:
    nodes = OTHERS[title] if title == "two parts" else OTHERS[title] + AFFINE
    model = spelled(nodes if "g)" not in OTHERS[title] else nodes.replace(AFFINE, " y = Add(n, b)"))
    (norm,) = compute_scales(model, Options(estimate="weights"))
    rows = [np.full(D, v) for v in (0.0, 30.0)] + [np.eye(1, D)[0] * 250]
    lost = [
        not all(np.isfinite(r).all() for r in in_half(model, row.astype(np.float16)).values())
        for row in rows
    ]
    assert any(lost)  # within the safe radius that the steps of a norm have
    assert norm.norm.other_steps and norm.safe_radius is None
    assert norm.certificate is not None and not norm.certificate.certified
    assert norm.certificate.reason is not None
    assert norm.certificate.reason.kind is Unproved.ANOTHER_SPELLING


@pytest.mark.parametrize("title", LESS)
def test_what_is_rounded_otherwise_is_not_certified(title: str) -> None:
    (norm,) = compute_scales(spelled(LESS[title]), Options(estimate="weights"))
    assert norm.norm.other_steps and norm.safe_radius is None


@pytest.mark.parametrize("title", SAME)
def test_the_steps_of_a_norm_are_known_in_every_spelling(title: str) -> None:
    (norm,) = compute_scales(spelled(SAME[title]), Options(estimate="weights"))
    assert not norm.norm.other_steps and norm.safe_radius is not None
