"""Constants of the prover are computed only where they are of a size that a file holds."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from slanc_onnx.graph import Array
from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.trusted.computed import computer
from slanc_onnx.prove.trusted.constants import folded
from slanc_onnx.prove.trusted.values import Constant

TABLE = np.arange(6, dtype=np.float32).reshape(2, 3)
LONG = np.zeros(2**14, np.int64)


def constants(arrays: Sequence[Array]) -> list[Constant]:
    kinds = [helper.np_dtype_to_tensor_dtype(array.dtype) for array in arrays]
    return [
        Constant(kind, array.shape, partial(np.asarray, array))
        for kind, array in zip(kinds, arrays, strict=True)
    ]


def never(arrays: Sequence[Array | None]) -> list[Array]:
    raise AssertionError("computed")


@pytest.mark.parametrize(
    ("node", "arrays"),
    [
        (helper.make_node("Gather", ["a", "b"], ["y"]), [np.zeros((2**14, 4), np.float32), LONG]),
        (helper.make_node("MatMul", ["a", "b"], ["y"]), [LONG[:, None], LONG[None]]),
        (helper.make_node("ConstantOfShape", ["a"], ["y"]), [np.array([2**20, 2**10])]),
        (helper.make_node("Expand", ["a", "b"], ["y"]), [TABLE, np.array([2**30, 1, 1])]),
        (helper.make_node("Tile", ["a", "b"], ["y"]), [TABLE, np.array([1, 2**30])]),
        (helper.make_node("Range", list("abc"), ["y"]), [np.array(v) for v in (0, 2**40, 1)]),
        (helper.make_node("Pad", ["a"], ["y"], pads=[0, 0, 0, 2**30]), [TABLE]),
    ],
    ids=lambda each: each.op_type if isinstance(each, NodeProto) else "",
)
def test_what_would_be_larger_is_not_computed(node: NodeProto, arrays: list[Array]) -> None:
    with pytest.raises(NoBound):
        folded(node, constants(arrays), never)


def test_shapes_of_the_file_tell_the_size() -> None:
    rows, columns = LONG[:, None], LONG[None]
    node = helper.make_node("Add", ["a", "b"], ["y"])
    with pytest.raises(NoBound):
        folded(node, constants([TABLE, TABLE]), never, told=2**30)
    made = folded(node, constants([rows, columns[:, :3]]), computer(node, {"": 17}), told=3 * 2**14)
    assert made is not None
    assert isinstance(made[0], Constant)
    np.testing.assert_array_equal(made[0].values, rows + columns[:, :3])


def test_small_ones_are_computed() -> None:
    node = helper.make_node("Gather", ["a", "b"], ["y"])
    made = folded(node, constants([TABLE, np.array([1, 0])]), computer(node, {"": 17}))
    assert made is not None
    assert isinstance(made[0], Constant)
    assert (made[0].kind, made[0].dims) == (TensorProto.FLOAT, (2, 3))
    np.testing.assert_array_equal(made[0].values, TABLE[[1, 0]])
