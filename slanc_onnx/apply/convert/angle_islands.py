"""Islands: the ops from positions to angles as a model of their own, run in FP64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import ml_dtypes
import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from slanc_onnx.graph import FLOATS, Array, Dims, Flow, Tensor, Use, read_tensor
from slanc_onnx.reasons import Untabled, reason

_OTHERS = (11, 13, 17, 19)  # sizes of axes that the positions do not have
_FIRST = 101  # sizes of axes of the positions where they are written out, from here on
_TYPES = ("to", "dtype")


class NoTable(Exception):
    """There is no table of some angles; `args[0]` is the reason."""


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
    inside: frozenset[Tensor] = frozenset()

    @cached_property
    def dims(self) -> Dims:
        """The sizes of the positions.

        Raises:
            NoTable: the file does not tell how many axes there are.
        """
        found = _told(self.flow, self.positions) if self.positions is not None else ()
        if found is None:
            raise self.no(Untabled.SIZES_UNKNOWN)
        return found

    @cached_property
    def written(self) -> bytes:
        """The ops and constants, in bytes; with equal `dims`, equal ones give equal angles.

        Raises:
            NoTable: they cannot be computed alone.
        """
        sizes = {str(dim): _FIRST + axis for axis, dim in enumerate(self.dims)}
        return bytes(_Written(self, sizes, _OTHERS).model().SerializeToString(deterministic=True))

    def run(self, positions: Array, trial: int = 0) -> Array:
        """The angles of positions, in FP64.

        Args:
            positions: Whole numbers, with as many axes as `dims` has.
            trial: Chooses the sizes of axes that the positions do not have, from 0.

        Raises:
            NoTable: they cannot be computed alone, or are not finite.
        """
        sizes = {str(d): int(n) for d, n in zip(self.dims, positions.shape, strict=True)}
        others = _OTHERS[trial:] + _OTHERS[:trial]
        model = _Written(self, sizes, others).model()
        feeds = {"positions": positions.astype(self._kind)}
        try:
            with np.errstate(all="ignore"):
                (angles,) = ReferenceEvaluator(model).run(None, feeds)
        except Exception as error:  # of any kind, for any op
            raise NoTable(reason(Untabled.NOT_EVALUATED, str(error))) from error
        angles = np.asarray(angles, dtype=np.float64)
        if not np.isfinite(angles).all():
            raise NoTable(reason(Untabled.NOT_FINITE, self.angles.name))
        return angles

    @property
    def _kind(self) -> type[np.generic]:
        """The type in which positions are fed: their own, but one wide enough."""
        kind = self.flow.element_type(self.positions) if self.positions is not None else 0
        if kind in FLOATS:
            return np.float64
        return np.int32 if kind == TensorProto.INT32 else np.int64

    def constant(self) -> Array:
        """The angles where they are constant."""
        return self.run(np.zeros((), np.int64))

    def no(self, kind: Untabled) -> NoTable:
        """The error that there is no table, by the tensor that it is about."""
        return NoTable(reason(kind, (self.positions or self.angles).name))


@dataclass
class _Written:
    """An island as it is written out.

    Attributes:
        island: The island.
        sizes: Of axes, by name.
        others: Sizes for axes with other names.
        graph: The graph so far.
        names: The tensors that it has so far, by name.
    """

    island: Island
    sizes: dict[str, int]
    others: Sequence[int]
    graph: onnx.GraphProto = field(default_factory=lambda: onnx.GraphProto(name="angles"))
    names: dict[Tensor, str] = field(default_factory=dict)

    def model(self) -> onnx.ModelProto:
        """The ops in FP64, from "positions" to the angles.

        Raises:
            NoTable: they read what is neither positions nor constant nor a size.
        """
        island, flow = self.island, self.island.flow
        if island.positions is not None:
            self.names[island.positions] = "positions"
        waiting = [island.angles]
        while waiting:
            tensor = waiting[-1]
            if tensor in self.names:
                waiting.pop()
                continue
            if tensor in flow.data and tensor not in flow.overridable:
                values = read_tensor(flow.data[tensor], flow.scopes[()].folder)
                self.graph.initializer.append(_in_double(values, self._name(tensor)))
                continue
            missing = [read for read in self._reads(tensor) if read not in self.names]
            waiting += missing
            if not missing:
                self._add_maker(tensor)
        self.graph.input.add(name="positions").type.tensor_type.elem_type = TensorProto.INT64
        self.graph.output.add(name=self.names[island.angles])
        skeleton = flow.scopes[()].skeleton
        opsets = skeleton.opset_import if skeleton is not None else []
        version = max(opset.version for opset in opsets if opset.domain in ("", "ai.onnx"))
        return helper.make_model(self.graph, opset_imports=[helper.make_opsetid("", version)])

    def _name(self, tensor: Tensor) -> str:
        return self.names.setdefault(tensor, f"t{len(self.names)}")

    def _reads(self, tensor: Tensor) -> list[Tensor]:
        """What has to be there before the maker of a tensor: no tensor whose shape is told."""
        flow = self.island.flow
        if tensor not in flow.makers:
            raise self.island.no(Untabled.SIZES_UNKNOWN)
        path, index, _ = flow.makers[tensor]
        node = flow.node(path, index)
        if any(a.type == AttributeProto.GRAPH for a in node.attribute) or not flow.op(path, index):
            raise self.island.no(Untabled.SIZES_UNKNOWN)
        if self._shape_from_outside(node, Use(path, index, 0)) is not None:
            return []
        reads = (flow.read(Use(path, index, position)) for position in range(len(node.input)))
        return [read for read in reads if read is not None]

    def _shape_from_outside(self, node: NodeProto, use: Use) -> Tensor | None:
        """What a Shape reads, where that is computed from more than the positions."""
        read = self.island.flow.read(use) if node.op_type == "Shape" else None
        known = (self.island.positions, *self.island.inside)
        return None if read is None or read in known or read in self.island.flow.data else read

    def _add_maker(self, tensor: Tensor) -> None:
        """Add the node that makes a tensor, all of whose inputs are there."""
        flow = self.island.flow
        path, index, _ = flow.makers[tensor]
        node = NodeProto()
        node.CopyFrom(flow.node(path, index))
        outside = self._shape_from_outside(node, Use(path, index, 0))
        if outside is not None:
            shape = np.array(self._shape(node, outside), np.int64)
            self.graph.initializer.append(numpy_helper.from_array(shape, self._name(tensor)))
            return
        for place in range(len(node.input)):
            read = flow.read(Use(path, index, place))
            node.input[place] = "" if read is None else self.names[read]
        for place, output in enumerate(node.output):
            node.output[place] = self._name(Tensor(path, output)) if output else ""
        for attribute in node.attribute:
            if attribute.name in _TYPES and attribute.i in FLOATS:
                attribute.i = TensorProto.DOUBLE
            if attribute.type == AttributeProto.TENSOR:
                attribute.t.CopyFrom(_in_double(numpy_helper.to_array(attribute.t), ""))
        node.name, node.doc_string, node.domain = "", "", ""
        del node.metadata_props[:]
        self.graph.node.append(node)

    def _shape(self, node: NodeProto, tensor: Tensor) -> tuple[int, ...]:
        """What a Shape gives of a tensor that is not there, by the sizes that the file tells."""
        dims = _told(self.island.flow, tensor)
        if dims is None:
            raise self.island.no(Untabled.SIZES_UNKNOWN)
        for dim in dims:
            if isinstance(dim, str) and dim not in self.sizes:
                self.sizes[dim] = self.others[len(self.sizes) % len(self.others)]
        ends = {a.name: a.i for a in node.attribute}
        shape = tuple(d if isinstance(d, int) else self.sizes[d] for d in dims)
        return shape[ends.get("start", 0) : ends.get("end", len(shape))]


def _in_double(values: Array, name: str) -> TensorProto:
    """A constant with its floats in FP64."""
    floats = values.dtype.kind == "f" or values.dtype == ml_dtypes.bfloat16
    return numpy_helper.from_array(values.astype(np.float64) if floats else values, name)


def _told(flow: Flow, tensor: Tensor) -> Dims | None:
    """The shape that the file tells of a tensor; axes without a name get one."""
    if tensor in flow.data:
        return tuple(int(d) for d in flow.data[tensor].dims)
    found = flow.scopes[tensor.path].tensors.get(tensor.name)
    if found is None or found.shape is None:
        return None
    return tuple(
        d if isinstance(d, int) and d >= 0 else str(d or f"{tensor.name}, axis {axis}")
        for axis, d in enumerate(found.shape)
    )
