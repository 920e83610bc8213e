"""Trace: from the graph to one expression per norm input.

The graph is walked once, in topological order, at batch 1 and sequence length 1. Every tensor
becomes a value: a constant, a lazily read weight, or a view of an expression. Norms are where
expressions start anew. What no rule can follow becomes an `Opaque` source that names the op.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from slanc_onnx.graph import Array, GraphPath, InputSpec, Scope, concrete_shapes, op_of, read_tensor
from slanc_onnx.norms import Deferred, Norm
from slanc_onnx.ops import CannotFollow, broadcast, damage_cannot_be_followed, too_large
from slanc_onnx.reasons import Reason, Unread
from slanc_onnx.run import Sizes, dtype_of, shapes_of
from slanc_onnx.trace.control_flow import ITERATIONS, either_branch, slice_of, stacked, taken, trips
from slanc_onnx.trace.expression import Alternatives, Apply, Expr, Input, Product, Sum, Weight
from slanc_onnx.trace.norm_rows import along_channels, normalise, open_rows
from slanc_onnx.trace.rules import RULES
from slanc_onnx.trace.unread import opaque
from slanc_onnx.trace.values import Const, Unknown, Value, View, as_view, combine
from slanc_onnx.trace.visit import Visit
from slanc_onnx.weights import stored_matrix

log = logging.getLogger(__name__)

_WHOLE = {
    TensorProto.BOOL,
    TensorProto.INT8,
    TensorProto.INT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
    TensorProto.UINT16,
    TensorProto.UINT32,
    TensorProto.UINT64,
    TensorProto.INT4,
    TensorProto.UINT4,
}

MOST_READS, DEEPEST_READ = 4096, 100  # of constants, for one that is made of them


@dataclass(frozen=True)
class Trace:
    """What lies between the norms of a model.

    Attributes:
        inputs: The expression of each norm's input, by norm name.
        blocked: Why a norm's input has no expression, by norm name.
        affine: The values of gamma and beta by norm name; None for one that the norm lacks.
    """

    inputs: dict[str, Expr]
    blocked: dict[str, Reason]
    affine: dict[str, tuple[Value | None, Value | None]] = field(default_factory=dict)

    def unread(self, norm: str) -> Reason:
        """Why a norm's input has no expression."""
        blocked = self.blocked.get(norm)
        return Reason(Unread.NOT_REACHED if blocked is None else Unread.STOPPED, behind=blocked)


def trace(scopes: Sequence[Scope], norms: Sequence[Norm], specs: Sequence[InputSpec]) -> Trace:
    """Read what lies between the norms of a model.

    Args:
        scopes: The model's graphs, the main graph first.
        norms: Its norms.
        specs: Its inputs.
    """
    main = next(scope for scope in scopes if not scope.path)
    given = shapes_of(specs, Sizes(sequence=1))
    shapes = concrete_shapes(main, given)
    tracer = _Tracer(scopes, norms, shapes)
    values: dict[str, Value] = {}
    for spec in specs:
        name, shape = spec.name, given[spec.name]
        if too_large(shape):
            values[name] = Unknown("graph input", name)
            continue
        values[name] = _input_value(name, shape, dtype_of(spec).kind in "fV")
    for info in main.proto.input:  # sequences, which are not fed
        values.setdefault(info.name, Unknown("graph input", info.name))
    tracer.run(main, values)
    inputs: dict[str, Expr] = {}
    for name, exprs in tracer.seen.items():
        widths = sorted({kind.channels for expr in exprs for kind in _kinds(expr)})
        if len(widths) == 1:
            inputs[name] = _any_of(exprs)
        else:  # a loop's first rows may be of a graph input that the file tells nothing of
            tracer.blocked.setdefault(name, Reason(Unread.WIDTHS_DIFFER, (tuple(widths),)))
    return Trace(inputs, tracer.blocked, tracer.affine)


def _any_of(exprs: Sequence[Expr]) -> Expr:
    """One of several input rows of a norm, each as likely."""
    if len(exprs) == 1:
        return exprs[0]
    kinds = tuple(kind for expr in exprs for kind in _kinds(expr))
    return Alternatives(exprs[0].channels, kinds, (1 / len(kinds),) * len(kinds))


