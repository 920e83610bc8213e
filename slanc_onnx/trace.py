"""Trace: from the graph to one expression per norm input.

The graph is walked once, in topological order, at batch 1 and sequence length 1. Every tensor
becomes a value: a constant, a lazily read weight, or a view of an expression. Norms are where
expressions start anew. What no rule can follow becomes an `Opaque` source that names the op.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from slanc_onnx.expression import Expr, Input, Normalised, Opaque, Product, Sum, Weight
from slanc_onnx.graph import Scope, op_of
from slanc_onnx.inputs import InputSpec, make_feeds
from slanc_onnx.load import Array, read_tensor
from slanc_onnx.movement import CannotFollow
from slanc_onnx.norms import Norm
from slanc_onnx.rewrite import RESIDUAL_OUTPUT
from slanc_onnx.trace_rules import ELEMENTWISE, RULES
from slanc_onnx.trace_step import Step
from slanc_onnx.values import Const, Unknown, Value, View, as_view, combine, row, row_view

log = logging.getLogger(__name__)

_WHOLE = {
    TensorProto.BOOL, TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
}  # fmt: skip


@dataclass(frozen=True)
class Trace:
    """The expression of each norm's input, by norm name; in `blocked` why there is none."""

    inputs: dict[str, Expr]
    blocked: dict[str, str]


def trace(scopes: Sequence[Scope], norms: Sequence[Norm], specs: Sequence[InputSpec]) -> Trace:
    """Read what lies between the norms of a model.

    Args:
        scopes: The model's graphs, the main graph first.
        norms: Its norms.
        specs: Its inputs.
    """
    tracer = _Tracer(scopes, norms)
    main = next(scope for scope in scopes if not scope.path)
    values: dict[str, Value] = {}
    for name, array in make_feeds(specs, np.random.default_rng(0), sequence=1).items():
        values[name] = _input_value(name, array.shape, array.dtype.kind in "fV")
    tracer.run(main, values)
    return Trace(tracer.inputs, tracer.blocked)


def _input_value(name: str, shape: tuple[int, ...], is_float: bool) -> View:
    """A graph input: a row of numbers in its last axis, or in axis 1 of an image."""
    axis = {3: 2, 4: 1, 5: 1}.get(len(shape)) if is_float else None
    if axis is None:
        return View(Input(1, name), np.zeros(shape, np.int32))
    channels = np.arange(shape[axis], dtype=np.int32)
    spread = channels.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return View(Input(shape[axis], name), np.broadcast_to(spread, shape))


