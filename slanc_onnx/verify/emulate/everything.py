"""Emulate all: every operation of a model rounded, as on a device that has FP16 alone.

The norms are written out already (`emulate.py`); here each other operation that computes gets the
rounding behind it, so that a stream that leaves FP16 becomes infinite and what follows nan.
Weights of ONNX's own ops are rounded as well; a finite one beyond the format becomes its largest
number, as converters make it (a mask's -3e38).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper

from slanc_onnx.graph import Flow, GraphPath, Tensor, Use, known_op, read_flow, read_graph
from slanc_onnx.norms import Norm, residual_name
from slanc_onnx.ops import BETWEEN, ELEMENTWISE
from slanc_onnx.run import PREFIX, Emitter

# Ops that give out what they read, or a part of it: no rounding.
MOVES = {op for table in (BETWEEN, ELEMENTWISE) for op, record in table.items() if record.exact}
# Ops with a body of their own, which is rounded inside.
CONTAINERS = {"If", "Loop", "Scan"}
QUANTISING = ("QuantizeLinear", "DequantizeLinear")
Rounding = Callable[[str], str]


def computed(model: onnx.ModelProto, norms: Sequence[Norm]) -> tuple[set[Tensor], set[Tensor]]:
    """What has to be rounded: FP32 tensors that nodes compute, and FP32 constants that they read.

    Args:
        model: The model, before its norms are written out.
        norms: The norms that will be; what lies inside them is left to that.
    """
    flow = read_flow(read_graph(model))
    inside = {(norm.path, index) for norm in norms for index in norm.nodes}
    results: set[Tensor] = set()
    constants: set[Tensor] = set()
    for norm in norms:
        residual = residual_name(flow.node(norm.path, norm.nodes[-1]), norm)
        results.update([Tensor(norm.path, residual)] if residual else [])
    for path, index in flow.order:
        node = flow.node(path, index)
        op = known_op(node)
        made = [Tensor(path, name) for name in node.output if name]
        if (path, index) in inside or op in CONTAINERS or all(t in flow.constants for t in made):
            continue
        read = _constants(flow, path, index)
        if op in MOVES and not read:
            continue
        results.update(t for t in made if _is_float(flow, t))
        if op not in MOVES:
            constants.update(read)
    return results, constants


def _is_float(flow: Flow, tensor: Tensor) -> bool:
    """Whether a tensor is FP32; where the file does not tell, the first output of an op may be."""
    path, index, position = flow.makers[tensor]
    if "Sequence" in flow.node(path, index).op_type:
        return False
    told = position == 0 or flow.types.get(tensor, 0) != 0
    return told and flow.element_type(tensor) == TensorProto.FLOAT


def _constants(flow: Flow, path: GraphPath, index: int) -> list[Tensor]:
    """The FP32 constants that a node reads; fused and quantising ops need theirs as they are."""
    node = flow.node(path, index)
    if node.domain not in ("", "ai.onnx") or node.op_type.endswith(QUANTISING):
        return []
    read = (flow.read(Use(path, index, p)) for p in range(len(node.input)))
    return [
        t
        for t in read
        if t in flow.constants and t is not None and flow.element_type(t) == TensorProto.FLOAT
    ]


def round_everything(
    emitter: Emitter,
    results: set[Tensor],
    constants: set[Tensor],
    rounding: Rounding,
    largest: float,
) -> None:
    """Round the given tensors of the emitter's model, whose norms are written out, in place.

    Args:
        emitter: It holds the model, finished.
        results: Names of tensors that nodes compute.
        constants: Of constants that they read.
        rounding: What rounds an FP32 tensor to the format and back.
        largest: The largest number of the format.
    """
    names = {tensor.name for tensor in results}
    fixed = {tensor.name for tensor in constants}
    rounded: dict[tuple[GraphPath, str], str] = {}
    computing = _Rounder(emitter, rounding, largest, names, fixed, rounded)
    computing.graph(emitter.model.graph, ())
    emitter.finish()


class _Rounder:
    def __init__(
        self,
        emitter: Emitter,
        rounding: Rounding,
        largest: float,
        results: set[str],
        constants: set[str],
        rounded: dict[tuple[GraphPath, str], str],
    ) -> None:
        self._emitter, self._rounding, self._largest = emitter, rounding, largest
        self._results, self._constants, self._rounded = results, constants, rounded

    def graph(self, graph: onnx.GraphProto, path: GraphPath) -> None:
        for index, node in enumerate(graph.node):
            if any(name.startswith(PREFIX) for name in node.output):
                continue  # a norm that is written out
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    self.graph(attribute.g, (*path, (index, attribute.name)))
            if node.op_type not in MOVES:
                self._inputs(node, path, index)
            for position, name in enumerate(node.output):
                if name in self._results:
                    node.output[position] = self._emitter.name()
                    self._emitter.place(path, index)
                    self._branch(node.output[position], name, clip=False)

    def _inputs(self, node: NodeProto, path: GraphPath, index: int) -> None:
        for position, name in enumerate(node.input):
            if name not in self._constants:
                continue
            if (path, name) not in self._rounded:
                self._rounded[path, name] = self._emitter.name()
                self._emitter.place(path, index - 1)
                self._branch(name, self._rounded[path, name], clip=True)
            node.input[position] = self._rounded[path, name]

    def _branch(self, source: str, result: str, *, clip: bool) -> None:
        """The rounding in a branch of an If, where its casts cost no loading time (`emulate`)."""
        emitter, taken, other = self._emitter, list[NodeProto](), list[NodeProto]()
        with emitter.body(taken):
            limits = emitter.number(-self._largest), emitter.number(self._largest)
            y = self._rounding(emitter.node("Clip", source, *limits) if clip else source)
        with emitter.body(other):
            same = emitter.node("Identity", source)
        branches = [
            helper.make_graph(
                nodes,
                "rounded",
                [],
                [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
            )
            for nodes, name in ((taken, y), (other, same))
        ]
        true = emitter.constant(np.array(True))
        emitter.add(
            helper.make_node(
                "If", [true], [result], then_branch=branches[0], else_branch=branches[1]
            )
        )
