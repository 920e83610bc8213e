"""Small constants that a graph computes: axes, epsilons, and ranks that the file leaves out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_graphsurgeon as gs
from onnx import helper

from slanc_onnx.errors import SlancError
from slanc_onnx.graph import (
    SEE_THROUGH,
    Array,
    Dims,
    Scope,
    constant_made,
    dims,
    op_of,
    told_type,
)
from slanc_onnx.ops import ELEMENTWISE, places_cut

_LARGEST = 2**20  # elements of a matrix that may be one of equal numbers
_MOST = 64  # elements of a value that is followed
_FAR = 32  # nodes between a tensor and where its rank is told

_COMPUTED: dict[str, Callable[..., Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Pow": np.power,
    "Neg": np.negative,
    "Sqrt": np.sqrt,
    "Reciprocal": np.reciprocal,
    "Max": np.maximum,
    "Min": np.minimum,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Equal": np.equal,
    "Range": lambda start, limit, delta: _range(start, limit, delta),
}
_RESHAPED = ("Reshape", "Unsqueeze", "Squeeze", "Flatten", "Expand")
_FOLLOWED = {*SEE_THROUGH, *_RESHAPED, *_COMPUTED, "Div", "Concat", "Gather", "Slice"} | {
    "QuantizeLinear",
    "DequantizeLinear",
    "ReduceProd",
}


def small_value(scope: Scope, tensor: gs.Tensor) -> Array | None:
    """The value of a tensor that is computed from constants, ranks and known sizes; else None."""
    return _followed(scope, tensor, _FAR, {})


def _followed(
    scope: Scope, tensor: gs.Tensor, far: int, seen: dict[int, tuple[int, Array | None]]
) -> Array | None:
    """As `small_value`, over so many nodes; `seen` has what was found, and over how many."""
    if scope.constant(tensor) is not None:
        return stored_value(scope, tensor, _MOST)
    if not tensor.inputs or far == 0:
        return None
    node = tensor.inputs[0]
    op = op_of(node)
    if op in ("Shape", "Size"):
        return _sizes(scope, node)
    if op not in _FOLLOWED:
        return None
    before = seen.get(id(tensor))
    if before is not None and (before[0] >= far or before[1] is not None):
        return before[1]
    parts = [_followed(scope, t, far - 1, seen) if t.name else None for t in node.inputs]
    try:
        found = _computed(op, node, parts)
    except (ValueError, TypeError, LookupError, ZeroDivisionError, OverflowError):
        found = None
    if found is not None and found.size > _MOST:
        found = None
    seen[id(tensor)] = (far, found)
    return found


def scalar_of(scope: Scope, tensor: gs.Tensor) -> float | None:
    """The value of a constant of one element, None for any other tensor."""
    value = small_value(scope, tensor)
    if value is None or value.size != 1 or value.dtype.kind not in "biufV":
        return None
    return float(value.reshape(-1)[0])


def stored_value(scope: Scope, tensor: gs.Tensor, most: int = _LARGEST) -> Array | None:
    """The value of an initializer or Constant of at most so many elements; else None.

    It is None, too, where the data is not there: functions are tried out without weights.
    """
    proto = scope.constant(tensor)
    if proto is None or int(np.prod(proto.dims, dtype=np.int64)) > most:
        return None
    try:
        value = np.asarray(scope.read(tensor))
    except SlancError:
        return None
    return value if value.dtype.kind in "biufV" else None  # V: formats that NumPy lacks


def _computed(op: str, node: gs.Node, parts: Sequence[Array | None]) -> Array | None:
    first = parts[0] if parts else None
    if first is None:
        return None
    if op in ("Cast", "CastLike"):
        kind = int(node.attrs.get("to", 0)) if op == "Cast" else told_type(node.inputs[1])
        return _as_type(first, kind) if kind else first
    if op in SEE_THROUGH:
        return first
    if op in _RESHAPED:
        to = parts[-1]
        flat = op in ("Unsqueeze", "Squeeze") or (
            op == "Reshape" and to is not None and to.size < 2
        )
        return first.reshape(-1) if first.size == 1 or (flat and first.ndim <= 1) else None
    known = [part for part in parts if part is not None]
    if len(known) != len(parts):
        return None
    with np.errstate(all="ignore"):
        if op in ("QuantizeLinear", "DequantizeLinear"):
            return _quantised(op, node, known)
        if op == "Div":
            whole = all(part.dtype.kind in "iu" for part in known)
            quotient = np.asarray(known[0] / known[1])
            return np.trunc(quotient).astype(np.int64) if whole else quotient
        if op == "Concat":
            return np.concatenate([np.atleast_1d(part) for part in known])
        if op == "ReduceProd":
            return np.asarray(np.prod(first))
        if op == "Gather" and first.ndim <= 1:
            return np.asarray(first.reshape(-1)[known[1].astype(np.int64)])
        if op == "Slice" and len(known) >= 3 and first.ndim <= 1:
            steps = int(known[4].reshape(-1)[0]) if len(known) > 4 else 1
            begin, end = (int(part.reshape(-1)[0]) for part in known[1:3])
            return np.take(first.reshape(-1), places_cut(first.size, begin, end, steps))
        if op in _COMPUTED:
            return np.asarray(_COMPUTED[op](*known))
    return None


def _as_type(values: Array, to: int) -> Array | None:
    """Numbers as a Cast makes them: what a type does not hold is rounded, cut or lost."""
    dtype = helper.tensor_dtype_to_np_dtype(to)
    with np.errstate(all="ignore"):
        return values.astype(dtype) if dtype.kind in "biufV" else None


def _quantised(op: str, node: gs.Node, known: Sequence[Array]) -> Array | None:
    """Constants as integers, or the numbers that integers stand for; None with several scales."""
    values, scale = known[0], known[1]
    zero = known[2] if len(known) > 2 else np.zeros((), np.uint8)
    if scale.size != 1 or (len(known) < 3 and "output_dtype" in node.attrs):
        return None
    if zero.dtype.kind not in "iu":
        return None
    if op == "DequantizeLinear":
        shifted = values.astype(np.int64) - zero.astype(np.int64).reshape(-1)[0]
        return np.asarray((shifted.astype(np.float32) * scale.reshape(-1)[0]).astype(scale.dtype))
    limits = np.iinfo(zero.dtype)
    whole = np.rint(values / scale.reshape(-1)[0]) + int(zero.reshape(-1)[0])
    return np.asarray(np.clip(whole, limits.min, limits.max).astype(zero.dtype))


def _range(start: Array, limit: Array, delta: Array) -> Array:
    """The numbers of a Range.

    Raises:
        ValueError: they are too many.
    """
    first, end, step = start.item(), limit.item(), delta.item()
    if not abs(end - first) <= abs(step) * _MOST:
        raise ValueError("a long range")
    values: Array = np.arange(first, end, step)
    return values


def _sizes(scope: Scope, node: gs.Node) -> Array | None:
    """The shape of a node's input, or how many numbers it has; the rank is Size(Shape(x))."""
    source = node.inputs[0]
    op = op_of(node)
    if op == "Size" and source.inputs and op_of(source.inputs[0]) == "Shape":
        shape_of = source.inputs[0]
        rank = rank_of(scope, shape_of.inputs[0])
        plain = not {"start", "end"} & set(shape_of.attrs)
        return np.array(rank) if rank is not None and plain else None
    shape = dims(scope, source)
    if shape is None:
        return None
    if op == "Shape":
        shape = shape[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))]
    sizes = [d for d in shape if isinstance(d, int)]
    if len(sizes) != len(shape):
        return None
    return np.array(sizes if op == "Shape" else int(np.prod(sizes, dtype=np.int64)))