class _Tracer:
    def __init__(self, scopes: Sequence[Scope], norms: Sequence[Norm]) -> None:
        self.scopes = {scope.path: scope for scope in scopes}
        self.norms = {(norm.path, norm.normalised): norm for norm in norms}
        self.inputs: dict[str, Expr] = {}
        self.blocked: dict[str, str] = {}

    def run(self, scope: Scope, values: dict[str, Value]) -> dict[str, Value]:
        """Give every tensor of a scope its value; `values` holds the inputs' and outer ones."""
        for name, proto in scope.initializers.items():
            values[name] = _constant(proto, scope, name)
        for node in scope.sorted_nodes():
            if op_of(node) == "Constant":
                continue
            for tensor, value in zip(node.outputs, self._node(scope, node, values), strict=False):
                if tensor.name:
                    values[tensor.name] = value
        return values

    def _node(self, scope: Scope, node: gs.Node, values: Mapping[str, Value]) -> list[Value]:
        inputs = [values.get(t.name) if t.name else None for t in node.inputs]
        norm = self.norms.get((scope.path, node.outputs[0].name)) if node.outputs else None
        try:
            if norm is not None:
                return self._norm(norm, node, values)
            if not op_of(node):
                raise CannotFollow(f"has no rule in the domain {node.domain}")
            bodies = {k: v for k, v in node.attrs.items() if isinstance(v, gs.Graph)}
            if bodies:
                return self._control_flow(scope, node, bodies, inputs, values)
            rule = RULES.get(node.op)
            if rule is None:
                raise CannotFollow("has no rule")
            return rule(Step(node, inputs))
        except (CannotFollow, ValueError, IndexError, TypeError, KeyError) as reason:
            log.debug("%s %s %s", node.op, node.outputs[0].name if node.outputs else "", reason)
            if norm is not None:
                self.blocked.setdefault(norm.name, f"{node.op} ({norm.normalised}): {reason}")
            return [_opaque(node, tensor, inputs) for tensor in node.outputs]

    def _norm(self, norm: Norm, node: gs.Node, values: Mapping[str, Value]) -> list[Value]:
        """The values of the node that makes a norm's normalised output."""
        outputs: list[Value] = [Unknown(node.op, t.name) for t in node.outputs]
        skips, gamma, beta = norm.form.startswith("Skip"), norm.gamma, norm.beta
        if norm.form == "EmbedLayerNormalization":
            step = Step(node, [values.get(t.name) if t.name else None for t in node.inputs])
            addends = RULES["EmbedLayerNormalization"](step)
            gamma, beta = node.inputs[5].name, node.inputs[6].name
        elif skips:
            addends = [values[node.inputs[place.position].name] for place in norm.places]
        else:
            addends = [values[norm.input]]
        unknown = next((v for v in addends if isinstance(v, Unknown)), None)
        if unknown is not None:
            if norm.width is None:
                self.blocked[norm.name] = f"{unknown.op} ({unknown.tensor})"
                raise CannotFollow("normalises a value that is not known")
            # Of the usual rank: what comes after the norm does not depend on what came before.
            opaque = Opaque(norm.width, unknown.op, unknown.tensor)
            view = row_view(opaque, (1, 1, norm.width))
        else:
            view = as_view(addends[0])
            for addend in addends[1:]:
                view = combine(Sum, view, as_view(addend))
        if skips and len(outputs) > RESIDUAL_OUTPUT:
            outputs[RESIDUAL_OUTPUT] = view
        expr = row(view)
        self.inputs[norm.name] = expr
        result = row_view(
            Normalised(expr.channels, norm.name, norm.kind == "layer", expr), view.shape
        )
        # Decomposed norms have their gamma in nodes of their own, except for gamma before the Div.
        if norm.form != "decomposed" or (gamma and norm.output == norm.normalised):
            for kind, name in ((Product, gamma), (Sum, beta)):
                if name is not None:
                    result = combine(kind, result, as_view(values[name]))
        outputs[0] = result
        return outputs

    def _control_flow(
        self,
        scope: Scope,
        node: gs.Node,
        bodies: Mapping[str, gs.Graph],
        inputs: Sequence[Value | None],
        values: Mapping[str, Value],
    ) -> list[Value]:
        """Walk the bodies of an If, Loop or Scan.

        What a loop carries from one iteration to the next is not read: it may grow.
        """
        outputs: list[Value] = [Unknown(node.op, t.name) for t in node.outputs]
        for attribute, graph in bodies.items():
            body = self.scopes[(*scope.path, (scope.index[id(node)], attribute))]
            inner = dict(values)
            for tensor, value in zip(graph.inputs, inputs, strict=False):
                inner[tensor.name] = _carried(node, tensor, value)
            inner = self.run(body, inner)
            # A Loop's body gives its condition first; the node does not.
            results = graph.outputs[1:] if node.op == "Loop" else graph.outputs
            for i, tensor in enumerate(results[: len(outputs)]):
                if isinstance(outputs[i], Unknown):
                    outputs[i] = inner.get(tensor.name) or outputs[i]
        return outputs


def _carried(node: gs.Node, tensor: gs.Tensor, value: Value | None) -> Value:
    """A body's input: a source of its own, in the shape of its first value."""
    if isinstance(value, View) and value.shape:
        return row_view(Opaque(value.shape[-1], node.op, tensor.name), value.shape)
    return value or Unknown(node.op, tensor.name)


def _constant(proto: TensorProto, scope: Scope, name: str) -> Value:
    shape = tuple(proto.dims)
    if proto.data_type in _WHOLE or int(np.prod(shape)) <= 1:
        return Const(np.asarray(read_tensor(proto, scope.folder)))

    def values() -> Array:
        return np.asarray(read_tensor(proto, scope.folder))

    return Weight(
        name,
        shape,
        read=lambda: values().astype(np.float32, copy=False),
        take=lambda indices: values()[indices],
    )


def _opaque(node: gs.Node, tensor: gs.Tensor, inputs: Sequence[Value | None]) -> Value:
    """An output that no rule gave: a source of its own where its shape is known."""
    culprit = next((v for v in inputs if isinstance(v, Unknown)), None)
    op, name = (culprit.op, culprit.tensor) if culprit else (node.op, tensor.name)
    shape = _shape_of(node, tensor, inputs)
    return Unknown(op, name) if not shape else row_view(Opaque(shape[-1], op, name), shape)


def _shape_of(
    node: gs.Node, tensor: gs.Tensor, inputs: Sequence[Value | None]
) -> tuple[int, ...] | None:
    """The shape of an output at sequence length 1, from the op's inputs or from the file."""
    known = [v.shape for v in inputs if v is not None and not isinstance(v, Unknown)]
    if op_of(node) in ELEMENTWISE and len(known) == len(inputs):
        try:
            return np.broadcast_shapes(*known)
        except ValueError:
            pass
    if op_of(node) == "MatMul" and len(known) == 2 and min(len(s) for s in known) >= 2:
        return (*np.broadcast_shapes(known[0][:-2], known[1][:-2]), known[0][-2], known[1][-1])
    if tensor.shape and isinstance(tensor.shape[-1], int) and tensor.shape[-1] >= 0:
        return tuple(d if isinstance(d, int) and d >= 0 else 1 for d in tensor.shape)
    return None
