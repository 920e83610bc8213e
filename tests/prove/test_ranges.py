"""What a user says of an input bounds what is computed of it, on that condition."""

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, compute_scales
from slanc_onnx.feed import Feed, Ids, Normal, Range
from slanc_onnx.graph import Array
from slanc_onnx.prove import Certificate, Condition
from tests.models.small_graphs import D, between, graph, normal
from tests.oracles.unoptimised import run

OF_IDS = """
    f = Cast<to = 1>({name}) u = Unsqueeze(f, end) total = Add(x, u)
"""
OF_TABLE = "p = Gather(places, {name}) total = Add(x, p)"
WEIGHTS = {"end": np.array([-1]), "places": normal(4, 40, D), "gamma": np.ones(D, np.float32)}


def certificate(nodes: str, **feeds: Feed) -> Certificate:
    model = model_of(nodes)
    options = Options(estimate="weights", feeds=feeds)
    found = compute_scales(model, options)[-1].certificate
    assert found is not None
    return found


def model_of(nodes: str) -> onnx.ModelProto:
    own = {name: w for name, w in WEIGHTS.items() if name in nodes or name == "gamma"}
    return between(nodes, own, "int64[batch, sequence] n, bool[batch, sequence] flag, float[c] k")


def longest(nodes: str, **inputs: Array) -> float:
    own = {name: w for name, w in WEIGHTS.items() if name in nodes}
    given = "float[b, s, 8] x, int64[b, s] n, bool[b, s] flag, float[c] k"
    alone = graph(nodes, own, given, "float[b, s, d] total", 17)
    x = np.zeros((1, inputs["n"].shape[1], D), np.float32)
    x[..., 0] = D**0.5
    made = run(alone, x=x, flag=inputs["n"] > 0, k=np.ones(1, np.float32), **inputs)["total"]
    return float(np.linalg.norm(made.astype(float), axis=-1).max())


@pytest.mark.parametrize(("said", "low", "high"), [(Ids(0, 100), 0, 99), (Range(-2.5, 7.9), -2, 7)])
def test_whole_numbers_in_limits_are_bounded_on_that_condition(
    said: Feed, low: int, high: int
) -> None:
    nodes = OF_IDS.format(name="n")
    found = certificate(nodes, n=said)
    assert found.certified
    assert found.conditions == (Condition("n", "range", low, high),)
    assert found.bound.length is not None
    seen = longest(nodes, n=np.array([[low, high, 0]]))
    assert seen <= found.bound.length <= seen * 2
    assert longest(nodes, n=np.array([[high + 100]])) > found.bound.length


def test_without_limits_they_may_be_any_of_their_type() -> None:
    found = certificate(OF_IDS.format(name="n"))
    assert not found.certified
    assert found.bound.length is None or found.bound.length > 2.0**63


def test_rows_of_a_table_ask_nothing_of_the_ids() -> None:
    nodes = OF_TABLE.format(name="n")
    for feeds in ({}, {"n": Ids(3, 30)}):
        found = certificate(nodes, **feeds)
        assert found.certified and found.conditions == ()


def test_flags_lie_in_their_limits_whatever_is_said() -> None:
    nodes = OF_IDS.format(name="flag")
    assert certificate(nodes).conditions == ()
    assert certificate(nodes, flag=Range(1, 1)).conditions == (Condition("flag", "range", 1, 1),)


def test_floats_of_a_range_are_bounded_and_normal_ones_are_not() -> None:
    nodes = "total = Mul(x, k)"
    assert certificate(nodes, k=Range(-2, 3)).conditions == (Condition("k", "range", -2, 3),)
    found = certificate(nodes, k=Normal(0, 1))
    assert found.bound.length is None and not found.certified
