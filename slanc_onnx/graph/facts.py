"""Facts that a file tells of a tensor: element type, shape, whether it is constant."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_graphsurgeon as gs
from google.protobuf.message import Message
from onnx import TensorProto, helper

from slanc_onnx.graph.reading import Reading, read_through
from slanc_onnx.graph.scope import SEE_THROUGH, Dims, Scope, op_of, reads_value

_BROADCAST = ("Add", "Sub", "Mul", "Div")
_MORE = "..."  # before the dimensions that are known, where there may be others


def constant_made(scope: Scope, tensor: gs.Tensor) -> bool:
    """Whether a tensor is computed from constants and shapes alone, like gamma = Add(w, 1)."""
    known = scope.constants_made.get(id(tensor))
    if known is not None:  # nearly always: each tensor is asked about many times
        return known

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
    """The last dimension of a tensor where the file tells it, or what it is computed from."""
    sizes = _last_dims(scope, tensor)
    if sizes is None:
        return None
    last = sizes[-1] if sizes else 1
    return last if isinstance(last, int) else None


def dims(scope: Scope, tensor: gs.Tensor) -> Dims | None:
    """The shape of a tensor where the file tells it, through casts and Add(w, 1).

    A dynamic size is its name.
    """
    sizes = _last_dims(scope, tensor)
    return None if sizes is None or _MORE in sizes else sizes


def _last_dims(scope: Scope, tensor: gs.Tensor) -> Dims | None:
    """The last dimensions that the file tells, behind `_MORE` where there may be more."""

    def read(tensor: gs.Tensor) -> Reading[gs.Tensor, Dims | None]:
        constant = scope.constant(tensor)
        if constant is not None:
            return tuple(int(d) for d in constant.dims)
        if tensor.shape is not None:
            return tuple(d if isinstance(d, int) and d >= 0 else str(d) for d in tensor.shape)
        op = op_of(tensor.inputs[0]) if tensor.inputs else ""
        if op in (*SEE_THROUGH, "DequantizeLinear", "SimplifiedLayerNormalization"):
            return (yield tensor.inputs[0].inputs[0]) if tensor.inputs[0].inputs else None
        if op in ("MatMul", "Gemm") and len(tensor.inputs[0].inputs) > 1:
            weight = yield tensor.inputs[0].inputs[1]
            return _of_product(tensor.inputs[0], weight)
        known: list[Dims] = []
        parts = [part for part in tensor.inputs[0].inputs if part.name] if op in _BROADCAST else []
        for part in parts:
            found = yield part
            if found is not None:
                known.append(found)
        if not known:
            return None
        if len(known) == len(parts):
            return _broadcast(known)
        # A size of 1 may be any size of the unknown one.
        return _MORE, *("" if d == 1 else d for d in known[0] if d != _MORE)

    return read_through(tensor, read, scope.dims_read, key=id)


def _of_product(node: gs.Node, weight: Dims | None) -> Dims | None:
    """The last size of a product, which its second factor tells where that is a matrix."""
    if weight is None or len(weight) != 2 or _MORE in weight:
        return None
    return _MORE, weight[0 if node.attrs.get("transB") else 1]


def element_count(shape: tuple[int | str, ...]) -> int | None:
    """The number of elements of a shape, None where a size is dynamic."""
    sizes = [d for d in shape if isinstance(d, int)]
    return math.prod(sizes) if len(sizes) == len(shape) else None


def _broadcast(shapes: Sequence[Dims]) -> Dims:
    """The shape of a sum, or of what else is computed element by element."""
    more = any(_MORE in shape for shape in shapes)
    known = [[d for d in shape if d != _MORE] for shape in shapes]
    rank = max(map(len, known))
    columns = zip(*((*[1] * (rank - len(shape)), *shape) for shape in known), strict=True)
    # Of a number above 1 and a name, the sum has the number.
    sizes = [max(c, key=lambda d: (d != 1, isinstance(d, int))) for c in columns]
    return (_MORE, *sizes) if more else tuple(sizes)
