"""Numbers that repeat themselves are made once, and are those of ONNX's evaluator."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from slanc_onnx.graph import Array
from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.trusted.computed import computer, evaluated, of_one_node
from slanc_onnx.prove.trusted.constants import folded
from slanc_onnx.prove.trusted.repeated import distinct, once, spread
from slanc_onnx.prove.trusted.values import Constant, of_constant
from tests.prove.test_constants import constants, never

OPSETS = {"": 18}
NUMBER = numpy_helper.from_array(np.array([0.5], np.float16))
ROW = np.array([[1.0], [-2.0]], np.float32)


def node_of(op: str, count: int, **attributes: Any) -> NodeProto:
    return helper.make_node(op, [f"x{place}" for place in range(count)], ["y"], **attributes)


SPREADING: dict[str, tuple[NodeProto, list[Array]]] = {
    "a fill": (node_of("ConstantOfShape", 1, value=NUMBER), [np.array([3, 4])]),
    "a fill of zeros": (node_of("ConstantOfShape", 1), [np.array([3, 0, 4])]),
    "a fill of no axes": (node_of("ConstantOfShape", 1), [np.zeros(0, np.int64)]),
    "a number expanded": (node_of("Expand", 2), [np.array(2, np.int64), np.array([3, 4])]),
    "a column expanded": (node_of("Expand", 2), [ROW, np.array([5, 1, 3])]),
    "expanded to less": (node_of("Expand", 2), [ROW, np.array([1])]),
    "a number tiled": (node_of("Tile", 2), [np.array([[7.0]], np.float32), np.array([2, 3])]),
}
NOT_SPREADING: dict[str, tuple[NodeProto, list[Array]]] = {
    "a row tiled": (node_of("Tile", 2), [ROW, np.array([2, 3])]),
    "tiled along too few axes": (node_of("Tile", 2), [ROW[:1], np.array([2])]),
    "expanded to what does not fit": (node_of("Expand", 2), [ROW, np.array([3, 1])]),
    "a size below zero": (node_of("ConstantOfShape", 1), [np.array([-1, 2])]),
    "sizes of another type": (node_of("ConstantOfShape", 1), [np.array([1, 2], np.int32)]),
    "a reshape": (node_of("Reshape", 2), [ROW, np.array([1, 2])]),
    "an op of another domain": (
        node_of("Expand", 2, domain="com.microsoft"),
        [np.array(2.0), np.array([2, 2])],
    ),
}


def by_evaluator(node: NodeProto, arrays: Sequence[Array | None]) -> Array:
    (found,) = evaluated(of_one_node(node, arrays, OPSETS))
    return found


@pytest.mark.parametrize("what", SPREADING)
def test_what_only_repeats_numbers_is_what_the_evaluator_makes(what: str) -> None:
    node, arrays = SPREADING[what]
    found, expected = spread(node, arrays), by_evaluator(node, arrays)
    assert found is not None and found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    made = folded(node, constants(arrays), never)  # neither runtime is asked
    assert made is not None and isinstance(made[0], Constant)
    assert made[0].dims == expected.shape and made[0].kind == helper.np_dtype_to_tensor_dtype(
        expected.dtype
    )


@pytest.mark.parametrize("what", NOT_SPREADING)
def test_anything_else_is_left_to_the_runtimes(what: str) -> None:
    assert spread(*NOT_SPREADING[what]) is None


def shown(value: float, *shape: int, kind: Any = np.float32) -> Array:
    return np.broadcast_to(np.array(value, kind), shape)


EACH: dict[str, tuple[NodeProto, list[Array | None], int]] = {
    "a product with a number": (
        node_of("Mul", 2),
        [shown(3, 40, 50), np.array(0.1, np.float32)],
        1,
    ),
    "one with a row": (node_of("Add", 2), [shown(3, 40, 2, 6), ROW], 2),
    "a choice": (
        node_of("Where", 3),
        [shown(True, 40, 1, kind=np.bool_), shown(2, 1, 50), np.array(1.0, np.float32)],
        1,
    ),
    "a cast": (node_of("Cast", 1, to=TensorProto.FLOAT16), [shown(1 / 3, 40, 50)], 1),
    "a function": (node_of("Tanh", 1), [shown(0.3, 40, 50)], 1),
    "an upper end": (node_of("Max", 3), [shown(0.3, 9, 50), ROW[:1], shown(2, 50)], 1),
}


@pytest.mark.parametrize("what", EACH)
def test_what_is_done_to_each_is_done_once(what: str) -> None:
    node, arrays, elements = EACH[what]
    found = once(node, arrays)
    assert found is not None
    assert max(array.size for array in found[0] if array is not None) == elements
    made = folded(node, constants([a for a in arrays if a is not None]), computer(node, OPSETS))
    assert made is not None and isinstance(made[0], Constant)
    expected = by_evaluator(node, arrays)
    np.testing.assert_array_equal(made[0].values, expected)
    assert made[0].values.dtype == expected.dtype
    assert distinct(made[0].values).size == elements


def test_what_is_made_of_several_or_differs_is_not() -> None:
    whole = np.ones((40, 50), np.float32)
    assert once(node_of("ReduceSum", 1), [shown(1, 40, 50)]) is None
    assert once(node_of("CumSum", 2), [shown(1, 40, 50), np.array(0)]) is None
    assert once(node_of("Mul", 2), [whole, np.array(2.0, np.float32)]) is None
    assert once(node_of("Mul", 2), [shown(1, 40, 50), whole]) is None
    assert once(node_of("Mul", 2), [shown(1, 40, 50), whole[:3]]) is None


@pytest.mark.parametrize("axes", [(), (0,), (1,), (2,), (1, 2)])
@pytest.mark.parametrize("rank", [3, 4])
def test_bounds_of_repeated_numbers_are_those_of_all_of_them(
    axes: tuple[int, ...], rank: int
) -> None:
    row = np.array([1.0, -3.0, 0.5, 2.0], np.float32)
    view = np.broadcast_to(row[None, :, None], (5, 4, 6))
    axes = tuple(axis + rank - 3 for axis in axes)
    seen, held = (of_constant(each, rank, axes) for each in constants([view, view.copy()]))
    assert (seen.dims, seen.axes) == (held.dims, held.axes)
    assert (seen.low, seen.high) == (held.low, held.high)
    np.testing.assert_array_equal(seen.reach.each, held.reach.each)
    whole = np.moveaxis(
        np.broadcast_to(view, (1,) * (rank - 3) + view.shape), axes, range(len(axes))
    )
    rows = whole.reshape(int(np.prod(whole.shape[: len(axes)], dtype=int)), -1)
    longest = float(np.linalg.norm(rows.astype(np.float64), axis=0).max())
    assert longest <= seen.reach.length() <= held.reach.length() * (1 + 1e-9)


def test_a_repeated_number_that_is_no_number_is_found() -> None:
    for value, finite in ((np.nan, False), (np.inf, False), (1.0, True)):
        (given,) = constants([shown(value, 9, 9)])
        assert given.finite == finite
        if not finite:
            with pytest.raises(NoBound):
                of_constant(given, 2, ())


@pytest.mark.parametrize("op", ["ConstantOfShape", "Expand", "Reshape", "Tile"])
def test_more_sizes_than_a_tensor_has_axes_are_not_tried(op: str) -> None:
    sizes, first = np.ones(2**12, np.int64), [] if op == "ConstantOfShape" else [ROW]
    with pytest.raises(NoBound):
        folded(node_of(op, len(first) + 1), constants([*first, sizes]), never)
