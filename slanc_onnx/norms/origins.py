"""Where a region may start: the tensor that is squared, or one that it is made of."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from slanc_onnx.graph import SEE_THROUGH, Scope, constant_made, op_of
from slanc_onnx.norms.averages import POOLS, averages, multiplies
from slanc_onnx.norms.constants import small_value
from slanc_onnx.ops import BETWEEN, MOVES

_MOST_STEPS, _MOST_TENSORS = 10, 24
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_SIGNLESS = {*SEE_THROUGH, *MOVES, "Abs", "Neg"}
_UNCHANGED = {*SEE_THROUGH, *MOVES, *_PAIR}
_SQUARES_BEHIND = {*_SIGNLESS, *_PAIR}
_SUMS = {"ReduceMean", "ReduceSum", *POOLS, "MatMul", "Conv", "Einsum"}
_ADDS = ("Add", "Sub", "Sum", "Relu", "Abs", "Max", "Min", "Clip", "Where")
_LINEAR = {*(op for op, record in BETWEEN.items() if record.joins), *_SUMS} | {
    "Neg",
    "Mul",
    "Div",
    *_PAIR,
}


def squared(scope: Scope, tensor: gs.Tensor) -> gs.Tensor | None:
    """The tensor of which this is the square, behind casts, movements and constant factors.

    It may be written as a product of two tensors that are linear in it, or as a sum of such.
    """
    for _ in range(_MOST_STEPS):
        tensor = _back(tensor, _SQUARES_BEHIND)
        if not tensor.inputs:
            return None
        node = tensor.inputs[0]
        op = op_of(node)
        if op == "Pow" and len(node.inputs) == 2:
            return node.inputs[0] if _is_squaring(scope, node) else None
        if op in _ADDS and node.inputs:
            parts = node.inputs[op == "Where" :]  # which of its values is no matter of its choice
            tensor = next((t for t in parts if not constant_made(scope, t)), parts[0])
            continue
        if op not in ("Mul", "Div") or len(node.inputs) != 2:
            return None
        if _is_squaring(scope, node):
            return node.inputs[0]
        factors = node.inputs if op == "Mul" else node.inputs[:1]
        others = [t for t in node.inputs if not constant_made(scope, t)]
        squares = [t for t in factors if _is_square(scope, t)]  # with a mask, or with weights
        if len(others) < 2 or squares:
            rest = [*squares, *(t for t in factors if t in others)]
            if not rest:
                return None
            tensor = rest[0]
            continue
        lines = (_line(scope, others[0]), _line(scope, others[1])) if op == "Mul" else ({}, {})
        return next((t for key, (t, _) in lines[0].items() if key in lines[1]), None)
    return None


def _is_square(scope: Scope, tensor: gs.Tensor) -> bool:
    maker = _back(tensor, _UNCHANGED).inputs
    return bool(maker) and id(maker[0]) in scope.index and _is_squaring(scope, maker[0])


def _is_squaring(scope: Scope, node: gs.Node) -> bool:
    """Whether a node multiplies a tensor with itself, or raises it to the power of 2."""
    if len(node.inputs) != 2:
        return False
    one, other = node.inputs
    if op_of(node) == "Pow":
        power = small_value(scope, other)
        return power is not None and power.size == 1 and float(power.reshape(-1)[0]) == 2
    return op_of(node) == "Mul" and _back(one, _UNCHANGED) is _back(other, _UNCHANGED)


def squared_parts(scope: Scope, node: gs.Node) -> gs.Tensor | None:
    """The tensor of whose parts a node adds up the squares, or the first of several tensors."""
    may = ("Mul", "Pow", "Add", "Sum")
    found = [squared(scope, t) for t in node.inputs if t.inputs and op_of(t.inputs[0]) in may]
    parts = [part for part in found if part is not None]
    if len(parts) < 2 or len(parts) != len(node.inputs) or parts[0] is parts[1]:
        return None
    wholes = [_back(part, _SIGNLESS) for part in parts]
    return wholes[0] if all(whole is wholes[0] for whole in wholes) else parts[0]


def origins(scope: Scope, tensor: gs.Tensor) -> Iterator[tuple[gs.Tensor, bool]]:
    """Tensors from which a region around a square may start, the nearest first.

    Each with whether it is the one of which a mean was subtracted; none is behind which a product
    lies that takes no mean, nor is one further up.
    """
    yield tensor, False
    means = True
    for _ in range(_MOST_STEPS):
        if not tensor.inputs or id(tensor.inputs[0]) not in scope.index:
            return
        node = tensor.inputs[0]
        op, inputs = op_of(node), node.inputs
        if op in _PAIR and inputs:
            tensor = inputs[0]
            if op == "QuantizeLinear":  # integers cannot be divided
                yield tensor, False
        elif op in _SIGNLESS and inputs:
            tensor = inputs[0]
            yield tensor, False
        elif op in ("Sub", "Add") and len(inputs) == 2:
            found = _with_its_sum(scope, *inputs)
            if found is None:
                return
            means = means and _only_means(scope, found, node.outputs[0])
            tensor = found
            yield tensor, means
        elif op in ("Mul", "Div") and len(inputs) == 2:
            rest = [t for t in inputs if not constant_made(scope, t)]
            if len(rest) != 1 or (op == "Div" and rest[0] is not inputs[0]):
                return
            tensor = rest[0]
            yield tensor, False
        else:
            return


def forks(scope: Scope, tensor: gs.Tensor) -> list[gs.Tensor]:
    """The tensors from which a region may start where the one before is made of several by data.

    That is a product with a mask, or a choice by one.
    """
    if not tensor.inputs or id(tensor.inputs[0]) not in scope.index:
        return []
    node = tensor.inputs[0]
    inputs = {"Mul": node.inputs, "Div": node.inputs[:1], "Where": node.inputs[1:]}
    parts = inputs.get(op_of(node), [])
    return [t for t in parts if t.name and not constant_made(scope, t)]


def between(scope: Scope, x: gs.Tensor, tensor: gs.Tensor) -> list[gs.Node]:
    """The nodes of a graph that make a tensor of x, in topological order."""
    found: dict[int, gs.Node] = {}
    depends: dict[int, bool] = {id(x): True}

    def follow(tensor: gs.Tensor, steps: int) -> bool:
        if id(tensor) in depends or not tensor.inputs or steps == 0:
            return depends.get(id(tensor), False)
        node = tensor.inputs[0]
        if id(node) not in scope.index:
            return False
        depends[id(tensor)] = any([follow(t, steps - 1) for t in node.inputs])
        if depends[id(tensor)]:
            found[id(node)] = node
        return depends[id(tensor)]

    follow(tensor, _MOST_STEPS)
    return list(found.values())


def _only_means(scope: Scope, x: gs.Tensor, tensor: gs.Tensor) -> bool:
    """Whether each product that makes a tensor of x takes a mean."""
    return all(averages(scope, n) for n in between(scope, x, tensor) if multiplies(n))


def _with_its_sum(scope: Scope, one: gs.Tensor, other: gs.Tensor) -> gs.Tensor | None:
    """The tensor that both are made of, one of them by adding up."""
    first, second = _line(scope, one), _line(scope, other)
    for key, (tensor, reduced) in first.items():
        integers = any(op_of(node) == "DequantizeLinear" for node in tensor.outputs)
        if key in second and not integers and (reduced or second[key][1]):
            return tensor
    return None


def _line(scope: Scope, tensor: gs.Tensor) -> dict[int, tuple[gs.Tensor, bool]]:
    """A tensor and those that it is linear in, each with whether something is added up between."""
    found: dict[int, tuple[gs.Tensor, bool]] = {}
    waiting = [(tensor, False)]
    while waiting and len(found) < _MOST_TENSORS:
        part, reduced = waiting.pop(0)
        if id(part) in found or constant_made(scope, part):
            continue
        found[id(part)] = part, reduced
        if not part.inputs or id(part.inputs[0]) not in scope.index:
            continue
        node = part.inputs[0]
        op = op_of(node)
        if op in _LINEAR:
            read = node.inputs[:1] if op in _PAIR else node.inputs
            waiting += [(t, reduced or op in _SUMS) for t in read if t.name]
    return found


def _back(tensor: gs.Tensor, through: set[str]) -> gs.Tensor:
    while tensor.inputs and op_of(tensor.inputs[0]) in through and tensor.inputs[0].inputs:
        tensor = tensor.inputs[0].inputs[0]
    return tensor
