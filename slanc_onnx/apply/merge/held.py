"""Held: the constants of a folded model, and what becomes of them; one is in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, assert_never

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from slanc_onnx.accelerator import Format
from slanc_onnx.apply.fold import HALF, Weights
from slanc_onnx.apply.merge.channels import Channels
from slanc_onnx.graph import (
    FLOATS,
    Array,
    Flow,
    Pending,
    Tensor,
    Use,
    constant_value,
    graph_at,
    read_tensor,
)

_CHUNK = 1 << 22  # elements that are held in FP64 at a time
_MOST = 1 << 20  # elements of a vector that is computed from constants
_VECTOR_OPS: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
}
_KEPT = ("Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten")


@dataclass(frozen=True, eq=False)
class Scaled:
    """Each slice along an axis times its factor; `factors` broadcasts to the weight's shape."""

    factors: Array


@dataclass(frozen=True, eq=False)
class Added:
    """A row that is added; it broadcasts to the weight's shape."""

    row: Array


@dataclass(frozen=True)
class Centred:
    """Less the mean along an axis, which counts from the end."""

    axis: int


Step = Scaled | Added | Centred
Steps = tuple[Step, ...]


@dataclass(frozen=True)
class Rounding:
    """What rounding a changed weight does.

    Attributes:
        relative: Frobenius norm of the error, over that of the exact weight.
        largest: The largest element, before it is rounded.
        finite: Whether all elements are finite.
    """

    relative: float = 0.0
    largest: float = 0.0
    finite: bool = True