def _kinds(expr: Expr) -> tuple[Expr, ...]:
    return expr.kinds if isinstance(expr, Alternatives) else (expr,)


def _input_value(name: str, shape: tuple[int, ...], is_float: bool) -> View:
    """The value of a graph input: its rows lie along the last axis, or axis 1 of an image."""
    axis = _channels_of(shape) if is_float else None
    if axis is None:
        return View(Input(1, name, is_float), np.zeros(shape, np.int32))
    channels = np.arange(shape[axis], dtype=np.int32)
    spread = channels.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return View(Input(shape[axis], name), broadcast(spread, shape))


def _channels_of(shape: tuple[int, ...]) -> int | None:
    """The axis of the channels of an input of floats; None where the rank tells of none."""
    return {3: 2, 4: 1, 5: 1}.get(len(shape))


class _Tracer:
    """One walk through the graphs of a model: it gives every tensor its value."""

    def __init__(
        self,
        scopes: Sequence[Scope],
        norms: Sequence[Norm],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.shapes = shapes
        self.scopes = {scope.path: scope for scope in scopes}
        rows = [norm for norm in norms if norm.has_row_steps]
        self.norms = {(norm.path, norm.normalised): norm for norm in rows}
        self.others: dict[tuple[GraphPath, str], list[Norm]] = {}  # traced op by op
        for norm in norms:
            if not norm.has_row_steps:
                self.others.setdefault((norm.path, norm.normalised), []).append(norm)
        self.deferred = {  # products that are divided, by what that makes
            (norm.path, one.output): (norm, one) for norm in rows for one in norm.deferred
        }
        self.rows: dict[str, View] = {}  # of their norms, over the root
        self.seen: dict[str, list[Expr]] = {}  # by norm name, one per pass of a loop
        self.blocked: dict[str, Reason] = {}
        self.affine: dict[str, tuple[Value | None, Value | None]] = {}
        self.reads: dict[Weight, tuple[int, int]] = {}  # how many for a constant, how deep

    def run(self, scope: Scope, values: dict[str, Value]) -> dict[str, Value]:
        """Give every tensor of a scope its value; `values` has those of inputs and outer scopes."""
        for info in scope.proto.input:  # sequences, and what a damaged node does not give
            values.setdefault(info.name, Unknown("graph input", info.name))
        for name, proto in scope.initializers.items():
            values[name] = _constant(proto, scope, name)
        for node in scope.sorted_nodes:
            if op_of(node) == "Constant" or not (node.outputs or _bodies(node)):
                continue  # or nothing comes of it
            found = iter(self._node(scope, node, values))
            for tensor in node.outputs:  # of which a damaged subgraph may give fewer
                value = next(found, Unknown(node.op, tensor.name))
                if tensor.name:
                    values[tensor.name] = value
        for norm in self.norms.values():
            if norm.path == scope.path:
                gamma, beta = (values.get(name or "") for name in (norm.gamma, norm.beta))
                self.affine[norm.name] = gamma, beta
        return values

    def _node(self, scope: Scope, node: gs.Node, values: Mapping[str, Value]) -> list[Value]:
        inputs = [values.get(t.name) if t.name else None for t in node.inputs]
        norm = self.norms.get((scope.path, node.outputs[0].name)) if node.outputs else None
        try:
            with damage_cannot_be_followed():
                return self._made(scope, node, norm, inputs, values)
        except CannotFollow as error:
            log.debug("%s %s %s", node.op, _made_by(node), error)
            if norm is not None:
                self.blocked.setdefault(norm.name, error.reason.at(node.op, norm.normalised))
            return [opaque(node, tensor, inputs, self.shapes) for tensor in node.outputs]

    def _made(
        self,
        scope: Scope,
        node: gs.Node,
        norm: Norm | None,
        inputs: list[Value | None],
        values: Mapping[str, Value],
    ) -> list[Value]:
        """The values of a node's outputs, by the norm that it ends or the rule of its op."""
        fault = scope.fault(node)
        if fault is not None:
            raise CannotFollow(Unread.BROKEN, behind=fault)
        if norm is not None:
            return self._norm(scope, norm, node, values)
        deferred = self.deferred.get((scope.path, node.outputs[0].name)) if node.outputs else None
        if deferred is not None:
            return self._divided(scope, *deferred, values)
        self._others(scope, node, values)
        if not op_of(node):
            raise CannotFollow(Unread.NO_RULE_IN_DOMAIN, str(node.domain))
        bodies = _bodies(node)
        if bodies:
            return self._control_flow(scope, node, bodies, inputs, values)
        rule = RULES.get(op_of(node))
        if rule is None:
            raise CannotFollow(Unread.NO_RULE)
        visit = Visit(node, inputs, self.shapes)
        outputs = rule(visit)
        self._count_reads(inputs, outputs)
        return outputs

    def _count_reads(self, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> None:
        """Count how often constants are read for those that are made of them, and how deep.

        Raises:
            CannotFollow: that is too much, as where a constant is added to itself again and again.
        """
        given = [value for value in inputs if isinstance(value, Weight)]
        made = [v for v in outputs if isinstance(v, Weight) and v not in given]
        if made and given:
            counts = [self.reads.get(value, (1, 0)) for value in given]
            count, depth = sum(n for n, _ in counts), 1 + max(d for _, d in counts)
            if count > MOST_READS or depth > DEEPEST_READ:
                raise CannotFollow(Unread.TOO_LARGE, count)
            self.reads.update(dict.fromkeys(made, (count, depth)))

    def _norm(
        self, scope: Scope, norm: Norm, node: gs.Node, values: Mapping[str, Value]
    ) -> list[Value]:
        """The values of the node that makes a norm's normalised output."""
        outputs: list[Value] = [Unknown(node.op, t.name) for t in node.outputs]
        if norm.form in RULES:  # whose rule makes what it normalises
            visit = Visit(node, [values.get(t.name) if t.name else None for t in node.inputs])
            addends: Sequence[Value] = RULES[node.op](visit)
        elif norm.residual is not None:
            names = [node.inputs[place.position].name for place in norm.places]
            addends = [_value_of(name, values) for name in names]
        else:
            addends = [_value_of(norm.input, values)]
        view, result = self._input(scope, norm, addends)
        if norm.deferred:
            self.rows[norm.name] = result
            return self._divided(scope, norm, norm.deferred[0], values)
        if norm.residual is not None and len(outputs) > norm.residual:
            outputs[norm.residual] = view
        # Decomposed norms have their gamma in nodes of their own, except where it comes earlier.
        if norm.form != "decomposed" or (norm.gamma and norm.output == norm.normalised):
            for kind, name in ((Product, norm.gamma), (Sum, norm.beta)):
                if name is not None:
                    constant = along_channels(as_view(_value_of(name, values)), norm, view)
                    result = combine(kind, result, constant)
        if norm.silu:
            result = View(Apply(result.expr.channels, "Swish", result.expr, (1.0,)), result.ids)
        outputs[0] = result
        return outputs

    def _divided(
        self, scope: Scope, norm: Norm, one: Deferred, values: Mapping[str, Value]
    ) -> list[Value]:
        """What a product makes of a norm's row over its root."""
        row = self.rows.get(norm.name)
        if row is None:
            raise CannotFollow(Unread.NOT_REACHED)
        node = scope.graph.nodes[one.product]
        weight = _value_of(node.inputs[1].name, values)
        return RULES[op_of(node)](Visit(node, [row, weight], self.shapes))

    def _others(self, scope: Scope, node: gs.Node, values: Mapping[str, Value]) -> None:
        """Note what the norms read whose output a node makes and which are traced op by op."""
        for norm in self.others.get((scope.path, node.outputs[0].name), ()) if node.outputs else ():
            try:
                self._input(scope, norm, [_value_of(norm.input, values)])
            except CannotFollow as error:
                self.blocked.setdefault(norm.name, error.reason.at(node.op, norm.normalised))

    def _input(self, scope: Scope, norm: Norm, addends: Sequence[Value]) -> tuple[View, View]:
        """Note what rows a norm reads; returns its input and its normalised output."""
        view = self._summed(norm, addends)
        expr, result = normalise(view, norm, open_rows(scope, norm, view))
        self.seen.setdefault(norm.name, []).append(expr)
        return view, result

    def _summed(self, norm: Norm, addends: Sequence[Value]) -> View:
        """The norm's input: the sum of its addends."""
        unknown = next((v for v in addends if isinstance(v, Unknown)), None)
        if unknown is not None:
            if norm.width is None or not norm.axes.last_axis:
                raise CannotFollow(Unread.UNKNOWN_TENSOR, unknown.tensor, unknown.op)
            return unknown.row(norm.width)
        view = as_view(addends[0])
        for addend in addends[1:]:
            view = combine(Sum, view, as_view(addend))
        return view

    def _control_flow(
        self,
        scope: Scope,
        node: gs.Node,
        bodies: Mapping[str, gs.Graph],
        inputs: Sequence[Value | None],
        values: Mapping[str, Value],
    ) -> list[Value]:
        """The outputs of an If, Loop or Scan; a loop's body is walked several times."""
        outputs: list[Value] = [Unknown(node.op, t.name) for t in node.outputs]
        for attribute, graph in bodies.items():
            body = self.scopes[(*scope.path, (scope.index[id(node)], attribute))]
            if node.op in ("Loop", "Scan"):
                return self._iterations(node, body, inputs, values)
            inner = self.run(body, dict(values))
            chosen = taken(inputs[0])
            if chosen is not None and attribute != chosen:
                continue
            for i, tensor in enumerate(graph.outputs[: len(outputs)]):
                outputs[i] = either_branch(outputs[i], inner.get(tensor.name) or outputs[i])
        return outputs

    def _iterations(
        self,
        node: gs.Node,
        body: Scope,
        inputs: Sequence[Value | None],
        values: Mapping[str, Value],
    ) -> list[Value]:
        """The outputs after the first iterations of a loop; each reads what the last one carried.

        There are as many as the file says, `ITERATIONS` where it does not say.
        """
        loop = node.op == "Loop"
        graph_inputs, graph_outputs = body.graph.inputs, body.graph.outputs
        slices = 0 if loop else int(node.attrs["num_scan_inputs"])
        carried = list(inputs[2:] if loop else inputs[: len(inputs) - slices])
        scanned = [slice_of(v, node, i) for i, v in enumerate(inputs[len(inputs) - slices :])]
        results: list[Value | None] = []
        for index in range(trips(inputs[0]) if loop else ITERATIONS):
            first: list[Value | None] = []
            if loop:
                first = [Const(np.array(index)), Const(np.array(True), varies=True)]
            given = [*first, *carried, *scanned] if slices else [*first, *carried]
            inner = dict(values)
            entering = iter(given)
            for tensor in graph_inputs:
                inner[tensor.name] = next(entering, None) or Unknown(node.op, tensor.name)
            inner = self.run(body, inner)
            # A Loop's body gives its condition first; the node does not.
            results = [inner.get(t.name) for t in graph_outputs[1 if loop else 0 :]]
            carried = results[: len(carried)]
        scans = [stacked(value) for value in results[len(carried) :]]
        found = [*carried, *scans][: len(node.outputs)]
        return [v or Unknown(node.op, t.name) for v, t in zip(found, node.outputs, strict=False)]


def _bodies(node: gs.Node) -> dict[str, gs.Graph]:
    """The graphs in a node, by attribute."""
    return {name: value for name, value in node.attrs.items() if isinstance(value, gs.Graph)}


def _made_by(node: gs.Node) -> str:
    """The first output of a node; "" for one that gives nothing, as a damaged loop may."""
    return str(node.outputs[0].name) if node.outputs else ""


def _value_of(name: str, values: Mapping[str, Value]) -> Value:
    """The value of a tensor; that of one which nothing makes is unknown."""
    return values.get(name) or Unknown("no node", name)


def _constant(proto: TensorProto, scope: Scope, name: str) -> Value:
    shape = tuple(proto.dims)
    if proto.data_type == TensorProto.STRING:
        return Unknown("initializer", name)  # no numbers
    if proto.data_type in _WHOLE or int(np.prod(shape)) <= 1:
        return Const(np.asarray(read_tensor(proto, scope.folder)))

    def values() -> Array:
        return np.asarray(read_tensor(proto, scope.folder))

    return Weight(
        name,
        shape,
        read=lambda: values().astype(np.float32, copy=False),
        take=lambda indices: values()[indices],
        stored=stored_matrix(proto, scope.folder),
    )
