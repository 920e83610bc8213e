"""Integers: positions as the file computes them, and how small they can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import TensorProto

from slanc_onnx.graph import FLOATS, Flow, NodeAt, Tensor, Use, read_tensor

# Ops that tell true from false.
TELLING = frozenset(
    (
        *("And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN"),
        *("Less", "LessOrEqual", "Not", "Or", "Xor"),
    )
)
# Ops through which the positions in an integer tensor are those in their first input.
_MOVING = frozenset(
    (
        *("Cast", "CastLike", "Expand", "Flatten", "Identity"),
        *("Reshape", "Squeeze", "Transpose", "Unsqueeze"),
    )
)
# Ops that give no integer below 0, and those of whose inputs the least element follows, with how
# many of their inputs count.
_COUNTING = TELLING | {"ArgMax", "ArgMin", "NonZero", "Shape", "Size"}
_LEAST = {
    **dict.fromkeys(_MOVING | {"CumSum", "Gather", "ReduceSum", "Slice", "Sub", "Tile"}, 1),
    **dict.fromkeys(("Add", "Concat", "Max", "Min", "Mul", "Range", "Where"), 99),
}
_UNSIGNED = (
    *(TensorProto.BOOL, TensorProto.UINT8, TensorProto.UINT16),
    *(TensorProto.UINT32, TensorProto.UINT64),
)
_DEEPEST = 40  # ops between positions and what they are computed from


def chain(flow: Flow, tensor: Tensor) -> Iterator[Tensor]:
    """A tensor of integers, and those that it is made of by moving elements alone."""
    yield tensor
    while tensor in flow.makers and tensor not in flow.data:
        path, index, _ = flow.makers[tensor]
        before = flow.read(Use(path, index, 0))
        if flow.op(path, index) not in _MOVING or before is None or before.path != path:
            return
        if flow.element_type(before) in FLOATS:
            return
        tensor = before
        yield tensor


def whole_range(flow: Flow, at: NodeAt) -> tuple[Tensor | int, ...]:
    """Start, limit and step of a Range that counts in whole numbers; else ()."""
    reads = [flow.read(Use(at.path, at.node, position)) for position in range(3)]
    found = [whole(flow, tensor) for tensor in reads if tensor is not None]
    return tuple(number for number in found if number is not None) if None not in found else ()


def whole(flow: Flow, tensor: Tensor) -> Tensor | int | None:
    """The integers that a tensor is cast from, or the whole number that it is, if it is one."""
    integers = None
    while tensor not in flow.data:
        if integers is None and flow.element_type(tensor) not in FLOATS:
            integers = tensor
        path, index, _ = flow.makers.get(tensor, ((), -1, 0))
        before = flow.read(Use(path, index, 0))
        if before is None or flow.op(path, index) not in ("Cast", "CastLike", "Identity"):
            return integers
        tensor = before
    if tensor in flow.overridable:
        return integers
    values = read_tensor(flow.data[tensor], flow.scopes[()].folder).astype(np.float64)
    return int(values.item()) if values.size == 1 and values.item().is_integer() else integers


def least(flow: Flow, tensor: Tensor, depth: int = 0) -> tuple[int | None, bool]:
    """The least element of a tensor of integers, as far as the ops tell.

    Returns:
        The bound, None for none; and whether it holds whatever the inputs of the graph are, which
        are taken to be 0 or more.
    """
    if tensor in flow.data and tensor not in flow.overridable:
        values = read_tensor(flow.data[tensor], flow.scopes[()].folder)
        return (int(values.min()) if values.size else 0), True
    kind = flow.element_type(tensor)
    if kind in _UNSIGNED:
        return 0, True
    if tensor not in flow.makers or depth > _DEEPEST:
        return (0, False) if not tensor.path and depth <= _DEEPEST else (None, False)
    path, index, _ = flow.makers[tensor]
    op = flow.op(path, index)
    if op in _COUNTING:
        return 0, True
    uses = (Use(path, index, p) for p in range(len(flow.node(path, index).input)))
    read = [tensor for tensor in map(flow.read, uses) if tensor is not None]
    if op == "Range":
        return _least_of_range(flow, NodeAt(path, index), depth)
    counted = read[int(op == "Where") : _LEAST.get(op, 0)]
    parts = [least(flow, part, depth + 1) for part in counted]
    bounds = [bound for bound, _ in parts if bound is not None]
    if op == "Max" and bounds:
        return max(bounds), (max(bounds), True) in parts
    bound = _combined(flow, op, read, bounds) if parts and len(bounds) == len(parts) else None
    return bound, bound is not None and all(known for _, known in parts)


def _least_of_range(flow: Flow, at: NodeAt, depth: int) -> tuple[int | None, bool]:
    """The least element of a Range that counts in whole numbers."""
    numbers = whole_range(flow, at)
    bounds = [(n, True) if isinstance(n, int) else least(flow, n, depth + 1) for n in numbers]
    if not bounds or not isinstance(numbers[2], int):
        return None, False
    start, limit = bounds[:2]
    if numbers[2] > 0:
        return start
    return (None, False) if limit[0] is None else (limit[0] + 1, limit[1])


def _combined(flow: Flow, op: str, read: Sequence[Tensor], bounds: Sequence[int]) -> int | None:
    """The least element of what an op makes of tensors with least elements."""
    if op == "Add":
        return sum(bounds)
    if op in ("CumSum", "Mul", "ReduceSum"):
        return 0 if min(bounds) >= 0 else None
    if op == "Sub":
        taken = read[1]
        if taken not in flow.data or taken in flow.overridable:
            return None
        return bounds[0] - int(read_tensor(flow.data[taken], flow.scopes[()].folder).max())
    return min(bounds)
