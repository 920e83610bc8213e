"""Constants: read from the file, and computed by ONNX's evaluator or ONNX Runtime, never here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from slanc_onnx.graph import DOMAINS, MOST_AXES, Array, read_tensor
from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.trusted.computed import MOST_COMPUTED, Compute
from slanc_onnx.prove.trusted.kinds import FLOATS
from slanc_onnx.prove.trusted.repeated import SIZED, once, spread
from slanc_onnx.prove.trusted.sizes import Dim
from slanc_onnx.prove.trusted.values import (
    LARGE,
    Constant,
    Facts,
    Operand,
    Sizes,
    Value,
    facts_of,
    settled,
)
from slanc_onnx.reasons import Unread, reason
from slanc_onnx.weights import stored_matrix

MOST_SIZES = 64  # elements of a tensor of sizes
# Ops that give no function of their inputs.
_RANDOM = ("Bernoulli", "Dropout", "Multinomial", "RandomNormalLike", "RandomUniformLike")
_NO_COUNTS = ("axes", "axis", "keepdims", "perm", "to")  # attributes that tell no size
# Ops that only move elements, so that they move sizes too. The inputs whose elements they move.
_MOVED: dict[str, Callable[[int], range]] = {
    **dict.fromkeys(
        ("Gather", "Slice", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Cast", "Flatten"),
        lambda count: range(1),
    ),
    "Concat": range,
    "Where": lambda count: range(1, count),
}
_ANY = "any "  # before the symbol of a whole number that is no size, so that it may be negative


def stored_constant(tensor: TensorProto, folder: Path | None, facts: Facts) -> Constant:
    """The constant that a tensor of the file holds; large ones are read where they are used."""
    dims = tuple(int(dim) for dim in tensor.dims)
    large = len(dims) == 2 and math.prod(dims) > LARGE and tensor.data_type in FLOATS
    stored = stored_matrix(tensor, folder) if large else None
    return Constant(tensor.data_type, dims, lambda: read_tensor(tensor, folder), stored, facts)


def folded(
    node: NodeProto,
    inputs: Sequence[Operand | None],
    compute: Compute,
    told: int | None = None,
) -> list[Operand | None] | None:
    """The outputs of a node whose inputs are all constant; None for any other node.

    Args:
        node: The node.
        inputs: What is known of its inputs.
        compute: Computes it.
        told: How many elements its outputs have by the shapes in the file, if these tell it.

    Raises:
        NoBound: they cannot be computed, or are too many.
    """
    if not inputs or node.domain not in DOMAINS or node.op_type in _RANDOM:
        return None
    given: list[Constant | None] = []
    for operand in inputs:
        known = None if operand is None else settled(operand)
        if not (known is None or isinstance(known, Constant)):
            return None
        given.append(known)
    there = [constant for constant in given if constant is not None]
    if not there or any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
        return None
    facts = facts_of(there)
    turned = _turned(node, there, facts)
    if turned is not None:
        return [turned]
    place = SIZED.get(node.op_type, len(given))
    sizes = given[place] if place < len(given) else None
    if sizes is not None and sizes.size > MOST_AXES:
        raise NoBound(reason(Unread.TOO_LARGE, sizes.size))
    read = sum(constant.size for constant in there)
    made = told if told is not None else _most_made(node, there) if read <= MOST_COMPUTED else 0
    if read + made > MOST_COMPUTED:
        raise NoBound(reason(Unread.TOO_LARGE, read + made))
    arrays = [None if c is None else np.asarray(c.values) for c in given]
    whole = spread(node, arrays)
    if whole is not None:
        return [_made(whole, facts)]
    fewer = once(node, arrays)
    if fewer is not None:
        (made_once,) = compute(fewer[0])
        return [_made(np.broadcast_to(made_once, fewer[1]), facts)]
    return [_made(array, facts) for array in compute(arrays)]


def _most_made(node: NodeProto, there: Sequence[Constant]) -> int:
    """How many elements the outputs of a node have at most, or rather far more.

    Elements that broadcast, index or multiply each other give no more than the product of their
    counts, and numbers that say a shape, a count or a pad no more than times their product.
    """
    counts = [constant.size for constant in there]
    for constant in there:
        if constant.kind in (TensorProto.INT64, TensorProto.INT32) and constant.size <= MOST_SIZES:
            counts += [abs(int(number)) for number in constant.values.reshape(-1)]
    for attribute in node.attribute:
        if attribute.name not in _NO_COUNTS:
            counts += [abs(number) for number in (attribute.i, *attribute.ints)]
    return math.prod(max(count, 1) for count in counts)


def _made(array: Array, facts: Facts) -> Constant:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return Constant(kind, array.shape, lambda: array, facts=facts)


def _turned(node: NodeProto, there: Sequence[Constant], facts: Facts) -> Constant | None:
    """The transpose or the wider copy of a large matrix, without reading it; else None."""
    first = there[0]
    if first.stored is None or len(there) > 1:
        return None
    values: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Transpose" and list(values.get("perm", [1, 0])) == [1, 0]:
        dims = first.dims[::-1]
        return Constant(first.kind, dims, lambda: first.values.T, first.stored.turned(), facts)
    wider = node.op_type == "Cast" and values.get("to") == TensorProto.FLOAT
    if node.op_type == "Identity" or (wider and first.kind != TensorProto.DOUBLE):
        kind = TensorProto.FLOAT if wider else first.kind
        read = (lambda: first.values.astype(np.float32)) if wider else (lambda: first.values)
        return Constant(kind, first.dims, read, first.stored, facts)
    return None


def moved_sizes(
    node: NodeProto,
    inputs: Sequence[Operand | None],
    compute: Compute,
    fresh: Callable[[], str],
) -> Operand | None:
    """What a node that only moves elements makes of sizes; None for any other node.

    The evaluator moves the places of the entries instead of the entries, so it is its own reading
    of the attributes that counts.
    """
    if node.op_type == "Equal" and node.domain in DOMAINS:
        return _compared(inputs)
    if node.op_type not in _MOVED or node.domain not in DOMAINS:
        return None
    places = _MOVED[node.op_type](len(inputs))
    moved_ones = [inputs[place] for place in places if place < len(inputs)]
    if not all(_is_sizes(operand) for operand in moved_ones):
        return None
    if not any(isinstance(operand, Sizes | Constant) for operand in moved_ones):
        return None
    if node.op_type == "Cast" and not all(a.i == TensorProto.INT64 for a in node.attribute):
        return None
    entries: list[Dim] = []
    arrays: list[Array | None] = []
    for place, operand in enumerate(inputs):
        if operand is None:
            arrays.append(None)
            continue
        if place in places:
            own = _entries(operand, fresh)
            arrays.append(_numbered(len(entries), len(own), operand.dims))
            entries += own
        elif isinstance(operand, Constant):
            arrays.append(np.asarray(operand.values))
        else:
            return None
    moved = compute(arrays)[0]
    told = tuple(entries[i] for i in moved.reshape(-1))
    return Sizes(moved.shape, told, facts=facts_of(inputs))


def _numbered(start: int, count: int, dims: Sequence[Dim]) -> Array:
    return np.arange(start, start + count).reshape([int(dim) for dim in dims])


def _compared(inputs: Sequence[Operand | None]) -> Constant | None:
    """Whether sizes equal numbers, as an open size is no negative number; None where it is open."""
    pair = [o for o in inputs if _is_sizes(o) and isinstance(o, Sizes | Constant)]
    if len(pair) != 2 or all(isinstance(operand, Constant) for operand in pair):
        return None
    dims = np.broadcast_shapes(*(tuple(map(int, operand.dims)) for operand in pair))
    told = []
    for places in zip(
        *(np.broadcast_to(_entry_array(o), dims).reshape(-1) for o in pair), strict=True
    ):
        numbers = [entry for entry in places if isinstance(entry, int)]
        if len(numbers) < 2 and not (numbers and numbers[0] < 0):
            return None
        if any(isinstance(entry, str) and entry.startswith(_ANY) for entry in places):
            return None
        told.append(len(numbers) == 2 and numbers[0] == numbers[1])
    array = np.array(told, dtype=bool).reshape(dims)
    return Constant(TensorProto.BOOL, dims, lambda: array, facts=facts_of(pair))


def _entry_array(operand: Sizes | Constant) -> Array:
    entries = np.empty(math.prod(map(int, operand.dims)), dtype=object)
    entries[:] = _entries(operand, str)
    return entries.reshape([int(dim) for dim in operand.dims])


def _is_sizes(operand: Operand | None) -> bool:
    """Whether a tensor is a few whole numbers, as a shape is."""
    if operand is None or operand.kind != TensorProto.INT64 or len(operand.dims) > 1:
        return False
    return all(isinstance(dim, int) and dim <= MOST_SIZES for dim in operand.dims)


def _entries(operand: Operand, fresh: Callable[[], str]) -> list[Dim]:
    """The elements of a few whole numbers; those that are not known are new symbols."""
    negative = isinstance(operand, Value) and (operand.low < 0 or bool(operand.facts.conditions))
    if isinstance(operand, Sizes):
        return list(operand.entries)
    if isinstance(operand, Constant):
        return [int(number) for number in operand.values.reshape(-1)]
    count = math.prod(int(dim) for dim in operand.dims)
    return [f"{_ANY}{fresh()}" if negative else fresh() for _ in range(count)]
