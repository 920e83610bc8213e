"""Islands: the ops from positions to angles as a model of their own, run in FP64.

That the angles are rows by position is shown by running them, whatever ops compute them: changes of
one position tell which axes of the angles are those of the positions, and then the angles of other
positions, in another order and another shape, have to be the same rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import ml_dtypes
import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from slanc_onnx.graph import FLOATS, Array, Dims, Flow, Tensor, Use, read_tensor

_TRIALS = ((5, 3, 4, 2), (2, 7, 3, 5), (1, 1, 1, 1), (3, 2, 1, 4))  # sizes of axes that are open
_OTHERS = (11, 13, 17, 19)  # those of axes that the positions do not have
_BLOCK = 4096  # rows that are computed at once
_CLOSE = 1e-12  # of angles in FP64, relative
_TYPES = ("to", "dtype")


class NoIsland(Exception):
    """What is before the angles cannot be run alone."""


class NoRows(Exception):
    """The angles are no rows by position."""


@dataclass(frozen=True)
class Arrangement:
    """How angles are made of rows by position.

    Attributes:
        axes: What each axis of the angles is: axis i of the positions as i, axis j of a row as
            j + the number of the positions' axes, and an axis of size 1 that is neither as -1.
        row: The shape of a row.
    """

    axes: tuple[int, ...]
    row: tuple[int, ...]

    def dropped(self, rank: int) -> tuple[int, ...]:
        """Axes of the positions, of size 1, that the angles do not have."""
        return tuple(axis for axis in range(rank) if axis not in self.axes)

    def order(self, rank: int) -> tuple[int, ...]:
        """The axes in the order of the angles, of those that gathered rows have then."""
        kept = [a for a in range(rank + len(self.row)) if a in self.axes]
        return tuple(kept.index(axis) for axis in self.axes if axis >= 0)

    @property
    def added(self) -> tuple[int, ...]:
        """The axes of size 1 that gathered rows do not have."""
        return tuple(place for place, axis in enumerate(self.axes) if axis < 0)

    def of(self, gathered: Array, rank: int) -> Array:
        """Rows as angles.

        Args:
            gathered: Of the shape of the positions, and then that of a row.
            rank: How many axes the positions have.
        """
        kept = np.squeeze(gathered, self.dropped(rank)).transpose(self.order(rank))
        return np.expand_dims(kept, self.added)

    def rows(self, angles: Array, shape: tuple[int, ...]) -> Array:
        """Angles as rows: one for each position of a shape."""
        bare = np.squeeze(angles, self.added).transpose(np.argsort(self.order(len(shape))))
        return bare.reshape(math.prod(shape), *self.row)


@dataclass(frozen=True, eq=False)
class Island:
    """The ops between positions and angles.

    Attributes:
        flow: Of the model.
        angles: The angles.
        positions: The tensor of the positions; None where the angles are constant.
        inside: The tensors between both, whose shapes follow from those of the positions.
    """

    flow: Flow
    angles: Tensor
    positions: Tensor | None
    inside: frozenset[Tensor]

    @cached_property
    def dims(self) -> Dims:
        """The sizes of the positions.

        Raises:
            NoIsland: nothing tells how many there are.
        """
        found = _told(self.flow, self.positions) if self.positions is not None else ()
        if found is None:
            raise NoIsland("")
        return found

    def shape(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """A shape of the positions with sizes for the axes that are open."""
        free = itertools.cycle(sizes)
        return tuple(d if isinstance(d, int) else next(free) for d in self.dims)

    def run(self, positions: Array) -> Array:
        """The angles of positions, in FP64."""
        names = dict(zip(self.dims, positions.shape, strict=True))
        model = self._model({str(name): int(size) for name, size in names.items()})
        try:
            angles = ReferenceEvaluator(model).run(None, {"positions": positions})[0]
        except Exception as error:  # of any kind, for any op
            raise NoIsland(str(error)) from error
        return np.asarray(angles, dtype=np.float64)

    @cached_property
    def written(self) -> bytes:
        """The ops and constants, in bytes; equal ones give equal angles."""
        return self._model({}).SerializeToString(deterministic=True)

    def constant(self) -> Array:
        """The angles where they are constant."""
        return self.run(np.zeros((), np.int64))

    @cached_property
    def arrangement(self) -> Arrangement:
        """How the angles are made of rows.

        Raises:
            NoRows: they are not.
            NoIsland: they cannot be run alone.
        """
        shape = self.shape(_TRIALS[0])
        first = self.run(np.zeros(shape, np.int64))
        found = [self._axis(first, shape, axis) for axis in range(len(shape))]
        known = [axis for axis in found if axis is not None]
        if len(set(known)) < len(known):
            raise NoRows
        row, axes = [], []
        for place, size in enumerate(first.shape):
            if place in known:
                axes.append(found.index(place))
            elif size == 1:
                axes.append(-1)
            else:
                axes.append(len(shape) + len(row))
                row.append(size)
        arrangement = Arrangement(_with_ones(axes, shape), tuple(row))
        self._try(arrangement)
        return arrangement

    def _axis(self, first: Array, shape: tuple[int, ...], axis: int) -> int | None:
        """The axis of the angles that is an axis of the positions; None for one of size 1."""
        if shape[axis] == 1:
            return None
        found = []
        for moved in (0, 1):
            positions = np.zeros(shape, np.int64)
            positions[tuple(moved if a == axis else 0 for a in range(len(shape)))] = 1
            changed = np.nonzero(np.abs(self.run(positions) - first) > _CLOSE)
            if not changed[0].size if changed else True:
                raise NoRows
            found.append([set(places.tolist()) for places in changed])
        here = [a for a, (at0, at1) in enumerate(zip(*found, strict=True)) if (at0, at1) == ({0}, {1})]
        if len(here) != 1 or first.shape[here[0]] != shape[axis]:
            raise NoRows
        return here[0]

    def _try(self, arrangement: Arrangement) -> None:
        """Check that the angles of other positions are the same rows.

        Raises:
            NoRows: they are not.
        """
        rng = np.random.default_rng(0)
        for sizes in _TRIALS:
            shape = self.shape(sizes)
            count = math.prod(shape)
            positions = rng.permutation(count + 8)[:count].reshape(shape)
            rows = self.rows(arrangement, 0, count + 8)
            made = arrangement.of(rows[positions], len(shape))
            angles = self.run(positions)
            if made.shape != angles.shape or not np.allclose(made, angles, rtol=_CLOSE, atol=_CLOSE):
                raise NoRows

    def rows(self, arrangement: Arrangement, first: int, stop: int) -> Array:
        """The angles of the positions from `first` to before `stop`, a row each."""
        last_open = max((a for a, d in enumerate(self.dims) if not isinstance(d, int)), default=None)
        at_once = min(_BLOCK, stop - first)
        shape = tuple(
            d if isinstance(d, int) else at_once if axis == last_open else 1
            for axis, d in enumerate(self.dims)
        )
        count, blocks = math.prod(shape), []
        for start in range(first, stop, count):
            positions = np.minimum(np.arange(start, start + count), stop - 1).reshape(shape)
            blocks.append(arrangement.rows(self.run(positions), shape)[: stop - start])
        return np.concatenate(blocks)

    def _model(self, sizes: Mapping[str, int]) -> onnx.ModelProto:
        """The ops as a model of FP64 with the input and the output of `run`."""
        graph = onnx.GraphProto(name="angles")
        name = {self.positions: "positions"} if self.positions is not None else {}
        sizes = dict(sizes)
        waiting = [self.angles]
        while waiting:
            tensor = waiting[-1]
            if tensor in name:
                waiting.pop()
            elif tensor in self.flow.data:
                if tensor in self.flow.overridable:
                    raise NoIsland(tensor.name)
                graph.initializer.append(self._constant(tensor, f"t{len(name)}"))
                name[tensor] = f"t{len(name)}"
            else:
                waiting += [t for t in self._reads(tensor) if t not in name]
                if waiting[-1] is tensor:
                    self._add(graph, tensor, name, sizes)
        kind = helper.make_tensor_value_info("positions", TensorProto.INT64, None)
        graph.input.append(kind)
        graph.output.append(helper.make_empty_tensor_value_info(name[self.angles]))
        main = self.flow.scopes[()]
        opsets = main.skeleton.opset_import if main.skeleton is not None else []
        return helper.make_model(graph, opset_imports=[o for o in opsets if o.domain in ("", "ai.onnx")])

    def _reads(self, tensor: Tensor) -> list[Tensor]:
        """What the maker of a tensor reads; nothing where it reads a shape that is told."""
        if tensor not in self.flow.makers:
            raise NoIsland(tensor.name)
        path, index, _ = self.flow.makers[tensor]
        node = self.flow.node(path, index)
        reads = [self.flow.read(Use(path, index, p)) for p in range(len(node.input))]
        if self.flow.op(path, index) == "Shape" and reads[0] not in self.inside:
            return [t for t in reads if t in self.flow.data]
        if not self.flow.op(path, index) or any(a.type == AttributeProto.GRAPH for a in node.attribute):
            raise NoIsland(tensor.name)
        return [t for t in reads if t is not None]

    def _add(
        self, graph: onnx.GraphProto, tensor: Tensor, name: dict[Tensor, str], sizes: dict[str, int]
    ) -> None:
        """Add the node that makes a tensor, whose inputs are there."""
        path, index, _ = self.flow.makers[tensor]
        node = onnx.NodeProto()
        node.CopyFrom(self.flow.node(path, index))
        reads = [self.flow.read(Use(path, index, p)) for p in range(len(node.input))]
        if node.op_type == "Shape" and reads[0] is not None and reads[0] not in name:
            shape = _sized(_told(self.flow, reads[0]), sizes)
            start = next((a.i for a in node.attribute if a.name == "start"), 0)
            end = next((a.i for a in node.attribute if a.name == "end"), len(shape))
            name[tensor] = f"t{len(name)}"
            graph.initializer.append(
                numpy_helper.from_array(np.array(shape[start:end], np.int64), name[tensor])
            )
            return
        del node.input[:]
        node.input.extend("" if t is None else name[t] for t in reads)
        for place, output in enumerate(node.output):
            made = Tensor(path, output)
            if output:
                name[made] = f"t{len(name)}"
                node.output[place] = name[made]
        for attribute in node.attribute:
            if attribute.name in _TYPES and attribute.i in FLOATS:
                attribute.i = TensorProto.DOUBLE
            if attribute.type == AttributeProto.TENSOR:
                attribute.t.CopyFrom(_as_double(numpy_helper.to_array(attribute.t), ""))
        graph.node.append(node)

    def _constant(self, tensor: Tensor, name: str) -> TensorProto:
        return _as_double(read_tensor(self.flow.data[tensor], self.flow.scopes[()].folder), name)


def rounded(values: Array, unit_roundoff: float, smallest_normal: float) -> Array:
    """Numbers in FP64, rounded to nearest, ties to even, to a format of no more than FP32."""
    least = math.frexp(smallest_normal)[1] - 1
    binade = np.maximum(np.frexp(values)[1] - 1, least)
    spacing = np.ldexp(2 * unit_roundoff, binade)
    return np.asarray(np.rint(values / spacing) * spacing, dtype=np.float32)


def _as_double(values: Array, name: str) -> TensorProto:
    floats = values.dtype.kind == "f" or values.dtype == ml_dtypes.bfloat16
    return numpy_helper.from_array(values.astype(np.float64) if floats else values, name)


def _told(flow: Flow, tensor: Tensor) -> Dims | None:
    """The shape that the file tells of a tensor."""
    if tensor in flow.data:
        return tuple(int(d) for d in flow.data[tensor].dims)
    found = flow.scopes[tensor.path].graph.tensors().get(tensor.name)
    if found is None or found.shape is None:
        return None
    return tuple(
        d if isinstance(d, int) and d >= 0 else str(d or f"{tensor.name}, axis {axis}")
        for axis, d in enumerate(found.shape)
    )


def _sized(dims: Dims | None, sizes: dict[str, int]) -> tuple[int, ...]:
    """A shape with a size for each name, one of its own for a name that is new."""
    if dims is None:
        raise NoIsland("")
    for name in dims:
        if isinstance(name, str) and name not in sizes:
            sizes[name] = _OTHERS[len(sizes) % len(_OTHERS)]
    return tuple(d if isinstance(d, int) else sizes[d] for d in dims)


def _with_ones(axes: Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of angles, with those of the positions that have size 1 where they fit in order."""
    axes = list(axes)
    for axis, size in enumerate(shape):
        if size != 1:
            continue
        before = [place for place, a in enumerate(axes) if 0 <= a < axis]
        behind = [place for place, a in enumerate(axes) if axis < a]
        start, stop = max(before, default=-1) + 1, min(behind, default=len(axes))
        free = next((place for place in range(start, stop) if axes[place] == -1), None)
        if free is not None:
            axes[free] = axis
    return tuple(axes)
