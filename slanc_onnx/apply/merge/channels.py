"""Channels: where the axis of a norm's channels lies behind and before the ops around it.

An axis counts from the end, -1 for the last: so the ranks of tensors may be open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from slanc_onnx.graph import (
    FLOATS,
    Array,
    Dims,
    Flow,
    GraphPath,
    Tensor,
    Use,
    read_tensor,
)
from slanc_onnx.norms import sizes_in

_MOST_AXES = 8
_MOST_READ = 64  # elements of a shape, of axes or of a factor
_SAME = ("Identity", "Cast", "CastLike", "Dropout", "Neg")
SCALING = ("Mul", "Div", "Neg")  # of the ops that `moved` knows, those that multiply
_RESHAPED = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand")


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels of a model's tensors.

    Attributes:
        flow: The model's tensors.
    """

    flow: Flow

    def dims(self, tensor: Tensor) -> Dims | None:
        """The sizes of a tensor as the file tells them; None for an open rank."""
        if tensor in self.flow.data:
            return tuple(self.flow.data[tensor].dims)
        told = self.flow.scopes[tensor.path].tensors.get(tensor.name)
        shape = None if told is None else told.shape
        if not isinstance(shape, (list, tuple)):
            return None
        return tuple(d if isinstance(d, int) and d >= 0 else _named(d) for d in shape)

    def read(self, path: GraphPath, index: int, position: int) -> Tensor | None:
        """The tensor that a node reads at a position; None where it leaves that out."""
        return self.flow.read(Use(path, index, position))

    def small(self, tensor: Tensor | None) -> Array | None:
        """The value of a small initializer or Constant; None for any other tensor."""
        if tensor is None or tensor not in self.flow.data or tensor in self.flow.overridable:
            return None
        proto = self.flow.data[tensor]
        if math.prod(proto.dims) > _MOST_READ:
            return None
        return read_tensor(proto, self.flow.scopes[tensor.path].folder)

    def attribute(self, path: GraphPath, index: int, name: str, default: int) -> int:
        """An attribute of a node that is a whole number."""
        found = (a.i for a in self.flow.node(path, index).attribute if a.name == name)
        return next(found, default)

    def attributes(self, path: GraphPath, index: int, name: str) -> list[int] | None:
        """An attribute of a node that is whole numbers; None where it has none."""
        found = (a.ints for a in self.flow.node(path, index).attribute if a.name == name)
        numbers = next(found, None)
        return None if numbers is None else list(numbers)

    def moved(self, path: GraphPath, index: int, axis: int, width: int) -> tuple[int, int] | None:
        """Where a node that moves or scales all channels alike reads what it makes.

        Args:
            path: Its graph.
            index: The node.
            axis: The axis of the channels in each of its outputs.
            width: How many they are.

        Returns:
            The position of the input, and the axis there; None for any other node.
        """
        op = self.flow.op(path, index)
        made = Tensor(path, self.flow.node(path, index).output[0])
        if self.flow.element_type(made) not in FLOATS:
            return None
        if op in _SAME:
            return 0, axis
        if op in ("Mul", "Div"):
            return self._scaled(path, index, axis)
        if op in _RESHAPED:
            return self._reshaped(path, index, axis, width)
        if op == "Transpose":
            order = self.attributes(path, index, "perm")
            if order is None or len(order) < -axis:
                return None
            return 0, order[axis] - len(order)
        if op in ("Split", "Slice"):
            axes = self._axes(path, index, op)
            return None if axes is None or axis in axes else (0, axis)
        if op == "Gather":
            return self._gathered(path, index, axis)
        if op == "ReduceMean":
            return self._averaged(path, index, axis)
        return None

    def behind(self, use: Use, axis: int, width: int) -> int | None:
        """The axis of the channels behind a node as `moved` knows them, where they were on another
        axis in front of it; None for any other node."""
        for after in range(-1, -_MOST_AXES - 1, -1):
            if self.moved(use.path, use.node, after, width) == (use.position, axis):
                return after
        return None

    def _scaled(self, path: GraphPath, index: int, axis: int) -> tuple[int, int] | None:
        """A product with one number, or with one per row."""
        for position in (0, 1):
            other = self.read(path, index, 1 - position)
            source = self.read(path, index, position)
            if other is None or source is None or (self.flow.op(path, index) == "Div" and position):
                continue
            sizes = self.dims(other)
            if sizes is None or source in self.flow.constants:
                continue
            if len(sizes) < -axis or sizes[axis] == 1:
                return position, axis
        return None

    def _reshaped(
        self, path: GraphPath, index: int, axis: int, width: int
    ) -> tuple[int, int] | None:
        before = self.read(path, index, 0)
        sizes = None if before is None else self.dims(before)
        after = self._sizes_after(path, index)
        if after is None or len(after) < -axis or after[axis] != width:
            return None
        if axis == -1 and (not sizes or not isinstance(sizes[-1], int)):
            return 0, -1  # rows are kept: what the weights before and behind it say is checked
        if sizes is None:
            return None
        expands = self.flow.op(path, index) == "Expand"
        for other in range(-1, -len(sizes) - 1, -1):
            if sizes[other] != width or (expands and other != axis):
                continue
            inside = [s[len(s) + a + 1 :] for s, a in ((sizes, other), (after, axis))]
            counts = [math.prod(d) if _known(d) else None for d in inside]
            if counts[0] is not None and counts[0] == counts[1]:
                return 0, other
            ahead = [s[: len(s) + a] for s, a in ((sizes, other), (after, axis))]
            if ahead[0] == ahead[1] and "" not in ahead[0] and not expands:
                return 0, other
        return None

    def _sizes_after(self, path: GraphPath, index: int) -> Dims | None:
        """The sizes that a node gives, as the file tells them or as a Reshape is asked for them."""
        name = self.flow.node(path, index).output[0]
        told = self.dims(Tensor(path, name))
        if self.flow.op(path, index) != "Reshape":
            return told
        asked = self._asked(path, index)
        before = self.read(path, index, 0)
        sizes = None if before is None else self.dims(before)
        if asked is None or self.attribute(path, index, "allowzero", 0):
            return told
        made: list[int | str] = []
        for place, size in enumerate(asked):
            if not isinstance(size, int):
                made.append(size)
            elif size == 0 and sizes is not None and place < len(sizes):
                made.append(sizes[place])
            else:
                made.append(size if size > 0 else "")
        if told is not None and len(told) == len(made):
            return tuple(t if m == "" else m for t, m in zip(told, made, strict=True))
        return tuple(made)

    def _asked(self, path: GraphPath, index: int) -> Dims | None:
        """The sizes that a Reshape is asked for, as far as they are constants."""
        shape = self.read(path, index, 1)
        if shape is None or shape in self.flow.overridable:
            return None
        scope = self.flow.scopes[shape.path]
        tensor = scope.tensors.get(shape.name)
        return None if tensor is None else sizes_in(scope, tensor)

    def _axes(self, path: GraphPath, index: int, op: str) -> set[int] | None:
        """The axes that a Split or Slice cuts, counted from the end."""
        source = self.read(path, index, 0)
        if op == "Split":
            given: list[int] | None = [self.attribute(path, index, "axis", 0)]
        else:
            given = self.attributes(path, index, "axes")
            value = self.small(self.read(path, index, 3))
            if value is not None:
                given = [int(a) for a in value.reshape(-1)]
        return self._from_end(given, source)

    def _from_end(self, axes: list[int] | None, source: Tensor | None) -> set[int] | None:
        if axes is None or source is None:
            return None
        if all(a < 0 for a in axes):
            return set(axes)
        sizes = self.dims(source)
        return None if sizes is None else {a - len(sizes) if a >= 0 else a for a in axes}

    def _gathered(self, path: GraphPath, index: int, axis: int) -> tuple[int, int] | None:
        """What is taken along another axis than that of the channels."""
        source, taken = (self.read(path, index, p) for p in (0, 1))
        along = self._from_end([self.attribute(path, index, "axis", 0)], source)
        if along is None or taken is None:
            return None
        (cut,) = along
        if cut < axis:
            return 0, axis
        sizes = self.dims(taken)
        if sizes is None:
            return None
        before = axis + len(sizes) - 1
        return (0, before) if before < cut else None

    def _averaged(self, path: GraphPath, index: int, axis: int) -> tuple[int, int] | None:
        """A mean over positions; not over channels."""
        given = self.attributes(path, index, "axes")
        value = self.small(self.read(path, index, 1))
        if value is not None:
            given = [int(a) for a in value.reshape(-1)]
        axes = self._from_end(given, self.read(path, index, 0))
        if not axes:
            return None
        before = axis
        if not self.attribute(path, index, "keepdims", 1):
            for cut in sorted(axes, reverse=True):
                before -= cut >= before
        return None if before in axes else (0, before)


def along(values: Array, axis: int, rank: int) -> Array:
    """A row of channels as an array of a rank that broadcasts along an axis."""
    shape = np.ones(rank, np.int64)
    shape[axis] = -1
    return values.reshape(tuple(shape))


def _named(size: object) -> str:
    """The name of an open size; "" for one that is not known to be another one."""
    return size if isinstance(size, str) else ""


def _known(sizes: Dims) -> bool:
    return all(isinstance(size, int) for size in sizes)
