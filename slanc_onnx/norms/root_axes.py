"""Over which axes the ops of a norm add up."""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from slanc_onnx.graph import MOST_AXES, Scope, constant_made, dims, op_of
from slanc_onnx.norms.averages import PRODUCTS
from slanc_onnx.norms.constants import rank_of, small_value
from slanc_onnx.norms.row_axes import RowAxes, row_axes

_FAR = 8  # nodes


@dataclass(frozen=True)
class Axes:
    """Axes as the file has them, of a tensor of some rank."""

    axes: frozenset[int]
    rank: int | None

    def and_then(self, other: Axes) -> Axes | None:
        """The axes of a sum over these and of a sum of its output; None where that is not told."""
        if self.rank == other.rank:
            return Axes(self.axes | other.axes, self.rank)
        if self.rank is None or other.rank != self.rank - len(self.axes):
            return None
        left = [axis for axis in range(self.rank) if axis not in self.axes]
        return Axes(self.axes | {left[axis] for axis in other.axes}, self.rank)

    @property
    def rows(self) -> RowAxes | None:
        """The rows that lie along them; None where only a rank that is not known could tell."""
        return row_axes(sorted(self.axes), self.rank) if self.axes else None


def axes_of(scope: Scope, node: gs.Node) -> Axes | None:
    """The axes of a node that adds up, of its input; None where they are not known."""
    op = op_of(node)
    source = next((t for t in node.inputs if not constant_made(scope, t)), node.inputs[0])
    rank = rank_of(scope, source)
    if op == "Einsum":
        return _of_einsum(scope, node, rank)
    if op in PRODUCTS:
        return _of_product(scope, node)
    if op == "Conv":
        kernel = dims(scope, node.inputs[1])
        single = kernel is not None and set(kernel[2:]) == {1} and node.attrs.get("group", 1) == 1
        return Axes(frozenset([1]), rank) if single else None
    if op in ("GlobalAveragePool", "AveragePool"):
        if rank is None or op != "GlobalAveragePool":
            return _of_window(scope, node, source)
        return Axes(frozenset(range(2, rank)), rank)
    if op in ("Add", "Sum"):
        return _of_parts(scope, node)
    if op == "BatchNormalization":
        return None if rank is None else Axes(frozenset(range(rank)) - {1}, rank)
    found = node.attrs.get("axes")
    if op == "LpNormalization":
        found = [node.attrs.get("axis", -1)]
    if op == "MeanVarianceNormalization" and found is None:
        found = [0, 2, 3]
    if found is None and len(node.inputs) > 1 and node.inputs[1].name:
        value = small_value(scope, node.inputs[1])
        if value is None:
            return None
        found = [int(v) for v in value.reshape(-1)]
    if not found:
        whole = rank is not None and not node.attrs.get("noop_with_empty_axes", 0)
        return Axes(frozenset(range(rank or 0)), rank) if whole else None
    most = MOST_AXES if rank is None else rank  # a scalar has none
    if not all(-most <= axis < most for axis in found):
        return None
    if rank is not None:
        found = [int(axis) % rank for axis in found]
    return Axes(frozenset(int(axis) for axis in found), rank)


def _of_window(scope: Scope, node: gs.Node, source: gs.Tensor) -> Axes | None:
    """The axes of which one window of a pooling holds all; None where there are several."""
    shape, window = dims(scope, source), tuple(node.attrs.get("kernel_shape", ()))
    if shape is None or len(window) != len(shape) - 2 or any(node.attrs.get("pads", ())):
        return None
    if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    pairs = list(enumerate(zip(shape[2:], window, strict=True), 2))
    if any(size not in (1, held) for _, (held, size) in pairs):
        return None
    return Axes(frozenset(axis for axis, (_, size) in pairs if size != 1), len(shape))


def _of_parts(scope: Scope, node: gs.Node) -> Axes | None:
    """The axis along which a tensor was cut, whose parts were squared and are added up here."""
    for _ in range(_FAR):
        op = op_of(node)
        source = node.inputs[0]
        axis = node.attrs.get("axis", 0)
        if op == "Slice" and len(node.inputs) > 3:
            value = small_value(scope, node.inputs[3])
            axis = int(value[0]) if value is not None and value.size == 1 else None
        if op in ("Split", "Gather", "Slice"):
            rank = rank_of(scope, source)
            fits = axis is not None and rank is not None and -rank <= axis < rank
            return Axes(frozenset([axis % rank]), rank) if fits else None
        if not source.inputs:
            return None
        node = source.inputs[0]
    return None


def _of_einsum(scope: Scope, node: gs.Node, rank: int | None) -> Axes | None:
    """The axes over which an Einsum adds up a tensor, or its products with itself."""
    terms = einsum_terms(scope, node)
    if terms is None or len(set(terms[0])) != 1:
        return None
    letters = terms[0][0].replace("...", "")  # which stands in front
    dots = terms[0][0].removesuffix(letters)
    kept = "".join(letter for letter in letters if letter in terms[1])
    if len(set(letters)) != len(letters) or terms[1] != dots + kept:
        return None
    axes = [axis - len(letters) for axis, letter in enumerate(letters) if letter not in kept]
    rank = rank if dots else len(letters)
    return Axes(frozenset(axis % rank if rank else axis for axis in axes), rank)


