"""An If gives what either branch gives, a constant one what its branch gives."""

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, compute_scales
from slanc_onnx.prove import Certificate
from tests.models.small_graphs import D, between, graph, normal
from tests.oracles.unoptimised import run

W = normal(5, D, D)
WEIGHTS = {
    "gamma": np.ones(D, np.float32),
    "w": W,
    "ten": np.array(10, np.float32),
    "yes": np.array(True),
    "axes": np.array([0]),
}
BRANCHES = """
    total = If (flag) <
        then_branch = one () => (float[a, b, 8] t) {{ {then} }},
        else_branch = other () => (float[c, d, 8] e) {{ {other} }}
    >
"""
INPUTS = "bool flag, float[batch, sequence, 8] past"
PLAIN = BRANCHES.format(then="t = MatMul(x, w)", other="n = Mul(x, ten) e = Tanh(n)")


def certificates(nodes: str, **options: object) -> dict[str, Certificate]:
    model = between(nodes, used(nodes), INPUTS)
    found = compute_scales(model, Options(estimate="weights", **options))  # type: ignore[arg-type]
    return {d.norm.name: d.certificate for d in found if d.certificate is not None}


def used(nodes: str) -> dict[str, np.ndarray]:
    return {name: w for name, w in WEIGHTS.items() if name in nodes or name == "gamma"}


def longest(nodes: str, flag: bool) -> float:
    """Of the rows that ONNX Runtime makes of one-hot and of random rows of length sqrt(D)."""
    inputs = f"float[batch, sequence, 8] x, {INPUTS}"
    model = graph(nodes, used(nodes), inputs, "float[a, b, c] total", 17)
    rows = np.concatenate([np.eye(D), np.linalg.svd(W.astype(float))[0].T])[None] * D**0.5
    x = rows.astype(np.float32)
    total = run(model, x=x, flag=np.array(flag), past=x)["total"]
    return float(np.linalg.norm(total.astype(float), axis=-1).max())


def test_the_bound_holds_in_both_branches_and_is_that_of_the_larger() -> None:
    found = certificates(PLAIN)["last"]
    assert found.certified and found.bound.length is not None
    seen = [longest(PLAIN, flag) for flag in (False, True)]
    assert max(seen) <= found.bound.length * (1 + 1e-6) <= max(seen) * 1.02
    assert min(seen) < max(seen) / 2


@pytest.mark.parametrize("open_one", ["then", "other"])
def test_a_branch_without_a_bound_leaves_none(open_one: str) -> None:
    bodies = {"then": "t = Tanh(x)", "other": "e = Tanh(x)"}
    bodies[open_one] = {"then": "t = Mul(x, past)", "other": "e = Mul(x, past)"}[open_one]
    assert certificates(BRANCHES.format(**bodies))["last"].bound.length is None


def test_norms_within_branches_are_certified_and_leant_on() -> None:
    norm = "SimplifiedLayerNormalization<axis = -1>"
    other = f"a = Mul(x, ten) [inner] b = {norm}(a, gamma) e = MatMul(b, w)"
    nodes = BRANCHES.format(then="t = Tanh(x)", other=other)
    found = certificates(nodes)
    assert found["inner"].certified and found["last"].certified
    assert found["last"].bound.leans == ("first", "inner")
    assert found["inner"].bound.length == pytest.approx(10 * D**0.5, 1e-2)


@pytest.mark.parametrize("value", [True, False])
def test_a_constant_condition_takes_its_branch(value: bool) -> None:
    nodes = PLAIN.replace("(flag)", "(yes)")
    model = between(nodes, {**used(nodes), "yes": np.array(value)}, INPUTS)
    found = compute_scales(model, Options(estimate="weights"))[-1].certificate
    assert found is not None and found.bound.length is not None
    seen = longest(PLAIN, value)
    assert seen <= found.bound.length * (1 + 1e-6) <= seen * 1.02


def test_a_condition_that_a_caller_may_give_takes_both() -> None:
    nodes = PLAIN.replace("(flag)", "(yes)")
    model = between(nodes, used(nodes), f"{INPUTS}, bool yes")
    found = compute_scales(model, Options(estimate="weights"))[-1].certificate
    assert found is not None and found.bound.length is not None
    assert found.bound.length * (1 + 1e-6) >= max(longest(PLAIN, flag) for flag in (False, True))


def test_what_a_branch_adds_to_a_cache_is_not_taken_for_all_of_it() -> None:
    """The other branch may have added other rows to it."""
    then = "t = Concat<axis = 1>(past, x)"
    nodes = BRANCHES.format(then=then, other="n = Mul(x, ten) e = Identity(n)")
    model = between(nodes, used(nodes), INPUTS)
    model.graph.output.append(onnx.ValueInfoProto(name="total"))
    found = compute_scales(model, Options(estimate="weights"))[-1].certificate
    assert found is not None and found.bound.length is None


def test_branches_of_other_ranks_are_unknown() -> None:
    nodes = BRANCHES.format(then="t = Tanh(x)", other="e = Unsqueeze(x, axes)")
    assert certificates(nodes)["last"].bound.length is None