def sizes_in(scope: Scope, tensor: gs.Tensor, far: int = _FAR) -> Dims | None:
    """The sizes in a vector that a graph puts together for a Reshape; a dynamic one is its name."""
    value = small_value(scope, tensor)
    if value is not None and value.dtype.kind in "iu":
        return tuple(int(v) for v in value.reshape(-1))
    if not tensor.inputs or far == 0:
        return None
    node = tensor.inputs[0]
    op, first = op_of(node), node.inputs[0] if node.inputs else None
    if op == "Shape":
        shape = dims(scope, node.inputs[0])
        return shape and shape[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))]
    if op == "Concat" and len(node.inputs) < 9:
        parts = [sizes_in(scope, t, far // 3) for t in node.inputs]
        return None if None in parts else tuple(d for part in parts for d in part or ())
    known = None if first is None else sizes_in(scope, first, far - 1)
    if known is None or op in (*SEE_THROUGH, "Reshape", "Unsqueeze", "Squeeze"):
        return known
    picked = [small_value(scope, t) for t in node.inputs[1:] if t.name]
    if any(part is not None and part.dtype.kind not in "iu" for part in picked):
        return None
    if op == "Gather" and picked and picked[0] is not None and picked[0].size == 1:
        at = int(picked[0].reshape(-1)[0])
        return (known[at],) if -len(known) <= at < len(known) else None
    if (
        op == "Slice"
        and len(node.inputs) < 5  # with a step
        and len(picked) in (2, 3)
        and not any(p is None or p.size != 1 for p in picked)
    ):
        begin, end = (int(p.reshape(-1)[0]) for p in picked[:2] if p is not None)
        return known[begin:end]
    return None


def rank_of(scope: Scope, tensor: gs.Tensor) -> int | None:
    """The rank of a tensor, from its shape or from the ops that make or read it; else None."""
    seen: set[int] = set()
    waiting = [tensor]
    while waiting and len(seen) < _FAR:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        shape = dims(scope, one)
        found = len(shape) if shape is not None else _told_by_nodes(scope, one)
        if found is not None:
            return found
        waiting += _of_same_rank(scope, one)
    return None


def _told_by_nodes(scope: Scope, tensor: gs.Tensor) -> int | None:
    """The rank that the maker or a reader of a tensor asks for."""
    at = [(node, True) for node in tensor.inputs]
    at += [(node, False) for node in tensor.outputs if node.inputs]
    for node, made in at:
        op = op_of(node)
        if not made and op not in ("Mul", "Add") and node.inputs[0] is not tensor:
            continue
        if op in ("Conv", "ConvTranspose") and len(node.inputs) > 1:
            weight = dims(scope, node.inputs[1])
            if weight is not None:
                return len(weight)
        if op == "Transpose" and node.attrs.get("perm"):
            return len(node.attrs["perm"])
        if op in ("Mul", "Add") and not made:  # gamma and beta
            others = [t for t in node.inputs if t is not tensor and scope.constant(t) is not None]
            known = next((d for t in others if (d := dims(scope, t)) and len(d) > 1), None)
            if known is not None:
                return len(known)
        if op == "Reshape" and made:
            told = dims(scope, node.inputs[1]) if len(node.inputs) > 1 else None
            if told is not None and len(told) == 1 and isinstance(told[0], int):
                return told[0]
    return None


_KEEPS = {*SEE_THROUGH, *ELEMENTWISE, "LeakyRelu", "Dropout", "BatchNormalization"} | {
    "InstanceNormalization",
    "Softmax",
    "Pad",
    "Slice",
}


def _of_same_rank(scope: Scope, tensor: gs.Tensor) -> list[gs.Tensor]:
    """Tensors that have the rank of this one, as far as the ops around it tell."""
    found: list[gs.Tensor] = []
    for node in tensor.inputs:
        op = op_of(node)
        kept = op.startswith("Reduce") and node.attrs.get("keepdims", 1)
        if (op in _KEEPS or kept) and node.inputs:
            found.append(node.inputs[0])
        elif op in ("Add", "Sub", "Mul", "Div", "Sum"):
            found += [t for t in node.inputs if not constant_made(scope, t)]
    for node in tensor.outputs:
        op = op_of(node)
        kept = op.startswith("Reduce") and node.attrs.get("keepdims", 1)
        if (op in _KEEPS or kept) and node.outputs and node.inputs[0] is tensor:
            found.append(node.outputs[0])
        elif op in ("Sub", "Div") and node.outputs and node.inputs[0] is tensor:
            found.append(node.outputs[0])  # less its mean, or by its deviation
    return found