@dataclass(frozen=True, eq=False)
class Held:
    """The constants of a folded model.

    Attributes:
        flow: The model's tensors; large ones may be as they were before the fold.
        model: The folded model.
        folder: Where its external data lies.
        pending: The tensors that the fold divided.
        written: The format in which 32-bit floats are written; None for their own.
        weights: Who reads them.
        channels: The axes of its tensors.
    """

    flow: Flow
    model: onnx.ModelProto
    folder: Path | None
    pending: Pending
    written: Format | None = None
    weights: Weights = field(init=False)
    channels: Channels = field(init=False)
    _stored: dict[Tensor, TensorProto] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make what follows from the others."""
        object.__setattr__(self, "weights", Weights(self.flow, self.folder))
        object.__setattr__(self, "channels", Channels(self.flow))
        for path in self.flow.scopes:
            graph = graph_at(self.model, path)
            self._stored.update({Tensor(path, t.name): t for t in graph.initializer})
            for node in graph.node:
                if node.op_type == "Constant" and (value := constant_value(node)) is not None:
                    self._stored[Tensor(path, node.output[0])] = value

    def read(self, root: Tensor) -> Array:
        """The values of an initializer or Constant, divided as the fold has it."""
        tensor = TensorProto()
        tensor.CopyFrom(self._stored[root])
        made = self.pending.give(tensor)
        return read_tensor(tensor, self.folder) if made is None else made()

    def vector(self, tensor: Tensor) -> Array | None:
        """A row of constants in FP64, flat; None where it is computed by ops that are not read."""
        flow = self.flow
        if tensor in flow.overridable:
            return None
        if tensor in flow.data:
            proto = flow.data[tensor]
            if math.prod(proto.dims) > _MOST or proto.data_type not in FLOATS:
                return None
            return np.asarray(self.read(tensor)).astype(np.float64).reshape(-1)
        if tensor not in flow.constants or tensor not in flow.makers:
            return None
        path, index, _ = flow.makers[tensor]
        op = flow.op(path, index)
        parts = [flow.read(Use(path, index, p)) for p in range(len(flow.node(path, index).input))]
        values = [None if t is None else self.vector(t) for t in parts[: 1 if op in _KEPT else 2]]
        known = [v for v in values if v is not None]
        if op in _KEPT and known:
            kind = flow.element_type(tensor)
            return known[0].astype(_dtype(kind)).astype(np.float64) if kind in FLOATS else None
        if op not in _VECTOR_OPS or len(known) != 2:
            return None
        if len(known[0]) != len(known[1]) and 1 not in map(len, known):
            return None
        return np.asarray(_VECTOR_OPS[op](known[0], known[1]))

    def order(self, tensor: Tensor) -> tuple[Tensor, tuple[int, ...]] | None:
        """The stored weight behind a constant, and which of its axes each axis of that is.

        None where it is computed by more than casts and transpositions, is quantised, or a caller
        may give another.
        """
        flow = self.flow
        turns: list[list[int] | None] = []
        while tensor not in flow.data:
            if tensor not in flow.constants or tensor not in flow.makers:
                return None
            path, index, _ = flow.makers[tensor]
            op = flow.op(path, index)
            if op not in ("Identity", "Cast", "Transpose"):
                return None
            if flow.element_type(tensor) not in FLOATS:
                return None
            if op == "Transpose":
                turns.append(self.channels.attributes(path, index, "perm"))
            source = flow.read(Use(path, index, 0))
            if source is None:
                return None
            tensor = source
        proto = flow.data[tensor]
        if proto.data_type not in FLOATS or tensor in flow.overridable:
            return None
        axes = list(range(len(proto.dims)))
        for turn in reversed(turns):
            axes = [axes[a] for a in (turn or range(len(axes))[::-1])]
        return tensor, tuple(axes)

    def read_as(self, root: Tensor) -> int:
        """The element type of a weight: one of 16 bits where a cast behind it makes it that."""
        flow, waiting, kind = self.flow, [root], self.flow.data[root].data_type
        while waiting and kind not in HALF:
            here = waiting.pop()
            kinds = {flow.element_type(here)} & HALF
            kind = kinds.pop() if kinds else kind
            for use in flow.uses.get(here, ()):
                made = (Tensor(use.path, name) for name in flow.node(use.path, use.node).output)
                waiting += [one for one in made if one in flow.constants]
        return kind

    def rounding(self, root: Tensor, steps: Steps) -> Rounding:
        """What rounding a changed weight once, from FP64, does in the format that is written."""
        values = self.read(root)
        kind = self.read_as(root)
        dtype = _dtype(kind)
        if self.written is not None and kind not in HALF:
            dtype = np.dtype(getattr(ml_dtypes, self.written.name, self.written.name))
        error = total = largest = 0.0
        finite = True
        for old, new in _changed(values, steps):
            there = np.isfinite(old)
            kept = cast(new, dtype).astype(np.float64)
            finite = finite and bool(np.isfinite(kept).all())
            exact = new[there]
            largest = max(largest, float(np.abs(exact).max(initial=0.0)))
            with np.errstate(over="ignore", invalid="ignore"):
                error += float(np.sum((kept[there] - exact) ** 2))
                total += float(np.sum(exact**2))
        relative = math.sqrt(error / total) if error and total else 0.0
        return Rounding(relative, largest, finite)


def changed(values: Array, steps: Steps, odd: bool = False) -> Array:
    """A weight after some steps, in FP64 and rounded once to its own element type; see `cast`."""
    result = np.empty(values.shape, values.dtype)
    flat, at = result.reshape(-1), 0
    for _, new in _changed(values, steps):
        flat[at : at + new.size] = cast(new.reshape(-1), values.dtype, odd)
        at += new.size
    return result


def changed_parts(values: Array, steps: Steps) -> Iterator[Array]:
    """The same in FP64, not rounded, a few slices of its first axis at a time."""
    return (new for _, new in _changed(values, steps))


def _changed(values: Array, steps: Steps) -> Iterator[tuple[Array, Array]]:
    """A weight before and after some steps, in FP64, a few slices of its first axis at a time."""
    whole = values if values.ndim else values.reshape(1)
    means: dict[int, Array] = {}
    for place, step in enumerate(steps):
        if isinstance(step, Centred) and step.axis % whole.ndim == 0:  # over all slices
            parts = (
                new.sum(axis=0, keepdims=True) for _, new in _parts(whole, steps, place, means)
            )
            means[place] = sum(parts, np.zeros(())) / max(1, len(whole))
    yield from _parts(whole, steps, len(steps), means)


def _parts(
    values: Array, steps: Steps, count: int, means: Mapping[int, Array]
) -> Iterator[tuple[Array, Array]]:
    """The same after the first so many steps; `means` has those along the first axis."""
    at_once = max(1, _CHUNK // max(1, values[:1].size))
    for start in range(0, len(values), at_once):
        here = slice(start, start + at_once)
        old = values[here].astype(np.float64)
        new = old
        for place, step in enumerate(steps[:count]):
            match step:
                case Scaled(factors):
                    new = new * (factors[here] if len(factors) > 1 else factors)
                case Added(row):
                    new = new + (row[here] if len(row) > 1 else row)
                case Centred(axis):
                    known = means.get(place)
                    mean = new.mean(axis=axis, keepdims=True) if known is None else known
                    new = new - mean
                case _:
                    assert_never(step)
        yield old, new


def as_stored(values: Array, element_type: int, odd: bool = False) -> Array:
    """Numbers in an element type; see `cast`."""
    return cast(values, _dtype(element_type), odd)


def cast(values: Array, dtype: np.dtype[Any], odd: bool = False) -> Array:
    """Numbers rounded to a type: to nearest, ties to even; or FP64 to FP32 by rounding to odd.

    That takes the FP32 neighbour whose last bit is 1. To nearest in a format of at most 22 bits it
    then gives what one rounding from FP64 gives (Boldo and Melquiond, "Emulation of FMA and
    correctly rounded sums: proved algorithms using rounding to odd", IEEE Trans. Comput. 2008).
    ml_dtypes goes by way of FP32 itself, to nearest.
    """
    if values.dtype == np.float64 and dtype == ml_dtypes.bfloat16:
        values = cast(values, np.dtype(np.float32), odd=True)
    with np.errstate(over="ignore", under="ignore"):
        near = values.astype(dtype)
    if not odd or values.dtype != np.float64 or dtype != np.float32:
        return near
    bits = near.view(np.int32)
    size, exact = np.abs(near), np.abs(values)
    off = np.isfinite(near) & (size != exact)
    bits[off & (size > exact)] -= 1  # toward zero
    bits[off] |= 1
    return near


def _dtype(element_type: int) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(element_type))