def einsum_terms(scope: Scope, node: gs.Node) -> tuple[list[str], str] | None:
    """The terms of an Einsum's inputs that are no constants, and that of its output."""
    equation = str(node.attrs.get("equation", "")).replace(" ", "")
    if not re.fullmatch(r"(\.\.\.)?[a-zA-Z]*(,(\.\.\.)?[a-zA-Z]*)*->(\.\.\.)?[a-zA-Z]*", equation):
        return None
    left, right = equation.split("->")
    terms = left.split(",")
    if len(terms) != len(node.inputs):
        return None
    data = zip(terms, node.inputs, strict=True)
    return [term for term, tensor in data if not constant_made(scope, tensor)], right


def _of_product(scope: Scope, node: gs.Node) -> Axes | None:
    """The axis of a row times itself as a column, or times a constant matrix."""
    constants = [constant_made(scope, t) for t in node.inputs[:2]]
    turned = [bool(node.attrs.get(name, 0)) for name in ("transA", "transB")]
    if True in constants:
        matrix, other = node.inputs[:2] if constants[0] else node.inputs[1::-1]
        shape, rank = dims(scope, matrix), rank_of(scope, other)
        last = constants[1] != turned[constants[0]]
        if shape is None or len(shape) != 2 or (rank is None and not last):
            return None
        return Axes(frozenset([-1 if last else (rank or 0) - 2]), None if last else rank)
    x = rows_by_themselves(scope, node)
    if x is None:  # all products of rows with each other, the last axis of the left ones
        inner = -2 if turned[0] else -1
        rank = rank_of(scope, node.inputs[0])
        return None if rank is None else Axes(frozenset([rank + inner]), rank)
    rank = rank_of(scope, x)
    return Axes(frozenset([-1 if rank is None else rank - 1]), rank)


def rows_by_themselves(scope: Scope, node: gs.Node) -> gs.Tensor | None:
    """The tensor of which a product takes each row with itself as a column; None for none."""
    left, right = node.inputs[:2]
    x, sizes = _reshaped(scope, left), dims(scope, left)
    if left is right and sizes is not None:
        turned = bool(node.attrs.get("transB", 0)) and not node.attrs.get("transA", 0)
        one_row = turned and len(sizes) > 1 and sizes[-2] == 1
        whole = dims(scope, x)
        return x if (one_row or len(sizes) == 1) and whole and whole[-1] == sizes[-1] else None
    inserted = [_inserted(scope, t) for t in (left, right)]
    if None not in inserted and left.inputs[0].inputs[0] is right.inputs[0].inputs[0]:
        x = left.inputs[0].inputs[0]
        rank = rank_of(scope, x)
        counted = [a if rank is None else (a or 0) % (rank + 1) for a in inserted]
        if counted == ([-2, -1] if rank is None else [rank - 1, rank]):
            return x
    shapes = [dims(scope, t) for t in (left, right)]
    columns = right.inputs[0] if right.inputs else None
    if columns is not None and op_of(columns) == "Transpose":  # of rows that lie one by one
        perm, before = list(columns.attrs.get("perm", [])), dims(scope, columns.inputs[0])
        last = len(perm) - 1
        swapped = last > 0 and perm == [*range(last - 1), last, last - 1]
        if not swapped or before is None or len(before) != len(perm) or before[-2] != 1:
            return None
        right = columns.inputs[0]
    x = _reshaped(scope, left)
    sizes = dims(scope, x)
    if x is not _reshaped(scope, right) or not sizes or None in shapes:
        return None
    row, column = shapes
    assert row is not None and column is not None
    same = row[:-2] == column[:-2] and row[-2:] == (1, sizes[-1]) and column[-2:] == (sizes[-1], 1)
    return x if same else None


def _reshaped(scope: Scope, tensor: gs.Tensor) -> gs.Tensor:
    """The tensor behind changes of shape that leave all elements in their order."""
    while tensor.inputs and tensor.inputs[0].inputs:
        op, before = op_of(tensor.inputs[0]), tensor.inputs[0].inputs[0]
        same = op == "Expand" and dims(scope, before) == dims(scope, tensor)
        if not same and op not in ("Reshape", "Unsqueeze", "Squeeze"):
            break
        tensor = before
    return tensor


def _inserted(scope: Scope, tensor: gs.Tensor) -> int | None:
    """The one axis that an Unsqueeze inserts, as the file has it; None for any other op."""
    if not tensor.inputs or op_of(tensor.inputs[0]) != "Unsqueeze":
        return None
    node = tensor.inputs[0]
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1:
        axes = small_value(scope, node.inputs[1])
    return int(axes[0]) if axes is not None and len(axes) == 1 else None
