"""Gamma and beta behind a normalised value, and how many elements a row has."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from slanc_onnx.graph import SEE_THROUGH, Scope, constant_made, dims, element_count, last_dim, op_of
from slanc_onnx.norms.row_axes import RowAxes


def next_constant(
    scope: Scope, tensor: gs.Tensor, op: str, axes: RowAxes
) -> tuple[gs.Tensor, gs.Tensor | None]:
    """Follow the only reader through casts to an `op` whose other operand is a constant row.

    Returns:
        What that makes, and the constant; the tensor itself and None where there is none.
    """
    end, node = tensor, _only_reader(tensor)
    while node is not None and op_of(node) in SEE_THROUGH:
        end = node.outputs[0]
        node = _only_reader(end)
    if node is None or op_of(node) != op:
        return tensor, None
    other = node.inputs[1] if node.inputs[0] is end else node.inputs[0]
    sizes = dims(scope, other) or (0,)
    size = sizes[-1] if axes.last_axis else element_count(sizes)
    if isinstance(size, int) and size > 1 and constant_made(scope, other):
        return node.outputs[0], other
    return tensor, None


def _only_reader(tensor: gs.Tensor) -> gs.Node | None:
    """The one node that reads a tensor and gives something; None where that is no single one."""
    readers = tensor.outputs
    return readers[0] if len(readers) == 1 and readers[0].outputs else None


def row_width(
    scope: Scope, source: gs.Tensor, gamma: gs.Tensor | None, axes: RowAxes | None
) -> int | None:
    """The number of elements of a row, where the input's shape tells it, or gamma."""
    if axes is None:
        return None
    known, shape = _along(scope, source, axes), None if gamma is None else dims(scope, gamma)
    if known is not None or gamma is None or not shape:
        return known
    if axes.last_axis:
        return last_dim(scope, gamma)
    across = axes.axes == (1,)
    if across and shape[-1] != 1:  # gamma lies along another axis
        return None
    whole = across or (len(shape) == axes.trailing and 1 not in shape)
    return element_count(shape) if whole else None


def _along(scope: Scope, source: gs.Tensor, axes: RowAxes) -> int | None:
    if axes.last_axis:
        return last_dim(scope, source)
    shape = source.shape or ()
    if axes.axes[0] >= len(shape) or -axes.axes[0] > len(shape):
        return None
    sizes = (shape[axis] for axis in axes.axes)
    return element_count(tuple(d if isinstance(d, int) and d >= 0 else str(d) for d in sizes))
