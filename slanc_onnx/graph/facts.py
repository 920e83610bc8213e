"""Facts that a file tells of a tensor: element type, shape, whether it is constant."""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs
from google.protobuf.message import Message
from onnx import TensorProto, helper

from slanc_onnx.graph.reading import Reading, read_through
from slanc_onnx.graph.scope import SEE_THROUGH, Dims, Scope, op_of, reads_value


def constant_made(scope: Scope, tensor: gs.Tensor) -> bool:
    """Whether a tensor is computed from constants and shapes alone, like gamma = Add(w, 1)."""

    def read(tensor: gs.Tensor) -> Reading[gs.Tensor, bool]:
        if scope.constant(tensor) is not None:
            return True
        if not tensor.inputs:
            return False
        for position, part in enumerate(tensor.inputs[0].inputs):
            if part.name and reads_value(tensor.inputs[0], position) and not (yield part):
                return False
        return True

    return read_through(tensor, read, scope.constants_made, key=id)


def told_type(tensor: gs.Tensor) -> int | None:
    """The element type that the file tells of a tensor; None for what is no tensor, too."""
    told = tensor.dtype
    if told is None or isinstance(told, Message):  # an optional, a map, an opaque
        return None
    return int(told) if isinstance(told, int) else int(helper.np_dtype_to_tensor_dtype(told))


def element_type(scope: Scope, *tensors: gs.Tensor) -> int:
    """The element type of the first tensor for which the file tells one; FLOAT if none does."""
    for tensor in tensors:
        constant = scope.constant(tensor)
        if constant is not None:
            return constant.data_type
        made_by = tensor.inputs[0] if tensor.inputs else None
        if made_by is not None and op_of(made_by) == "Cast" and made_by.attrs.get("to"):
            return int(made_by.attrs["to"])
        told = told_type(tensor)
        if told is not None:
            return told
    return TensorProto.FLOAT


def last_dim(scope: Scope, tensor: gs.Tensor) -> int | None:
    """The last dimension of a tensor where the file tells it, through casts and Add(w, 1)."""
    sizes = dims(scope, tensor)
    if sizes is None:
        return None
    last = sizes[-1] if sizes else 1
    return last if isinstance(last, int) else None


def dims(scope: Scope, tensor: gs.Tensor) -> Dims | None:
    """The shape of a tensor where the file tells it, through casts and Add(w, 1).

    A dynamic size is its name.
    """

    def read(tensor: gs.Tensor) -> Reading[gs.Tensor, Dims | None]:
        constant = scope.constant(tensor)
        if constant is not None:
            return tuple(int(d) for d in constant.dims)
        if tensor.shape is not None:
            return tuple(d if isinstance(d, int) and d >= 0 else str(d) for d in tensor.shape)
        known: list[Dims] = []
        if tensor.inputs and op_of(tensor.inputs[0]) in (*SEE_THROUGH, "Add", "DequantizeLinear"):
            parts = [part for part in tensor.inputs[0].inputs[:2] if part.name]
            for part in parts:
                found = yield part
                if found:
                    known.append(found)
            if len(known) < len(parts):  # a size of 1 may be any size of the unknown one
                known = [tuple("" if d == 1 else d for d in found) for found in known]
        return max(known, key=_size, default=None)

    return read_through(tensor, read, scope.dims_read, key=id)


def element_count(shape: tuple[int | str, ...]) -> int | None:
    """The number of elements of a shape, None where a size is dynamic."""
    sizes = [d for d in shape if isinstance(d, int)]
    return math.prod(sizes) if len(sizes) == len(shape) else None


def _size(shape: tuple[int | str, ...]) -> int:
    return math.prod(d for d in shape if isinstance(d, int))
