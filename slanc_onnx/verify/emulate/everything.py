"""Emulate all: every operation of a model rounded, as on a device that has FP16 alone.

The norms are written out already (`norms.py`); here each other operation that computes gets the
rounding behind it, so that a stream that leaves FP16 becomes infinite and what follows nan; one
that sums is written out (`reductions.py`). Weights of ONNX's own ops are rounded as well; a finite
one beyond the format (a mask's -3e38) becomes its largest number, as converters make it, or stays
so that what is computed of it becomes infinite, as where that is stored in the format. An integer
accumulator and the scales of its operands are one step, as in MatMulIntegerToFloat: what is rounded
is their product.

FP64 is one more type that such a device does not have: what computes in it is rounded as well, and
handed on in FP64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import onnx
from onnx import AttributeProto, NodeProto, TensorProto

from slanc_onnx.graph import Flow, GraphPath, Tensor, Use, known_op, read_flow, read_graph
from slanc_onnx.norms import Norm, residual_name
from slanc_onnx.ops import BETWEEN, ELEMENTWISE
from slanc_onnx.run import PREFIX, Emitter, is_float
from slanc_onnx.verify.emulate.device import Device, in_branch
from slanc_onnx.verify.emulate.lost import finite, lost
from slanc_onnx.verify.emulate.reductions import (
    Reduction,
    read_reduction,
    shapes_of,
    written_out,
)

# Ops that give out what they read, or a part of it: no rounding.
MOVES = {op for table in (BETWEEN, ELEMENTWISE) for op, record in table.items() if record.exact}
# Ops with a body of their own, which is rounded inside.
CONTAINERS = {"If", "Loop", "Scan"}
QUANTISING = ("QuantizeLinear", "DequantizeLinear")
INTEGER_PRODUCTS = {"MatMulInteger", "ConvInteger"}
# Finite elements of constants beyond the format: its largest number, or what is computed of them
# is rounded, to infinity.
OfConstants = Literal["largest", "infinite"]


@dataclass(frozen=True)
class Everything:
    """That all operations are rounded, beside the steps of the norms.

    Attributes:
        watch: Whether the model also shows which of their results left the format.
        kept: The names of nodes that stay in FP32, with what passes from one to another. A norm
            that is spelled in several nodes, of which some do, is rounded op by op.
        beyond: How finite elements of constants are rounded that the format does not hold.
    """

    watch: bool = False
    kept: frozenset[str] = frozenset()
    beyond: OfConstants = "largest"


@dataclass(frozen=True)
class Computed:
    """What has to be rounded of a model.

    Attributes:
        results: FP32 and FP64 tensors that nodes compute.
        order: The tensors of the model with the op that makes each, in topological order.
        constants: FP32 and FP64 constants that they read.
        moved: Those results that hold elements of constants as they are.
        reductions: How those are summed that an op sums, by name.
        shown: Those results that are shown where they leave the format, whatever else is.
        wide: Those results and constants that are in FP64.
        narrowed: The inputs in FP64 of nodes that are computed in FP32 instead, as they are norms'
            or sum, by the name of what they make first.
    """

    results: set[Tensor] = field(default_factory=set)
    order: dict[Tensor, str] = field(default_factory=dict)
    constants: set[Tensor] = field(default_factory=set)
    moved: set[Tensor] = field(default_factory=set)
    reductions: dict[str, Reduction | None] = field(default_factory=dict)
    shown: set[Tensor] = field(default_factory=set)
    wide: set[Tensor] = field(default_factory=set)
    narrowed: dict[str, list[int]] = field(default_factory=dict)


def computed(
    model: onnx.ModelProto,
    norms: Sequence[Norm],
    opset: int,
    among: Collection[tuple[GraphPath, int]] | None = None,
    of_norms: Collection[tuple[GraphPath, int]] = (),
) -> Computed:
    """What has to be rounded of a model, before its norms are written out.

    Args:
        model: The model.
        norms: The norms that will be; what lies inside them is left to that.
        opset: The version of ONNX's own ops.
        among: Nodes by graph and index, where only those are rounded.
        of_norms: The nodes of norms that are rounded one by one.
    """
    flow = read_flow(read_graph(model))
    shapes = shapes_of(flow)
    inside = {(norm.path, index) for norm in norms for index in norm.nodes}
    inside |= _within_products(flow)
    found = Computed()
    last = {(norm.path, norm.nodes[-1]): norm for norm in norms}
    for path, index in _as_computed(flow):
        node = flow.node(path, index)
        if (path, index) in last:
            residual = residual_name(node, last[path, index])
            found.results.update([Tensor(path, residual)] if residual else [])
        op = known_op(node)
        made = [Tensor(path, name) for name in node.output if name]
        found.order.update(dict.fromkeys(made, node.op_type))
        if among is not None and (path, index) not in among:
            continue
        if (path, index) in inside or op in CONTAINERS or all(t in flow.constants for t in made):
            continue
        wide = [t for t in made if is_float(flow, t, TensorProto.DOUBLE)]
        read = _constants(flow, path, index)
        if op in MOVES and not read:
            continue
        found.wide.update(wide, (t for t in read if _is_wide(flow, t)))
        found.results.update(wide, (t for t in made if is_float(flow, t)))
        if op not in MOVES:
            found.constants.update(read)
        else:
            found.moved.update(made)
        reduction = read_reduction(flow, path, index, shapes, opset)
        if reduction is not None:
            name = node.output[0]
            same = found.reductions.get(name, reduction) == reduction  # in another branch, say
            found.reductions[name] = reduction if same else None
        if wide and (reduction is not None or (path, index) in of_norms):
            found.narrowed[made[0].name] = _wide_inputs(flow, path, index)
    return found


def _as_computed(flow: Flow) -> list[tuple[GraphPath, int]]:
    """Every node in topological order, those of a subgraph before the node that holds it."""
    rank = {at: float(place) for place, at in enumerate(flow.order)}

    def key(at: tuple[GraphPath, int]) -> list[float]:
        path, _ = at
        outer = [rank[path[:depth], index] for depth, (index, _) in enumerate(path)]
        return [*outer, rank[at], math.inf]

    return sorted(flow.order, key=key)


def _within_products(flow: Flow) -> set[tuple[GraphPath, int]]:
    """The casts of integer accumulators that are multiplied by scales, and products of scales."""
    inside: set[tuple[GraphPath, int]] = set()
    for path, index in flow.order:
        node = flow.node(path, index)
        if flow.op(path, index) != "Cast" or not _accumulated(flow, Use(path, index, 0)):
            continue
        uses = _multiplied(flow, Tensor(path, node.output[0]))
        inside |= {(path, index)} if uses else set()
        for use in uses:
            scale = flow.read(use._replace(position=1 - use.position))
            if scale in flow.makers and scale not in flow.constants:
                maker = flow.makers[scale][:2]
                if flow.op(*maker) == "Mul" and _multiplied(flow, scale):
                    inside.add(maker)
    return inside


def _accumulated(flow: Flow, use: Use) -> bool:
    """Whether a read is of an integer accumulator, also after it is moved."""
    tensor = flow.read(use)
    while tensor in flow.makers:
        path, index, _ = flow.makers[tensor]
        op = flow.op(path, index)
        if op in INTEGER_PRODUCTS:
            return True
        if op not in MOVES:
            return False
        tensor = flow.read(Use(path, index, 0))
    return False


def _multiplied(flow: Flow, tensor: Tensor) -> list[Use]:
    """The reads of a tensor where all are by Mul; none otherwise."""
    uses = flow.uses.get(tensor, [])
    if tensor in flow.pinned or not all(flow.op(u.path, u.node) == "Mul" for u in uses):
        return []
    return uses


def _is_wide(flow: Flow, tensor: Tensor) -> bool:
    return flow.element_type(tensor) == TensorProto.DOUBLE


def _wide_inputs(flow: Flow, path: GraphPath, index: int) -> list[int]:
    """The inputs of a node that are in FP64."""
    read = (flow.read(Use(path, index, p)) for p in range(len(flow.node(path, index).input)))
    return [p for p, tensor in enumerate(read) if tensor is not None and _is_wide(flow, tensor)]


def _constants(flow: Flow, path: GraphPath, index: int) -> list[Tensor]:
    """The constants in FP32 and FP64 that a node reads; fused and quantising ops need theirs as
    they are."""
    node = flow.node(path, index)
    if node.domain not in ("", "ai.onnx") or node.op_type.endswith(QUANTISING):
        return []
    read = (flow.read(Use(path, index, p)) for p in range(len(node.input)))
    kinds = (TensorProto.FLOAT, TensorProto.DOUBLE)
    return [
        t for t in read if t in flow.constants and t is not None and flow.element_type(t) in kinds
    ]


def round_everything(
    emitter: Emitter,
    found: Computed,
    device: Device,
    how: Everything,
) -> dict[str, str]:
    """Round what was found in the emitter's model, whose norms are written out, in place.

    Args:
        emitter: It holds the model, finished.
        found: From `computed`.
        device: Rounds and sums; it writes with the same emitter.
        how: What stays in FP32, what becomes of constants, and what is shown.

    Returns:
        With `how.watch`, and for `found.shown`, by the name of a tensor the output with the largest
        number that rounding took out of the format: of the tensor, or of the sums inside its op; 0
        for none.
    """
    rounder = _Rounder(emitter, found, device, how)
    rounder.graph(emitter.model.graph, ())
    emitter.finish(list(rounder.lost.values()))
    return rounder.lost


class _Rounder:
    def __init__(
        self,
        emitter: Emitter,
        found: Computed,
        device: Device,
        how: Everything,
    ) -> None:
        self._emitter, self._device, self._how = emitter, device, how
        self._shown, self._narrowed = found.shown, found.narrowed
        self._wide = {tensor.name for tensor in found.wide}
        self._moved = {tensor.name for tensor in found.moved}
        self.lost: dict[str, str] = {}
        self._results = {tensor.name for tensor in found.results}
        self._constants = {tensor.name for tensor in found.constants}
        self._reductions = found.reductions
        self._rounded: dict[tuple[GraphPath, str], str] = {}

    def graph(self, graph: onnx.GraphProto, path: GraphPath) -> None:
        for index, node in enumerate(graph.node):
            if any(name.startswith(PREFIX) for name in node.output):
                continue  # a norm that is written out
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    self.graph(attribute.g, (*path, (index, attribute.name)))
            if node.name in self._how.kept:
                continue
            narrowed = self._narrowed.get(node.output[0] if node.output else "", [])
            self._narrow(node, narrowed, path, index)
            if node.op_type not in MOVES:
                self._inputs(node, path, index)
            for position, name in enumerate(node.output):
                if name in self._results:
                    node.output[position] = self._emitter.name()
                    self._emitter.place(path, index)
                    self._result(node, node.output[position], name, path, bool(narrowed))

    def _narrow(self, node: NodeProto, places: list[int], path: GraphPath, index: int) -> None:
        """Let a node read those of its inputs in FP32 that are in FP64, and so compute in it."""
        self._emitter.place(path, index - 1)
        for position in places:
            name = node.input[position]
            single = self._emitter.from_double(name)
            rounded = name in self._constants
            node.input[position] = self._constant(single)[0] if rounded else single

    def _inputs(self, node: NodeProto, path: GraphPath, index: int) -> None:
        for position, name in enumerate(node.input):
            if name not in self._constants:
                continue
            if (path, name) not in self._rounded:
                self._emitter.place(path, index - 1)
                single = self._single(name, name)
                made = self._in_its_type(name, single, partial(self._constant, single))
                self._rounded[path, name] = made[0]
            node.input[position] = self._rounded[path, name]

    def _single(self, name: str, x: str) -> str:
        """x in FP32, which is in the type of the tensor with the name."""
        return self._emitter.from_double(x) if name in self._wide else x

    def _in_its_type(
        self, name: str, single: str, make: Callable[[], list[str]], output: str = ""
    ) -> list[str]:
        """What is made in a branch, the first of it in the type of the tensor that it stands for.

        Args:
            name: The tensor.
            single: What it is made of, in FP32.
            make: Emits the nodes; gives FP32 results.
            output: The name of the first result; "" for a new one.
        """
        if name not in self._wide:
            return in_branch(self._emitter, single, make, output)
        first, *others = in_branch(self._emitter, single, make)
        return [self._emitter.to_double(first, output), *others]

    def _constant(self, x: str) -> list[str]:
        if self._how.beyond == "largest":
            return [self._device.stored(self._clipped(x))]
        y = self._device.stored(x)
        return [self._emitter.node("Where", finite(self._emitter, y), y, x)]

    def _clipped(self, x: str) -> str:
        """x with the largest number of the format for what is beyond it; infinity stays."""
        emitter, largest = self._emitter, self._device.accelerator.largest
        above = emitter.node("Max", x, emitter.number(-largest))
        within = emitter.node("Min", above, emitter.number(largest))
        return emitter.node("Where", finite(emitter, x), within, x)

    def _result(
        self, node: NodeProto, given: str, result: str, path: GraphPath, narrowed: bool
    ) -> None:
        """The rounding of what a node gives, in FP32 if narrowed, under the name that it had."""
        given = given if narrowed else self._single(result, given)
        what, device = self._reductions.get(result), self._device
        asked = self._how.watch or Tensor(path, result) in self._shown
        watched = asked and self._emitter.can_show(path)

        clips = result in self._moved and self._how.beyond == "largest"

        def make() -> list[str]:
            x = self._clipped(given) if clips else given  # what it moves is in the format already
            if what is None or node.op_type != what.op:
                y, size = device.rounded(x), x
            else:
                y, size = written_out(device, what, node.input, x)
            return [y, lost(self._emitter, x, y, size)] if watched else [y]

        made = self._in_its_type(result, given, make, result)
        if watched:
            self.lost[result] = self._emitter.shown(path, made[1])
