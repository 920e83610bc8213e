"""The least position that ops can make, and whether that holds for whatever is fed."""

import numpy as np
import pytest
from onnx import numpy_helper

from slanc_onnx.apply.convert.integers import least
from slanc_onnx.graph import Tensor, read_flow, read_graph
from tests.models.position_graphs import model_of

INPUTS = "int64[n] a, float[n, m] x, bool[n] flags, int64 past"
SIZE = "shape = Shape(x) size = Gather(shape, zero)"
SURE: dict[str, int] = {
    f"{SIZE} y = Identity(size)": 0,
    f"{SIZE} y = Range(zero, size, one)": 0,
    f"{SIZE} y = Range(two, size, one)": 2,
    f"{SIZE} top = Sub(size, one) y = Range(top, minus1, minus1)": 0,
    f"{SIZE} t = Range(zero, size, one) y = Add(t, two)": 2,
    f"{SIZE} t = Range(zero, size, one) y = Sub(t, two)": -2,
    f"{SIZE} t = Range(zero, size, one) y = Where(flags, t, minus1)": -1,
    "i = Cast<to = 7>(flags) s = CumSum(i, zero) y = Sub(s, one)": -1,
    "y = Max(a, zero)": 0,
    f"{SIZE} y = Mul(size, two)": 0,
    "i = Greater(a, two) y = Cast<to = 7>(i)": 0,
    "y = NonZero(x)": 0,
}
ASSUMED: dict[str, int] = {
    "y = Identity(a)": 0,
    "s = CumSum(a, zero) y = Sub(s, one)": -1,
    f"{SIZE} stop = Add(past, size) y = Range(past, stop, one)": 0,
    f"{SIZE} t = Range(zero, size, one) y = Add(t, past)": 0,
    "y = Min(a, two)": 0,
}
UNKNOWN = [
    "y = Neg(a)",
    "y = Sub(two, a)",
    "y = Mul(a, minus1)",
    f"{SIZE} y = Range(zero, size, past)",
    f"{SIZE} low = Neg(size) y = Range(zero, low, minus1)",
]


def found(nodes: str) -> tuple[int | None, bool]:
    model = model_of(nodes, INPUTS, "int64[k] y")
    if "minus1" in nodes:
        model.graph.initializer.append(numpy_helper.from_array(np.array(-1), "minus1"))
    return least(read_flow(read_graph(model)), Tensor((), "y"))


@pytest.mark.parametrize("nodes", SURE)
def test_what_holds_for_any_input(nodes: str) -> None:
    assert found(nodes) == (SURE[nodes], True)


@pytest.mark.parametrize("nodes", ASSUMED)
def test_what_holds_for_inputs_of_0_or_more(nodes: str) -> None:
    assert found(nodes) == (ASSUMED[nodes], False)


@pytest.mark.parametrize("nodes", UNKNOWN)
def test_what_has_no_bound(nodes: str) -> None:
    assert found(nodes) == (None, False)


def test_many_ops_behind_each_other_are_read_once() -> None:
    doubled = " ".join(f"a{i + 1} = Add(a{i}, a{i})" for i in range(200))
    assert found(f"a0 = Identity(a) {doubled} y = Identity(a200)") == (0, False)
