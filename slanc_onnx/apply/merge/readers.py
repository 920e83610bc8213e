"""Readers: the weights that a norm's output is multiplied by, where nothing else reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from slanc_onnx.apply.merge.channels import SCALING, along
from slanc_onnx.apply.merge.held import Held
from slanc_onnx.graph import FLOATS, Array, Flow, NodeAt, Tensor, Use
from slanc_onnx.reasons import Reason, Unmerged

_MOST = 64  # nodes between a norm and a weight
# Op -> the positions of the weight and of the bias, -1 for none.
_PRODUCTS = {
    "MatMul": (1, -1),
    "FusedMatMul": (1, -1),
    "Gemm": (1, 2),
    "Conv": (1, 2),
    "Attention": (1, 2),  # com.microsoft, whose weights are inside
}
_INTEGER_WEIGHTS = (
    "MatMulNBits",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "QAttention",
)


@dataclass(frozen=True)
class Reader:
    """A product with a weight that reads a norm's output.

    Attributes:
        at: The node.
        op: Its type.
        weight: The stored weight.
        axis: The axis of the weight that the channels meet.
        out: The axis of the weight that makes the outputs; for a Conv with groups they are more.
        groups: The number of groups of a Conv; 1 for others.
        factor: By what the product is multiplied beside.
        bias_at: The node and position that read the bias, where there is one or may be.
        bias: The bias; None where there is none yet.
        bias_factor: By what the bias is multiplied.
        padded: Whether zeros are put around what it reads.
        scaled: The first node before it that multiplies what it reads; None for none.
    """

    at: NodeAt
    op: str
    weight: Tensor
    axis: int
    out: int
    groups: int = 1
    factor: float = 1.0
    bias_at: Use | None = None
    bias: Tensor | None = None
    bias_factor: float = 1.0
    padded: bool = False
    scaled: NodeAt | None = None


def readers_of(
    held: Held, tensor: Tensor, axis: int, width: int
) -> tuple[list[Reader], Reason | None]:
    """The products that read a tensor, through what moves its elements.

    Args:
        held: The constants of the model.
        tensor: The output of a norm.
        axis: The axis of its channels.
        width: How many they are.

    Returns:
        The products; and why they are not all that reads it, None where they are.
    """
    found: list[Reader] = []
    outputs = graph_outputs(held.flow)
    waiting: list[tuple[Tensor, int, NodeAt | None]] = [(tensor, axis, None)]
    seen = {tensor}
    while waiting:
        here, where, scaled = waiting.pop()
        if here in outputs:
            return [], Reason(Unmerged.OUTPUT)
        for use in held.flow.uses.get(here, ()):
            reader = _reader(held, use, where, width)
            if isinstance(reader, Reader):
                found.append(replace(reader, scaled=scaled))
                continue
            after = held.channels.behind(use, where, width)
            if after is None or len(seen) > _MOST:
                return [], reader
            node = held.flow.node(use.path, use.node)
            made = [Tensor(use.path, name) for name in node.output if name]
            if known_single(held.flow, use):
                made = made[:1]
            scales = held.flow.op(use.path, use.node) in SCALING
            first = NodeAt(use.path, use.node) if scales and scaled is None else scaled
            waiting += [(t, after, first) for t in made if t not in seen]
            seen.update(made)
    return found, None if found else Reason(Unmerged.NO_READER)


def known_single(flow: Flow, use: Use) -> bool:
    """Whether only the first output of a node has what it reads."""
    return flow.op(use.path, use.node) != "Split"


def graph_outputs(flow: Flow) -> set[Tensor]:
    """The outputs of all graphs of a model, those of branches and loops included."""
    return {
        flow.tensor(scope.path, output.name)
        for scope in flow.scopes.values()
        for output in scope.proto.output
    }


def read_by(flow: Flow, use: Use, kind: Unmerged = Unmerged.READ_OTHERWISE) -> Reason:
    """A reason about a node that reads a tensor."""
    node = flow.node(use.path, use.node)
    return Reason(kind, op=node.op_type, tensor=next(filter(None, node.output), ""))


def _reader(held: Held, use: Use, axis: int, width: int) -> Reader | Reason:
    """A node as a product with a weight; the reason that it is none."""
    flow = held.flow
    node, op = flow.node(use.path, use.node), flow.op(use.path, use.node)
    if op in _INTEGER_WEIGHTS:
        return read_by(flow, use, Unmerged.INTEGER_WEIGHT)
    if op not in _PRODUCTS or (op == "Attention" and node.domain != "com.microsoft"):
        return read_by(flow, use)
    place, bias_place = _PRODUCTS[op]
    weight = held.channels.read(use.path, use.node, place)
    if use.position != 0 or weight is None or weight not in flow.constants:
        return read_by(flow, use)
    stored = held.order(weight)
    if stored is None:
        quantised = _quantised(flow, weight)
        kind = Unmerged.INTEGER_WEIGHT if quantised else Unmerged.WEIGHT_COMPUTED
        return read_by(flow, use, kind)
    root, axes = stored
    sizes = flow.data[root].dims
    if len(axes) < 2:
        return read_by(flow, use)
    at = NodeAt(use.path, use.node)
    if op == "Conv":
        found = _conv(held, at, root, axes, axis, width)
    else:
        found = _matrix(held, at, op, root, axes, axis)
    if found is None or sizes[found.axis] * found.groups != width:
        return read_by(flow, use)
    return _with_bias(held, found, bias_place)


def _conv(
    held: Held, at: NodeAt, root: Tensor, axes: tuple[int, ...], axis: int, width: int
) -> Reader | None:
    channels = held.channels
    if axis != 1 - len(axes):
        return None
    groups = channels.attribute(*at, "group", 1)
    node = held.flow.node(*at)
    pads = channels.attributes(*at, "pads")
    automatic = next((a.s for a in node.attribute if a.name == "auto_pad"), b"NOTSET")
    padded = any(pads or ()) or automatic not in (b"NOTSET", b"VALID", b"")
    return Reader(at, "Conv", root, axes[1], axes[0], groups, padded=padded)


def _matrix(
    held: Held, at: NodeAt, op: str, root: Tensor, axes: tuple[int, ...], axis: int
) -> Reader | None:
    """A product with a matrix, whose rows the channels meet."""
    turned = {a.name: a.i for a in held.flow.node(*at).attribute}
    if axis != -1 or turned.get("transA") or turned.get("transBatchA"):
        return None
    if turned.get("transBatchB") or (op == "Attention" and len(axes) != 2):
        return None
    into, out = (axes[-1], axes[-2]) if turned.get("transB") else (axes[-2], axes[-1])
    numbers = {a.name: a.f for a in held.flow.node(*at).attribute}
    factor, bias_factor = numbers.get("alpha", 1.0), numbers.get("beta", 1.0)
    if op not in ("Gemm", "FusedMatMul"):
        factor = bias_factor = 1.0
    return Reader(at, op, root, into, out, factor=factor, bias_factor=bias_factor)


def _with_bias(held: Held, found: Reader, place: int) -> Reader:
    """The product with the constant that is added to it, by itself or by the one that reads it."""
    flow, at = held.flow, found.at
    if place >= 0:
        use = Use(at.path, at.node, place)
        return replace(found, bias_at=use, bias=flow.read(use))
    made = Tensor(at.path, flow.node(*at).output[0])
    uses = flow.uses.get(made, [])
    if len(uses) != 1 or made in flow.pinned or uses[0].path != at.path:
        return found
    (reads,) = uses
    if flow.op(reads.path, reads.node) != "Add":
        return found
    other = Use(reads.path, reads.node, 1 - reads.position)
    bias = flow.read(other)
    if bias is None or bias not in flow.constants:
        return found
    if held.channels.dims(bias) is None or held.vector(bias) is None:
        return found
    return replace(found, bias_at=other, bias=bias)


def shifted(held: Held, reader: Reader, beta: Array) -> Array:
    """What a product makes of beta: the row that its bias takes.

    Args:
        held: The constants.
        reader: The product.
        beta: A number per channel, FP64.

    Returns:
        A row of as many elements as the product has outputs, before `factor`.
    """
    values = held.read(reader.weight)
    rank = values.ndim
    wanted = [a for a in range(rank) if a not in (reader.out, reader.axis)]
    turned = values.transpose([reader.out, reader.axis, *wanted])
    out, inner = turned.shape[:2]
    parts = beta.reshape(reader.groups, inner)
    made = np.empty(out)
    per_group = out // reader.groups
    at_once = max(1, (1 << 22) // max(1, inner))
    for group in range(reader.groups):
        for start in range(group * per_group, (group + 1) * per_group, at_once):
            here = slice(start, min(start + at_once, (group + 1) * per_group))
            block = turned[here].reshape(here.stop - here.start, inner, -1)
            made[here] = block.astype(np.float64).sum(axis=2) @ parts[group]
    return made


def factors(held: Held, reader: Reader, gamma: Array) -> Array:
    """Gamma as factors that broadcast to the weight of a product."""
    rank = len(held.flow.data[reader.weight].dims)
    if reader.groups == 1:
        return along(gamma, reader.axis, rank)
    parts = gamma.reshape(reader.groups, -1)
    out = held.flow.data[reader.weight].dims[reader.out]
    each = np.repeat(parts, out // reader.groups, axis=0)
    shape = np.ones(rank, np.int64)
    shape[[reader.out, reader.axis]] = each.shape
    return (each if reader.out < reader.axis else each.T).reshape(tuple(shape))


def _quantised(flow: Flow, tensor: Tensor) -> bool:
    """Whether integers are behind a constant."""
    while tensor not in flow.data and tensor in flow.makers:
        path, index, _ = flow.makers[tensor]
        source = flow.read(Use(path, index, 0))
        if source is None:
            return False
        tensor = source
    return tensor in flow.data and flow.data[tensor].data_type not in FLOATS
