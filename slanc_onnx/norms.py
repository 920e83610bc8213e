"""Find: every norm of a model, with all that scaling, emulating and reporting need to know."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import onnx_graphsurgeon as gs
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

from slanc_onnx.graph import DOMAINS, SEE_THROUGH, GraphPath, Scope, op_of, see_through
from slanc_onnx.norm_patterns import CENTRED, DECOMPOSED, FUSED, INTERNAL, Decomposed, Kind
from slanc_onnx.pattern import Match, Use

SCALE_KEY = "slanc.scale"
NORM_KEY = "slanc.norm"


class Place(NamedTuple):
    """An input of a node: the node's index in its graph, the input's position and element type."""

    node: int
    position: int
    element_type: int


@dataclass(frozen=True)
class Norm:
    """One LayerNorm or RMSNorm of a graph.

    Attributes:
        name: Unique in the model: the node's name, or its output where that is empty or shared.
        kind: "layer" (centred) or "rms".
        form: The fused op's type, or "decomposed".
        path: The subgraph that holds it; () for the main graph.
        input: The tensor that is normalised. For a Skip op the first addend.
        normalised: The tensor after the division; for fused ops the op's output.
        output: The tensor after gamma and beta.
        width: Number of elements per row, None where neither gamma nor a shape tells.
        element_type: ONNX element type of the input (onnx.TensorProto.FLOAT, ...).
        output_type: That of the output, which another Cast may precede.
        epsilon: As the graph has it, None where it is no constant.
        epsilon_place: Where a decomposed norm reads it; None for a fused op's attribute.
        epsilon_power: Power of the scale that divides epsilon (2, or 1 outside the root).
        unbiased: Whether the mean square divides by width - 1 (Bessel's correction).
        one_pass: Whether a LayerNorm's variance is spelled E[x^2] - mean^2, so that what is summed
            are the squares of the input as it is, not of the centred input.
        gamma: Tensor names of the affine part, None where absent.
        beta: Likewise.
        places: What to divide: every read of the input inside the norm.
        nodes: The norm's own nodes, by index, in topological order.
        scaled_by: The scale that an earlier run put in, None for a norm that has none.
        skip_reason: Why it cannot be scaled, None where it can.
    """

    name: str
    kind: Kind
    form: str
    path: GraphPath
    input: str
    normalised: str
    output: str
    width: int | None
    element_type: int
    output_type: int
    epsilon: float | None
    epsilon_place: Place | None
    epsilon_power: int
    gamma: str | None
    beta: str | None
    places: tuple[Place, ...]
    nodes: tuple[int, ...]
    unbiased: bool = False
    one_pass: bool = False
    scaled_by: float | None = None
    skip_reason: str | None = None


def find_norms_in(scopes: list[Scope]) -> list[Norm]:
    """Every norm of the given scopes, in topological order, those of a subgraph after its node."""
    by_path = {scope.path: scope for scope in scopes}

    def of(scope: Scope) -> list[Norm]:
        found: list[Norm] = []
        claimed: set[int] = set()
        for node in scope.sorted_nodes():
            norm = _fused(scope, node) or _decomposed(scope, node, claimed)
            if norm is not None:
                found.append(norm)
                claimed.update(norm.nodes)
            for attribute, value in node.attrs.items():
                if isinstance(value, gs.Graph):
                    found += of(by_path[(*scope.path, (scope.index[id(node)], attribute))])
        return found

    return _unique_names(of(by_path[()]))


# An op of each set, together: what a norm that is written out has at least.
_MEANS = {"ReduceMean", "ReduceSum", "ReduceL2"}
_ROOTS = {"Sqrt", "Pow", "Reciprocal"}


def as_computed(norms: Sequence[Norm], one_pass: bool) -> list[Norm]:
    """The norms as a device computes them that forms LayerNorm's variance in one pass, or two.

    A one-pass spelling stays one.
    """
    if not one_pass:
        return list(norms)
    return [replace(norm, one_pass=norm.kind == "layer") for norm in norms]


def hidden_functions(model: ModelProto) -> list[str]:
    """The names of the model-local functions that are called and seem to hold a norm.

    Norms are looked for in the graph only: what a function holds is found after inlining it.
    A function that stands for a fused op is a norm itself.
    """
    bodies = {(f.domain, f.name): list(_every_node(f.node)) for f in model.functions}
    called: dict[tuple[str, str], None] = {}
    waiting = list(_every_node(model.graph.node))
    while waiting:
        node = waiting.pop(0)
        key = (node.domain, node.op_type)
        if key in bodies and key not in called and not _names_a_norm(*key):
            called[key] = None
            waiting += bodies[key]
    hidden = []
    for domain, name in called:
        ops = {n.op_type for n in bodies[domain, name] if n.domain in DOMAINS}
        holds = ops & {*FUSED, *INTERNAL} or (ops & _MEANS and ops & _ROOTS)
        if holds:
            hidden.append(name)
    return hidden


def _names_a_norm(domain: str, op: str) -> bool:
    return domain in DOMAINS and (op in FUSED or op in INTERNAL)


def _every_node(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _every_node(attribute.g.node)


def _unique_names(norms: list[Norm]) -> list[Norm]:
    seen: set[str] = set()
    result = []
    for norm in norms:
        candidates = [norm.name, norm.output, *(f"{norm.output}#{i}" for i in range(2, 1000))]
        name = next(c for c in candidates if c and c not in seen)
        seen.add(name)
        result.append(replace(norm, name=name))
    return result


def _fused(scope: Scope, node: gs.Node) -> Norm | None:
    here = scope.index[id(node)]
    op = op_of(node)
    if not node.outputs:
        return None
    if op in INTERNAL:
        return Norm(
            node.name, "layer", op, scope.path, "", node.outputs[0].name, node.outputs[0].name,
            None, TensorProto.FLOAT, TensorProto.FLOAT, node.attrs.get("epsilon"), None, 2, None,
            None, (), (here,), skip_reason=INTERNAL[op],
        )  # fmt: skip
    form = FUSED.get(op)
    if form is None or len(node.inputs) <= form.gamma or not node.inputs[0].name:
        return None

    def name_at(position: int) -> str | None:
        there = 0 <= position < len(node.inputs)
        return (node.inputs[position].name or None) if there else None

    uses = [Use(node, p) for p in form.addends if name_at(p) is not None]
    source, kind = node.inputs[0], form.kind
    nodes: tuple[int, ...] = (here,)
    if kind == "rms" and len(uses) == 1:
        match = next(CENTRED.of(see_through(source), Match(scope)), None)
        if match is not None:
            kind = "layer"
            if not _leaks(scope, match.nodes, [node]):
                uses = match.places("x")
                source = uses[0].tensor
                nodes = (*sorted(scope.index[id(n)] for n in match.nodes), here)
    gamma = node.inputs[form.gamma]
    return _known(
        scope,
        Norm(
            name=node.name,
            kind=kind,
            form=op,
            path=scope.path,
            input=source.name,
            normalised=node.outputs[0].name,
            output=node.outputs[0].name,
            width=_last_dim(scope, gamma) or _last_dim(scope, source),
            element_type=_element_type(scope, source, gamma),
            output_type=_element_type(scope, node.outputs[0], gamma),
            epsilon=float(node.attrs.get("epsilon", form.epsilon)),
            epsilon_place=None,
            epsilon_power=2,
            gamma=gamma.name,
            beta=name_at(form.beta),
            places=_places(scope, uses, gamma),
            nodes=nodes,
            skip_reason=_fused_obstacle(scope, node, source),
        ),
    )


def _fused_obstacle(scope: Scope, node: gs.Node, source: gs.Tensor) -> str | None:
    axis = node.attrs.get("axis", -1)
    rank = None if source.shape is None else len(source.shape)
    if axis != -1 and axis + 1 != rank:
        return f"normalises from axis {axis} on, not over the last axis alone"
    for what, tensor in zip(("mean", "inverse deviation"), node.outputs[1:3], strict=False):
        if tensor.outputs:
            reader = tensor.outputs[0]
            return f"its {what} is also read by {reader.op} {reader.name!r}"
        if tensor.name and any(tensor is output for output in scope.graph.outputs):
            return f"its {what} is a graph output"
    return None


def _decomposed(scope: Scope, node: gs.Node, claimed: set[int]) -> Norm | None:
    if op_of(node) not in ("Div", "Mul") or not node.outputs or scope.index[id(node)] in claimed:
        return None
    for form in DECOMPOSED:
        for match in form.pattern.of(node.outputs[0], Match(scope)):
            norm = _from_match(scope, node, form, match)
            if norm is not None:
                return norm
    return None


def _from_match(scope: Scope, node: gs.Node, form: Decomposed, match: Match) -> Norm | None:
    places = match.places("x")
    epsilon = match.places("epsilon")[0]
    early_gamma = match.tensor("gamma")
    gamma, beta, output = _affine(scope, node.outputs[0])
    gamma = early_gamma or gamma
    width = None if gamma is None else _last_dim(scope, gamma)
    width = width or next((w for u in places if (w := _last_dim(scope, u.tensor))), None)
    counts = [round(count) for count in match.values("count")]
    counts += [round(1 / inverse) for inverse in match.values("inverse count") if inverse]
    width = width or max(counts, default=None)
    if width is not None and not {width, width - 1}.issuperset(counts):
        return None  # not a mean over the row
    correction = [*match.places("n"), *match.places("n - 1")]
    if not all(_constant_made(scope, use.tensor) for use in correction):
        return None  # the variance is multiplied by data
    factor = match.value("factor")
    if (
        form.factor is not None
        and factor is not None
        and (width is None or not math.isclose(factor, width**form.factor, rel_tol=1e-3))
    ):
        return None  # an L2 normalisation, not a norm
    nodes = tuple({id(n): n for n in match.nodes}.values())
    obstacle = _leaks(scope, nodes, [node])
    overridden = scope.overridden(epsilon.tensor)
    if overridden is not None:
        obstacle = f"its epsilon is the graph input {overridden!r}, which a caller may override"
    return _known(
        scope,
        Norm(
            name=node.name,
            kind=form.kind,
            form="decomposed",
            path=scope.path,
            input=places[0].tensor.name,
            normalised=node.outputs[0].name,
            output=output.name,
            width=width,
            element_type=_element_type(scope, places[0].tensor, epsilon.tensor),
            output_type=_element_type(scope, output, places[0].tensor, epsilon.tensor),
            epsilon=match.value("epsilon") if overridden is None else None,
            epsilon_place=_places(scope, [epsilon], places[0].tensor)[0],
            epsilon_power=form.power,
            gamma=None if gamma is None else gamma.name,
            beta=None if beta is None else beta.name,
            places=_places(scope, places, epsilon.tensor),
            nodes=tuple(sorted(scope.index[id(n)] for n in nodes)),
            unbiased=bool(correction) or any(count != width for count in counts),
            one_pass=form.one_pass,
            skip_reason=obstacle,
        ),
    )


def _known(scope: Scope, norm: Norm) -> Norm:
    """The norm with the scale that an earlier run stamped on the Div before it."""
    node, position, _ = norm.places[0]
    makers = scope.graph.nodes[node].inputs[position].inputs
    if makers and op_of(makers[0]) == "Div":
        stamp = scope.proto.node[scope.index[id(makers[0])]].metadata_props
        scale = next((float(p.value) for p in stamp if p.key == SCALE_KEY), None)
        return replace(norm, scaled_by=scale)
    return norm


def _places(scope: Scope, uses: list[Use], like: gs.Tensor) -> tuple[Place, ...]:
    """The places of some reads, with the element type of `like` where the file tells none."""
    return tuple(
        Place(scope.index[id(u.node)], u.position, _element_type(scope, u.tensor, like))
        for u in uses
    )


def _leaks(scope: Scope, nodes: tuple[gs.Node, ...], last: list[gs.Node]) -> str | None:
    """Why an inner value of the norm is also used outside, None if none is."""
    inside = {id(n) for n in (*nodes, *last)}
    outputs = {id(t) for t in scope.graph.outputs}

    def outside(tensor: gs.Tensor) -> str | None:
        if id(tensor) in outputs:
            return "is a graph output"
        for reader in tensor.outputs:
            if id(reader) in inside or op_of(reader) in ("Shape", "Size"):
                continue
            if op_of(reader) not in SEE_THROUGH:
                return f"is also read by {reader.op} {reader.name!r}"
            found = outside(reader.outputs[0])
            if found:
                return found
        return None

    for node in nodes:
        if node not in last:
            found = next((f for t in node.outputs if (f := outside(t))), None)
            if found:
                return f"its inner value {node.outputs[0].name!r} {found}"
    return None


def _affine(
    scope: Scope, normalised: gs.Tensor
) -> tuple[gs.Tensor | None, gs.Tensor | None, gs.Tensor]:
    """Gamma and beta behind a normalised value, and the tensor after them."""
    tensor, found = normalised, []
    for op in ("Mul", "Add"):
        end, operand = _next_constant(scope, tensor, op)
        found.append(operand)
        tensor = end if operand is not None else tensor
    return found[0], found[1], tensor


def _next_constant(scope: Scope, tensor: gs.Tensor, op: str) -> tuple[gs.Tensor, gs.Tensor | None]:
    """Follow the only reader through casts to an `op` whose other operand is a constant row."""
    end = tensor
    while len(end.outputs) == 1 and op_of(end.outputs[0]) in SEE_THROUGH:
        end = end.outputs[0].outputs[0]
    if len(end.outputs) != 1 or op_of(end.outputs[0]) != op:
        return tensor, None
    node = end.outputs[0]
    other = node.inputs[1] if node.inputs[0] is end else node.inputs[0]
    if (_last_dim(scope, other) or 0) > 1 and _constant_made(scope, other):
        return node.outputs[0], other
    return tensor, None


def _constant_made(scope: Scope, tensor: gs.Tensor) -> bool:
    """Whether a tensor is computed from constants and shapes alone, like gamma = Add(w, 1)."""
    if scope.constant(tensor) is not None:
        return True
    if tensor.inputs and op_of(tensor.inputs[0]) in ("Shape", "Size"):
        return True
    return bool(tensor.inputs) and all(
        _constant_made(scope, t) for t in tensor.inputs[0].inputs if t.name
    )


def _element_type(scope: Scope, *tensors: gs.Tensor) -> int:
    """The element type of the first tensor for which the file tells one; FLOAT if none does."""
    for tensor in tensors:
        constant = scope.constant(tensor)
        if constant is not None:
            return constant.data_type
        made_by = tensor.inputs[0] if tensor.inputs else None
        if made_by is not None and op_of(made_by) == "Cast" and made_by.attrs.get("to"):
            return int(made_by.attrs["to"])
        if tensor.dtype is not None:
            known = isinstance(tensor.dtype, int)
            return int(tensor.dtype) if known else helper.np_dtype_to_tensor_dtype(tensor.dtype)
    return TensorProto.FLOAT


def _last_dim(scope: Scope, tensor: gs.Tensor) -> int | None:
    """The last dimension of a tensor where the file tells it, through casts and Add(w, 1)."""
    constant = scope.constant(tensor)
    if constant is not None:
        return int(constant.dims[-1]) if constant.dims else 1
    if tensor.shape and isinstance(tensor.shape[-1], int) and tensor.shape[-1] >= 0:
        return int(tensor.shape[-1])
    if tensor.inputs and op_of(tensor.inputs[0]) in (*SEE_THROUGH, "Add", "DequantizeLinear"):
        dims = [_last_dim(scope, t) for t in tensor.inputs[0].inputs if t.name]
        return max((d for d in dims if d), default=None)
    return None
