"""What a norm has to be for its row to be read as one: checks of its ops, beside the finder's.

The finder reads axes, counts, epsilons and types from the graph by itself; here they are held
against what the walk knows of the same tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto

from slanc_onnx.accelerator import OF_16_BITS, Accelerator
from slanc_onnx.graph import SEE_THROUGH, Array, Scope
from slanc_onnx.norms import Norm, small_value
from slanc_onnx.ops import ELEMENTWISE
from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.deferred import keeps_root, scale_to_come
from slanc_onnx.prove.trusted.agreed import refuse_odd_switches
from slanc_onnx.prove.trusted.known import Open
from slanc_onnx.prove.trusted.order import Order
from slanc_onnx.prove.trusted.values import Constant, Sizes, settled
from slanc_onnx.reasons import Unproved, Unread, reason

_SAME_RANK = {*ELEMENTWISE, *SEE_THROUGH, "Add", "Sub", "Mul", "Div", "Max", "Min", "Where"}
_CLOSE = 2.0**-10  # of a number that the finder computed in another type


def check_norm(
    norm: Norm, scope: Scope, order: Order, found: Mapping[str, Any], device: Accelerator
) -> None:
    """Refuse a norm whose ops do not make what it was taken for.

    Args:
        norm: The norm.
        scope: Its graph.
        order: The nodes of that.
        found: What is known of tensors.
        device: Whose rounding counts.

    Raises:
        NoBound: they may not.
    """
    nodes = [scope.proto.node[index] for index in norm.nodes]
    for node in nodes:
        refuse_odd_switches(node)

    def taken(name: str) -> Array | None:
        tensor = scope.tensors.get(name)
        return None if tensor is None else small_value(scope, tensor)

    _check_ranks(nodes, scope, found)
    _check_constants(norm, nodes, taken, found)
    steps = [scope.proto.node[index] for index in order.steps_of(norm)]
    _check_counts(norm, steps, found, scope.initializers)
    _check_types(norm, order, found, device)


def _check_ranks(nodes: Sequence[NodeProto], scope: Scope, found: Mapping[str, Any]) -> None:
    """Refuse a norm where the file tells another rank of a tensor than the walk finds.

    The finder counts axes by what the file tells, which may be of another version of the graph.

    Raises:
        NoBound: there is such a tensor.
    """
    known = [(name, found.get(name)) for node in nodes for name in node.input if name]
    ranks = {n: len(o.dims) for n, o in known if o is not None and o.dims is not None}
    for node in nodes:
        own = [ranks.get(name) for name in node.input if name]
        keeps = node.op_type in _SAME_RANK and None not in own
        kept = all(a.i for a in node.attribute if a.name == "keepdims")
        if keeps and own:
            ranks[node.output[0]] = max(rank for rank in own if rank is not None)
        elif node.op_type.startswith("Reduce") and kept and own and own[0] is not None:
            ranks[node.output[0]] = own[0]
    for name, rank in ranks.items():
        told = scope.tensors[name].shape if name in scope.tensors else None
        if told and len(told) != rank:
            raise NoBound(reason(Unread.SHAPES_DIFFER, str(tuple(told)), f"of rank {rank}"))


def _check_counts(
    norm: Norm, steps: Sequence[NodeProto], found: Mapping[str, Any], stored: Container[str]
) -> None:
    """Refuse a norm whose sum is divided by a count that the walk does not know to be its width.

    The finder held the numbers of the file against the width, but what is computed from a shape
    may be the size of another axis.

    Args:
        norm: The norm.
        steps: Its nodes up to the one that normalises.
        found: What is known of tensors.
        stored: The names of the file's numbers.

    Raises:
        NoBound: there is such a count.
    """
    inside = {norm.input, *(name for node in steps for name in node.output)}
    for node in steps:
        if node.op_type not in ("Div", "Mul"):
            continue
        for name in node.input:
            known = found.get(name)
            if name in inside or name in stored or known is None:
                continue
            if known.dims is not None and any(dim != 1 for dim in known.dims):
                continue  # no count, but numbers of rows
            counted = settled(known) if isinstance(known, Constant | Sizes) else None
            if not isinstance(counted, Constant) or norm.width is None:
                raise NoBound(reason(Unread.NOT_CONSTANT, name))
            number = float(counted.values.reshape(-1)[0])
            if number not in (norm.width, norm.width - norm.unbiased, 1 / norm.width):
                raise NoBound(reason(Unproved.ROWS_DIFFER, norm.width, number))


def _check_constants(
    norm: Norm,
    nodes: Sequence[NodeProto],
    read: Callable[[str], Array | None],
    found: Mapping[str, Any],
) -> None:
    """Refuse a norm of which the finder took a number for another one than its ops compute.

    It follows the graph from constants by itself, to epsilons, axes, counts and exponents; and a
    caller may give some of these constants another value.

    Args:
        norm: The norm.
        nodes: Its nodes.
        read: Gives what the finder takes a tensor for; None for no constant.
        found: What is known of tensors.

    Raises:
        NoBound: there is such a number.
    """
    own = {norm.input, norm.gamma, norm.beta, *norm.addends}
    own.update(name for node in nodes for name in node.output)
    for name in {name for node in nodes for name in node.input if name} - own:
        taken, known = read(name), found.get(name)
        if taken is None or not taken.size or known is None:
            continue
        if isinstance(known, Open):
            raise NoBound(known.reason)
        counted = settled(known) if isinstance(known, Constant | Sizes) else None
        if not isinstance(counted, Constant):
            raise NoBound(reason(Unread.NOT_CONSTANT, name))
        numbers = np.asarray(counted.values).reshape(-1).astype(np.float64)
        if not np.allclose(numbers, taken.reshape(-1).astype(np.float64), _CLOSE, 0.0):
            raise NoBound(reason(Unproved.READ_AS_ANOTHER, name))


def _check_types(norm: Norm, order: Order, found: Mapping[str, Any], device: Accelerator) -> None:
    """Refuse a norm that rounds on its way to a type which holds less than that of its input.

    A mean square that FP16 takes for 0, or a root that it rounds by half, makes rows of any length.
    A root may be rounded to 16 bits to divide products where that keeps it.

    Args:
        norm: The norm.
        order: The nodes of its graph.
        found: What is known of tensors.
        device: Whose rounding counts.

    Raises:
        NoBound: there is such a cast.
    """
    roots = order.roots_of(norm) if norm.deferred else set()
    for node in order.casts_of(norm):
        like = found.get(node.input[1]) if node.op_type == "CastLike" else None
        to = next((a.i for a in node.attribute if a.name == "to"), like.kind if like else 0)
        form = OF_16_BITS.get(to) if node.input[0] in roots else None
        if form is not None and keeps_root(norm, scale_to_come(norm), form, device):
            continue
        if to not in (norm.element_type, TensorProto.FLOAT, TensorProto.DOUBLE):
            raise NoBound(reason(Unproved.NO_RULE_FOR_TYPE, TensorProto.DataType.Name(to)))
