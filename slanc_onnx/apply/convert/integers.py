"""Integers: positions as the file computes them, and how small they can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import TensorProto

from slanc_onnx.graph import (
    FLOATS,
    Flow,
    NodeAt,
    Reading,
    Tensor,
    Use,
    read_tensor,
    read_through,
)
from slanc_onnx.ops import COMPARISONS, MOVES

# Ops that tell true from false.
TELLING = frozenset((*COMPARISONS, "And", "Equal", "IsInf", "IsNaN", "Not", "Or", "Xor"))
# Ops through which the positions in an integer tensor are those in their first input.
_KEEPING = ("keeps", "casts", "reshapes", "turns", "inserts", "repeats")
_MOVING = frozenset(op for op, moves in MOVES.items() if moves.kind in _KEEPING)
# Ops that give no integer below 0, and those of whose inputs the least element follows, with how
# many of their inputs count.
_COUNTING = TELLING | {"ArgMax", "ArgMin", "NonZero", "Shape", "Size"}
_LEAST = {
    **dict.fromkeys(_MOVING | {"CumSum", "Gather", "ReduceSum", "Slice", "Sub"}, 1),
    **dict.fromkeys(("Add", "Concat", "Max", "Min", "Mul", "Range", "Where"), 99),
}
_UNSIGNED = (
    *(TensorProto.BOOL, TensorProto.UINT8, TensorProto.UINT16),
    *(TensorProto.UINT32, TensorProto.UINT64),
)
Bound = tuple[int | None, bool]  # the least element, and whether that is sure


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


def least(flow: Flow, tensor: Tensor) -> Bound:
    """The least element of a tensor of integers, as far as the ops tell.

    Returns:
        The bound, None for none; and whether it holds whatever the inputs of the graph are, which
        are taken to be 0 or more.
    """
    return read_through(tensor, lambda part: _least(flow, part), {})


def _least(flow: Flow, tensor: Tensor) -> Reading[Tensor, Bound]:
    if tensor in flow.data and tensor not in flow.overridable:
        values = read_tensor(flow.data[tensor], flow.scopes[()].folder).astype(np.float64)
        smallest = np.floor(values.min(initial=np.inf))
        return (int(smallest) if np.isfinite(smallest) else None), True
    if flow.element_type(tensor) in _UNSIGNED:
        return 0, True
    if tensor not in flow.makers:
        return (None, False) if tensor.path else (0, False)
    at = NodeAt(*flow.makers[tensor][:2])
    op = flow.op(*at)
    if op in _COUNTING:
        return 0, True
    if op == "Range":
        numbers = whole_range(flow, at)
        if not numbers or not isinstance(numbers[2], int):
            return None, False
        end = numbers[0 if numbers[2] > 0 else 1]
        bound, sure = (end, True) if isinstance(end, int) else (yield end)
        return (None, False) if bound is None else (bound + (numbers[2] < 0), sure)
    places = range(int(op == "Where"), min(_LEAST.get(op, 0), len(flow.node(*at).input)))
    read = [part for part in (flow.read(Use(*at, place)) for place in places) if part is not None]
    parts = []
    for part in read:
        parts.append((yield part))
    bounds = [bound for bound, _ in parts if bound is not None]
    if op == "Max" and bounds:
        return max(bounds), (max(bounds), True) in parts
    taken = flow.read(Use(*at, 1)) if op == "Sub" else None
    combined = _combined(flow, op, taken, bounds) if parts and len(bounds) == len(parts) else None
    return combined, combined is not None and all(known for _, known in parts)


def _combined(flow: Flow, op: str, taken: Tensor | None, bounds: Sequence[int]) -> int | None:
    """The least element of what an op makes of tensors with least elements, less what is taken."""
    if op == "Add":
        return sum(bounds)
    if op in ("CumSum", "Mul", "ReduceSum"):
        return 0 if min(bounds) >= 0 else None
    if op == "Sub":
        if taken not in flow.data or taken in flow.overridable:
            return None
        values = read_tensor(flow.data[taken], flow.scopes[()].folder).astype(np.float64)
        largest = np.ceil(values.max(initial=-np.inf))
        return bounds[0] - int(largest) if np.isfinite(largest) else None
    return min(bounds)
