"""Write: carry out the changes of a merge on a folded model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from slanc_onnx.apply.merge.changes import Changes, Decomposition, Division
from slanc_onnx.apply.merge.held import as_stored, changed
from slanc_onnx.apply.merge.rms_ops import RmsOps
from slanc_onnx.graph import (
    Array,
    GraphPath,
    NodeAt,
    Pending,
    Tensor,
    add_constant,
    every_graph,
    every_node,
    graph_at,
    names_read,
    node_at,
    read_tensor,
    stored_tensor,
    unused_name,
)
from slanc_onnx.norms import APPLIED_KEY


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own ops in a model."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


class Writer:
    """Changes a model in place.

    Args:
        model: The folded model.
        changes: What was decided for it.
        pending: The tensors that the fold divided; None to leave all weights as they are.
        folder: Where its external data lies.
        odd: Whether what is rounded to FP32 is rounded once more, to 16 bits; see `cast`.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        changes: Changes,
        pending: Pending | None,
        folder: Path | None,
        odd: bool = False,
    ) -> None:
        self._model, self._changes, self._odd = model, changes, odd
        self._pending, self._folder = pending, folder
        graphs = list(every_graph(model.graph))
        self._used = {t.name for g in graphs for t in (*g.input, *g.initializer)}
        self._named: dict[GraphPath, Counter[str]] = {}  # how many nodes of a graph have a name
        for node in every_node(model.graph.node):
            self._used.update((node.name, *node.output))
        self._nodes: dict[NodeAt, NodeProto] = {}
        self._inserted: dict[NodeAt, list[NodeProto]] = {}  # behind a node
        self._constants: dict[tuple[bytes, tuple[int, ...], str], str] = {}
        self._candidates: set[str] = set()  # what may be read by nothing now
        self._ops = RmsOps(opset_of(model), self._used, self._constant)
        self._roots: dict[NodeAt, str] = {}  # of norms that are written out without a division
        self._skipped = dict(changes.skipped)

    def write(self) -> None:
        """Carry out all changes."""
        changes = self._changes
        for root, steps in changes.steps.items():
            self._weight(root, partial(changed, steps=steps, odd=self._odd))
        for use, copy in changes.copies.items():
            node = self._node(NodeAt(use.path, use.node))
            values = as_stored(changed(copy.row, copy.steps), copy.element_type, self._odd)
            self._candidates.add(node.input[use.position])
            node.input[use.position] = self._constant("bias", values)
        for at, (position, axis) in changes.centred.items():
            self._centre_behind(at, position, axis)  # first: what comes later stands before it
        for at, bias in changes.biases.items():
            row = changed(np.zeros(bias.size), bias.steps)
            values = as_stored(row, bias.element_type, self._odd)
            self._bias(at, bias.position, self._constant("bias", values))
        for use, ones in changes.ones.items():
            node = self._node(NodeAt(use.path, use.node))
            self._candidates.add(node.input[use.position])
            what = "ones" if ones.reshape(-1)[0] == 1 else "zeros"
            node.input[use.position] = self._constant(what, ones)
        for use in changes.dropped:
            node = self._node(NodeAt(use.path, use.node))
            self._candidates.add(node.input[use.position])
            node.input[use.position] = ""
            while not node.input[-1]:
                del node.input[-1]
        for at, (op, domain) in changes.ops.items():
            self._become(self._node(at), op, domain)
        for at, beta in changes.betas.items():
            self._add_behind(at, beta)
        for at, how in changes.decomposed.items():
            self._write_out(at, how)
        for at, division in changes.divided.items():  # last: it stands right behind the product
            self._divide_behind(at, division)
        for at, name in changes.names.items():
            node = self._node(at)
            if at not in changes.removed and at not in changes.decomposed and node.name != name:
                node.name = self._name_of(at, name)
        self._skip(self._model.graph, (), {})  # first: paths have the places of the file's nodes
        self._place()
        self._prune()

    def _node(self, at: NodeAt) -> NodeProto:
        if at not in self._nodes:
            self._nodes[at] = node_at(self._model, at)
        return self._nodes[at]

    def _weight(self, root: Tensor, change: Callable[[Array], Array]) -> None:
        """Let a stored weight have other values."""
        if self._pending is None:
            return
        tensor = stored_tensor(self._model, root)
        made = self._pending.give(tensor)
        before = TensorProto()
        before.CopyFrom(tensor)

        def values() -> Array:
            return change(read_tensor(before, self._folder) if made is None else made())

        if not self._pending.put(tensor, values):
            tensor.CopyFrom(numpy_helper.from_array(values(), tensor.name))

    def _constant(self, what: str, values: Array) -> str:
        """The name of the initializer with values; there is one for the same."""
        key = (values.tobytes(), values.shape, str(values.dtype))
        if key not in self._constants:
            name = unused_name(f"slanc.{what}_{values.size}", self._used)
            self._constants[key] = name
            add_constant(self._model, name, values)
        return self._constants[key]

    def _bias(self, at: NodeAt, position: int | None, name: str) -> None:
        """Let a node take a bias, or an Add behind it."""
        if position is None:
            self._add_behind(at, name)
            return
        node = self._node(at)
        node.input.extend([""] * (position + 1 - len(node.input)))
        node.input[position] = name

    def _add_behind(self, at: NodeAt, constant: str) -> None:
        """Add a constant to the first output of a node, which keeps its name."""
        node = self._node(at)
        output = node.output[0]
        node.output[0] = unused_name(f"{output}/slanc", self._used)
        name = unused_name(f"{node.name or output}/slanc_Add", self._used)
        made = helper.make_node("Add", [node.output[0], constant], [output], name=name)
        self._behind(at, made)

    def _behind(self, at: NodeAt, *made: NodeProto) -> None:
        """Insert nodes right behind a node, before those that read what they make."""
        self._inserted[at] = [*made, *self._inserted.get(at, ())]

    def _divide_behind(self, at: NodeAt, how: Division) -> None:
        """Divide what a product makes, whose bias comes after that; the result keeps its name."""
        node = self._node(at)
        if len(node.input) > 2 and node.input[2]:  # a Gemm
            bias = node.input[2]
            del node.input[2:]
            self._add_behind(at, bias)
        output = node.output[0]
        node.output[0] = unused_name(f"{output}/slanc", self._used)
        name = unused_name(f"{node.name or output}/slanc_{how.op}", self._used)
        name = name if how.name is None else self._name_of(how.norm, how.name)
        root = how.root or self._roots[how.norm]
        made = helper.make_node(how.op, [node.output[0], root], [output], name=name)
        if how.last:
            made.metadata_props.extend(self._node(how.norm).metadata_props)
        self._behind(at, made)

    def _name_of(self, at: NodeAt, norm: str) -> str:
        """The name of a norm for a new node; another, where a node has it that is not the norm's.

        A norm without a name of its own has that of its output.
        """
        if at.path not in self._named:
            graph = graph_at(self._model, at.path)
            self._named[at.path] = Counter(node.name for node in graph.node)
        others = self._named[at.path][norm] - (self._node(at).name == norm)
        return unused_name(norm, self._used) if others else norm

    def _centre_behind(self, at: NodeAt, position: int, axis: int) -> None:
        """Subtract the mean of an output of a node, which keeps its name."""
        node = self._node(at)
        output = node.output[position]
        inner, mean = (unused_name(f"{output}/slanc{w}", self._used) for w in ("", "_mean"))
        node.output[position] = inner
        average = self._ops.average(inner, mean, f"{output}/slanc_ReduceMean", axis)
        average.metadata_props.add(key=APPLIED_KEY, value="merge")
        name = unused_name(f"{output}/slanc_Sub", self._used)
        less = helper.make_node("Sub", [inner, mean], [output], name=name)
        self._behind(at, average, less)

    def _become(self, node: NodeProto, op: str, domain: str) -> None:
        """Let a fused LayerNorm be the RMS norm of the same attributes."""
        given = list(node.input)
        beta = {"LayerNormalization": 2, "SkipLayerNormalization": 3}[node.op_type]
        if len(given) > beta:
            self._candidates.add(given.pop(beta))
        while given and not given[-1]:
            given.pop()
        del node.input[:]
        node.input.extend(given)
        node.op_type, node.domain = op, domain
        if not domain:  # it has no mean to give out; nothing reads one
            del node.output[1:]

    def _write_out(self, at: NodeAt, how: Decomposition) -> None:
        """Replace a norm by the ops of an RMS norm; its last node is the division."""
        node, ops = self._node(at), self._ops
        row, made = node.input[0], list[NodeProto]()
        if at not in self._changes.removed:  # no division of a decomposed norm
            row, made = ops.summed(node, how.name)
        root = ops.root(how, row if how.moved is None else how.moved.rows)
        self._roots[at] = root[-1].output[0]
        if how.moved is not None:
            self._behind(how.moved.at, *root)
        else:
            made += root
        if how.deferred:
            self._skipped.setdefault(Tensor(at.path, node.output[0]), row)
            self._behind(at, *made)
            return
        affine = (("Mul", how.gamma), ("Add", how.beta))  # which may be one constant
        tail = [(op, constant) for op, constant in affine if constant is not None]
        ends = [ops.named(how.name, what) for what in ("normalised", "scaled")[: len(tail)]]
        ends.append(node.output[0])
        name = self._name_of(at, how.name)
        made.append(helper.make_node("Div", [row, self._roots[at]], ends[:1], name=name))
        made[-1].metadata_props.extend(node.metadata_props)
        for i, (op, constant) in enumerate(tail):
            name = ops.named(how.name, op)
            made.append(helper.make_node(op, [ends[i], constant], [ends[i + 1]], name=name))
        self._behind(at, *made)

    def _place(self) -> None:
        """Put new nodes behind theirs, and take out those that are not needed."""
        gone = {*self._changes.removed, *self._changes.decomposed}
        graphs = {at.path: graph_at(self._model, at.path) for at in (*gone, *self._inserted)}
        for at in sorted({*gone, *self._inserted}, key=lambda at: -at.node):
            graph = graphs[at.path]
            if at in gone:
                self._candidates.update(graph.node[at.node].input)
                del graph.node[at.node]
            for i, node in enumerate(self._inserted.get(at, ())):
                graph.node.insert(at.node + i + (at not in gone), node)

    def _skip(self, graph: onnx.GraphProto, path: GraphPath, around: Mapping[str, str]) -> None:
        """Let the readers of skipped tensors read what is behind these.

        Args:
            graph: A graph; new nodes are not in it yet.
            path: Where it is: two branches may have tensors of one name.
            around: What is skipped in the graphs around it, with what is read instead.
        """
        own = {t.name: name for t, name in self._skipped.items() if t.path == path}
        here = {t.name for t in (*graph.input, *graph.initializer)}
        here.update(name for node in graph.node for name in node.output)
        behind = {name: end for name, end in around.items() if name not in here} | own

        def end(name: str) -> str:
            while name in behind:
                name = behind[name]
            return name

        inserted = (n for at, made in self._inserted.items() if at.path == path for n in made)
        for node in (*graph.node, *inserted):
            for i, name in enumerate(node.input):
                if name in behind:
                    node.input[i] = end(name)
        for index, node in enumerate(graph.node):
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    self._skip(attribute.g, (*path, (index, attribute.name)), behind)

    def _prune(self) -> None:
        """Take out constants that nothing reads any more, and what computes them."""
        graphs = list(every_graph(self._model.graph))
        inputs = {info.name for graph in graphs for info in graph.input}
        waiting = self._candidates - inputs - {""}
        made = {name for g in graphs for n in g.node for name in n.output}
        while waiting:
            read = names_read(self._model)
            dead = {name for name in waiting if name not in read}
            waiting = set()
            for graph in graphs:
                for i in range(len(graph.initializer) - 1, -1, -1):
                    if graph.initializer[i].name in dead:
                        del graph.initializer[i]
                for i in range(len(graph.node) - 1, -1, -1):
                    outputs = [name for name in graph.node[i].output if name]
                    if outputs and dead.issuperset(outputs):
                        waiting.update(graph.node[i].input)
                        del graph.node[i]
            waiting -= {*inputs, ""}
        left = {name for g in graphs for n in g.node for name in n.output}
        for graph in graphs:
            for i in range(len(graph.value_info) - 1, -1, -1):
                if graph.value_info[i].name in made - left:
                    del graph.value_info[i]


def write_changes(
    model: onnx.ModelProto,
    changes: Changes,
    pending: Pending | None,
    folder: Path | None,
    odd: bool = False,
) -> None:
    """Carry out changes in place, on the model that they were decided for.

    Args:
        model: The folded model.
        changes: The changes.
        pending: Takes the changed weights, and has those that the fold divided; None to leave all
            weights as they are.
        folder: Where its external data lies.
        odd: Whether the model is written in 16 bits, so that numbers are rounded once more.
    """
    Writer(model, changes, pending, folder, odd).write()
