"""Gathers: tables and what looks them up, put into the model, and what nobody reads taken out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from slanc_onnx.apply.convert.angles import Angles, values_at
from slanc_onnx.apply.convert.arrangement import Arrangement
from slanc_onnx.apply.convert.integers import whole_range
from slanc_onnx.graph import (
    FLOATS,
    Array,
    Flow,
    GraphPath,
    NodeAt,
    Tensor,
    Use,
    add_constant,
    every_graph,
    every_node,
    unused_name,
)

_INDICES = (TensorProto.INT32, TensorProto.INT64)
_AXES_AS_INPUT = 13  # the opset from which Squeeze and Unsqueeze read their axes


@dataclass(frozen=True)
class Lookup:
    """Rows of a table by position, in the place of a Cos or Sin.

    Attributes:
        at: The Cos or Sin.
        table: Name of the initializer.
        positions: The tensor of the positions.
        below: How many rows the table has for positions below 0.
        guarded: Whether lower positions are to be moved out of range.
        arrangement: How the result is made of rows.
    """

    at: NodeAt
    table: str
    positions: Tensor
    below: int
    guarded: bool
    arrangement: Arrangement


@dataclass
class Gathers:
    """Changes of a model, collected until `carry_out`.

    Nodes stand in the place of the first Cos or Sin that needs them; ask in the order of the file.
    """

    model: onnx.ModelProto
    flow: Flow
    _places: dict[NodeAt, list[NodeProto]] = field(default_factory=dict)
    _made: dict[Hashable, str] = field(default_factory=dict)  # tensors, by how they are made
    _same: dict[Tensor, str] = field(default_factory=dict)  # results by the tensor that has them
    _used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for graph in every_graph(self.model.graph):
            self._used.update(info.name for info in (*graph.input, *graph.initializer))
        for node in every_node(self.model.graph.node):
            self._used.update((node.name, *node.input, *node.output))

    def table(self, wanted: str, values: Array) -> str:
        """The name of an initializer with these values; one for all of the same values."""
        key = (
            values.shape,
            values.dtype.str,
            hashlib.sha256(np.ascontiguousarray(values).data).digest(),
        )
        if key not in self._made:
            self._made[key] = unused_name(wanted, self._used)
            add_constant(self.model, self._made[key], values)
        return self._made[key]

    def pick(self, angles: Angles, table: Callable[[Tensor], str]) -> None:
        """Let the ops before a Cos or Sin pick from tables, in the place of constant angles.

        Args:
            angles: Of the Cos or Sin.
            table: Gives the initializer with the results for constant angles.
        """
        at, flow = angles.at, self.flow
        result = flow.node(*at).output[0]
        if angles.nodes == [at]:
            constant = table(angles.tensor)
            self._places[at] = [helper.make_node("Identity", [constant], [result], name=result)]
            return
        names: dict[Tensor, str] = {}
        here = []
        for each in angles.nodes:
            if each == at:
                continue
            node = NodeProto()
            node.CopyFrom(flow.node(*each))
            for place in values_at(flow, each):
                read = flow.read(Use(*each, place))
                if read is not None:
                    node.input[place] = names.get(read) or table(read)
            for place, output in enumerate(node.output):
                last = Tensor(each.path, output) == angles.tensor
                new = result if last else unused_name(f"{result}/{node.op_type}", self._used)
                names[Tensor(each.path, output)] = node.output[place] = new
            node.name = unused_name(f"{result}/{node.op_type}/node", self._used)
            here.append(node)
        self._places[at] = here

    def look_up(self, lookup: Lookup) -> None:
        """Put a Gather, and what arranges its rows, in the place of a Cos or Sin."""
        at, path = lookup.at, lookup.at.path
        result = Tensor(path, self.flow.node(*at).output[0])
        kind = self.flow.element_type(result)
        index = self._index(lookup)
        steps = self._steps(lookup, kind)
        gather = helper.make_node("Gather", [lookup.table, index], [""], axis=0)
        key = (path, "Gather", lookup.table, index)
        tensor = self._node(at, gather, key, "" if steps else result.name)
        for step in steps:
            step.input[0] = tensor
            last = step is steps[-1]
            key = (path, step.op_type, *step.input, str(step.attribute))
            tensor = self._node(at, step, key, result.name if last else "")
        if tensor != result.name:
            self._same[result] = tensor

    def _node(
        self, at: NodeAt, node: NodeProto, key: tuple[Hashable, ...], output: str = ""
    ) -> str:
        """The output of a node, which is put in place of another unless there is one like it."""
        here = self._places.setdefault(at, [])
        if key not in self._made:
            name = unused_name(f"{self.flow.node(*at).output[0]}/{node.op_type}", self._used)
            node.output[0] = output or name
            node.name = name
            here.append(node)
            self._made[key] = node.output[0]
        return self._made[key]

    def _steps(self, lookup: Lookup, kind: int) -> list[NodeProto]:
        """The nodes that make the result of gathered rows; their first input is left open."""
        arrangement, order = lookup.arrangement, lookup.arrangement.order
        steps = []
        if arrangement.dropped:
            steps.append(self._on_axes("Squeeze", arrangement.dropped))
        if order != tuple(range(len(order))):
            steps.append(helper.make_node("Transpose", [""], [""], perm=order))
        if arrangement.added:
            steps.append(self._on_axes("Unsqueeze", arrangement.added))
        if kind != TensorProto.FLOAT:
            steps.append(helper.make_node("Cast", [""], [""], to=kind))
        return steps

    def _on_axes(self, op: str, axes: Sequence[int]) -> NodeProto:
        opset = max(o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx"))
        if opset < _AXES_AS_INPUT:
            return helper.make_node(op, [""], [""], axes=axes)
        return helper.make_node(op, ["", self._numbers(axes, np.dtype(np.int64))], [""])

    def _numbers(self, values: Sequence[int] | int, kind: np.dtype[np.int64]) -> str:
        text = "_".join(map(str, np.ravel(values))).replace("-", "minus")
        return self.table(f"slanc/{text}", np.array(values, kind))

    def _index(self, lookup: Lookup) -> str:
        """The tensor that looks rows up: the positions, moved up by the rows for those below 0."""
        at, path = lookup.at, lookup.at.path
        index, kind = self._integers(lookup)
        if not lookup.below and not lookup.guarded:
            return index
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
        moved = [index, self._numbers(lookup.below, dtype)]
        index = self._node(at, helper.make_node("Add", moved, [""]), (path, "Add", *moved))
        if not lookup.guarded:
            return index
        low = [index, self._numbers(0, dtype)]
        lower = self._node(at, helper.make_node("Less", low, [""]), (path, "Less", *low))
        beyond = [lower, self._numbers(int(np.iinfo(np.int32).max), dtype), index]
        return self._node(at, helper.make_node("Where", beyond, [""]), (path, "Where", *beyond))

    def _integers(self, lookup: Lookup) -> tuple[str, int]:
        """The positions as a tensor of a type that Gather takes."""
        at, path, tensor = lookup.at, lookup.at.path, lookup.positions
        kind = self.flow.element_type(tensor)
        if kind in FLOATS:
            range_at = NodeAt(*self.flow.makers[tensor][:2])
            read = [self._whole(at, number) for number in whole_range(self.flow, range_at)]
            key = (path, "Range", *read)
            return self._node(at, helper.make_node("Range", read, [""]), key), TensorProto.INT64
        if kind not in _INDICES:
            return self._cast(at, tensor), TensorProto.INT64
        return tensor.name, kind

    def _whole(self, at: NodeAt, number: Tensor | int) -> str:
        if isinstance(number, int):
            return self._numbers(number, np.dtype(np.int64))
        if self.flow.element_type(number) == TensorProto.INT64:
            return number.name
        return self._cast(at, number)

    def _cast(self, at: NodeAt, tensor: Tensor) -> str:
        cast = helper.make_node("Cast", [tensor.name], [""], to=TensorProto.INT64)
        return self._node(at, cast, (at.path, "Cast", tensor.name))

    def carry_out(self) -> dict[NodeAt, NodeAt]:
        """Change the model.

        Returns:
            Where each node is now that stays.
        """
        outputs = {
            self.flow.tensor(scope.path, info.name)
            for scope in self.flow.scopes.values()
            for info in scope.proto.output
        }
        for result, tensor in self._same.items():
            if result in outputs:
                at = next(a for a in self._places if self._makes(a, result))
                self._places[at].append(helper.make_node("Identity", [tensor], [result.name]))
            else:
                _rename(self.flow.scopes[result.path].proto, result.name, tensor)
        dead = self._dead(outputs)
        for path in sorted(self.flow.scopes, key=len, reverse=True):
            self._edit(self.flow.scopes[path].proto, path, dead)
        return self._moved(dead)

    def _makes(self, at: NodeAt, result: Tensor) -> bool:
        return at.path == result.path and result.name in self.flow.node(*at).output

    def _dead(self, outputs: set[Tensor]) -> set[NodeAt]:
        """The nodes that are replaced, and those that are read for nothing else."""
        readers = Counter(self.flow.reads.values())
        for at, nodes in self._places.items():
            readers.update(self.flow.tensor(at.path, name) for n in nodes for name in n.input)
        dead: set[NodeAt] = set()
        unread: set[Tensor] = set()
        waiting = list(self._places)
        while waiting:
            at = waiting.pop()
            dead.add(at)
            for position in range(len(self.flow.node(*at).input)):
                tensor = self.flow.read(Use(*at, position))
                if tensor is None:
                    continue
                readers[tensor] -= 1
                if readers[tensor] or tensor in outputs:
                    continue
                unread.add(tensor)
                if tensor in self.flow.makers:
                    maker = NodeAt(*self.flow.makers[tensor][:2])
                    made = {Tensor(maker.path, o) for o in self.flow.node(*maker).output if o}
                    if not any(readers[t] or t in outputs for t in made):
                        waiting.append(maker)
        for tensor in unread:
            _remove_initializer(self.flow.scopes[tensor.path].proto, tensor.name)
        return dead

    def _edit(self, graph: onnx.GraphProto, path: GraphPath, dead: set[NodeAt]) -> None:
        gone = {name for at in dead if at.path == path for name in self.flow.node(*at).output}
        for at in sorted((at for at in dead if at.path == path), reverse=True):
            new = self._places.get(at, [])
            gone -= {name for node in new for name in node.output}
            del graph.node[at.node]
            for node in reversed(new):
                graph.node.insert(at.node, node)
        for index in reversed(range(len(graph.value_info))):
            if graph.value_info[index].name in gone:
                del graph.value_info[index]

    def _moved(self, dead: set[NodeAt]) -> dict[NodeAt, NodeAt]:
        now: dict[NodeAt, int] = {}
        for path, scope in self.flow.scopes.items():
            place = 0
            for index in range(len(scope.graph.nodes)):
                at = NodeAt(path, index)
                place += len(self._places.get(at, ())) if at in dead else 0
                if at not in dead:
                    now[at] = place
                    place += 1
        moved = {}
        for at, index in now.items():
            steps = [
                (now[NodeAt(at.path[:depth], step)], name)
                for depth, (step, name) in enumerate(at.path)
            ]
            moved[at] = NodeAt(tuple(steps), index)
        return moved


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let all nodes of a graph, and of those inside it, read another tensor."""
    for node in every_node(graph.node):
        for position, name in enumerate(node.input):
            if name == old:
                node.input[position] = new


def _remove_initializer(graph: onnx.GraphProto, name: str) -> None:
    if any(info.name == name for info in graph.input):
        return
    for index, tensor in enumerate(graph.initializer):
        if tensor.name == name:
            del graph.initializer[index]
            return
