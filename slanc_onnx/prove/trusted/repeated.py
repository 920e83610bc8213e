"""Repeated numbers: a constant that is the same along an axis is made once, and seen as whole.

NumPy shows an array along an axis of stride 0 as often as the axis is long, without holding it.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from contextlib import suppress

import numpy as np
from onnx import NodeProto, numpy_helper

from slanc_onnx.graph import MOST_AXES, Array
from slanc_onnx.ops import UNARY, CannotFollow, broadcast, common_shape

# Op -> the input that says the sizes of the output, or how often it has those of another.
SIZED = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1}
# Each element of the output is made of one element of each input, which broadcast.
_EACH = {
    *(*UNARY, "Cast", "Identity", "Not", "Where", "Add", "Sub", "Mul", "Div", "Pow", "Mod"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor"),
    *("Max", "Min", "Sum"),
}


def distinct(array: Array, kept: Container[int] = ()) -> Array:
    """An array, once along each axis along which it repeats itself, but for the axes to keep."""
    axes = enumerate(zip(array.strides, array.shape, strict=True))
    repeated = [stride == 0 and size > 1 and axis not in kept for axis, (stride, size) in axes]
    return np.asarray(array[_first_of(repeated)])


def spread(node: NodeProto, arrays: Sequence[Array | None]) -> Array | None:
    """What a node makes that only repeats numbers; None for any other node.

    Args:
        node: The node.
        arrays: Its inputs, with sizes in few numbers.
    """
    place = SIZED.get(node.op_type)
    if place is None or len(arrays) != place + 1 or node.domain == "com.microsoft":
        return None
    sizes, first = arrays[place], arrays[0]
    if sizes is None or first is None or sizes.dtype != np.int64 or sizes.ndim != 1:
        return None
    dims = tuple(int(size) for size in sizes)
    if min(dims, default=0) < 0 or len(dims) > MOST_AXES:
        return None
    if node.op_type == "ConstantOfShape":
        told = next((a.t for a in node.attribute if a.name == "value"), None)
        number = np.zeros(1, np.float32) if told is None else numpy_helper.to_array(told)
        return np.broadcast_to(number.reshape(()), dims) if number.size == 1 else None
    if node.op_type == "Tile" and first.size == 1 and first.ndim == len(dims):
        return np.broadcast_to(first, dims)
    if node.op_type == "Expand":
        with suppress(CannotFollow):  # which is told where it is computed
            return broadcast(first, common_shape(first.shape, dims))
    return None


def once(
    node: NodeProto, arrays: Sequence[Array | None]
) -> tuple[list[Array | None], tuple[int, ...]] | None:
    """What a node has to be computed from, where all of its inputs repeat themselves alike.

    Args:
        node: The node.
        arrays: Its inputs.

    Returns:
        The inputs once along those axes, and the shape to which the output broadcasts; None where
        nothing repeats itself, or elements of the output are made of several.
    """
    if node.op_type not in _EACH or len(node.output) != 1:
        return None
    there = [array for array in arrays if array is not None]
    dims: tuple[int, ...] = ()
    with suppress(CannotFollow):  # they do not fit, which is told where it is computed
        dims = common_shape(*(array.shape for array in there))
    repeated = [
        size > 1 and all(_repeats(array, axis) for array in there)
        for axis, size in zip(range(-len(dims), 0), dims, strict=True)
    ]
    if not any(repeated):
        return None
    fewer = [
        None if a is None else np.asarray(a[_first_of(repeated[len(dims) - a.ndim :])])
        for a in arrays
    ]
    return fewer, dims


def _repeats(array: Array, axis: int) -> bool:
    """Whether an array is the same along an axis, which counts from the end."""
    return array.ndim < -axis or array.shape[axis] == 1 or array.strides[axis] == 0


def _first_of(axes: Sequence[bool]) -> tuple[slice, ...]:
    """The index that takes the first of what lies along some axes, and all along the others."""
    return tuple(slice(1) if axis else slice(None) for axis in axes)
