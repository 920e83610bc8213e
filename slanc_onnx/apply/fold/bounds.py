"""Bounds: the exponents with which tensors fit the type to be written, by how large they were.

They are lower bounds where a tensor would leave the format, with bits to spare for data that
nobody has seen, and upper bounds where ordinary elements would become subnormal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from slanc_onnx.accelerator import FLOAT16, Format
from slanc_onnx.apply.fold.groups import Partition
from slanc_onnx.apply.fold.weights import Weights
from slanc_onnx.estimate import TensorRange
from slanc_onnx.graph import FLOATS, Array, Tensor, Use, known_op
from slanc_onnx.ops import JOINS
from slanc_onnx.reasons import Reason, Unraised

BEYOND = 1e30  # what is larger, or no number, only masks other values
SPARE = 2  # bits to overflow that are left
TYPICAL = 8  # a share 1 / TYPICAL of the mean |x| has to stay a normal number
_MOST_FILLS = 1 << 26  # elements of a constant that may fill a mask


@dataclass(frozen=True, eq=False)
class Bounds:
    """The bounds of the exponents of tensors.

    Attributes:
        form: The format to be written.
        ranges: How large tensors were; those that hold the fill value of a mask are left out.
        least: The least exponent with which a tensor fits with bits to spare; below 0 for one that
            could be larger.
        most: The greatest exponent with which its ordinary elements stay normal, and no less than
            `least`.
        stuck: Why no exponent helps a tensor, those with masks included: what makes or reads it
            takes it as it is.
    """

    form: Format = FLOAT16
    ranges: Mapping[Tensor, TensorRange] = field(default_factory=dict)
    least: Mapping[Tensor, int] = field(default_factory=dict)
    most: Mapping[Tensor, int] = field(default_factory=dict)
    stuck: Mapping[Tensor, Reason] = field(default_factory=dict)

    def raising(self, parts: Partition) -> dict[Tensor, int]:
        """The least exponents, above 0, of the tensors that would leave the format.

        Those of a group without norms are left out where one of them is stuck, or a mask is added
        to it: it would leave the format behind the node that multiplies it again.
        """
        held = {site.group for site in parts.sites}
        lost = {
            parts.of_output.get(tensor)
            for tensor in self.stuck
            if tensor not in self.ranges or self.least.get(tensor, 0) > 0
        }
        found: dict[Tensor, tuple[int, int]] = {}
        for tensor, exponent in self.least.items():
            group = parts.of_output.get(tensor)
            if exponent > 0 and group is not None and tensor not in self.stuck:
                found[tensor] = exponent, group
        return {t: k for t, (k, group) in found.items() if group in held or group not in lost}


NO_BOUNDS = Bounds()


def bounds_of(
    parts: Partition, weights: Weights, ranges: Mapping[Tensor, TensorRange], form: Format
) -> Bounds:
    """The bounds of a model's tensors.

    Args:
        parts: Its groups, of which only the relations and the norms count.
        weights: Its weights.
        ranges: How large its tensors were.
        form: The format to be written.
    """
    masks = _masks(parts, weights, form)
    kept = {t: found for t, found in ranges.items() if t not in masks and found.largest < BEYOND}
    limit = form.largest / 2**SPARE
    least = {t: math.ceil(math.log2(r.largest / limit)) for t, r in kept.items() if r.largest}
    normal = TYPICAL * form.smallest_normal
    most = {
        t: max(math.floor(math.log2(r.typical / normal)), least[t])
        for t, r in kept.items()
        if r.typical and t in least
    }
    return Bounds(form, kept, least, most, _stuck(parts, ranges))


def ends(parts: Partition, bounds: Mapping[Tensor, int], *, upper: bool) -> dict[int, int]:
    """The bound of each group: the least of its members' upper ones, or the greatest lower one."""
    found: dict[int, int] = {}
    for tensor, bound in bounds.items():
        group = parts.of_output.get(tensor)
        if group is not None:
            other = found.get(group, bound)
            found[group] = min(bound, other) if upper else max(bound, other)
    return found


def _stuck(parts: Partition, tensors: Iterable[Tensor]) -> dict[Tensor, Reason]:
    """Why no exponent helps a tensor, for those that none helps."""
    flow, found = parts.flow, dict[Tensor, Reason]()
    for tensor in tensors:
        others = [use for use in flow.uses.get(tensor, ()) if use not in parts.of_use]
        if tensor not in parts.of_output and not _is_residual(parts, tensor):
            path, index, _ = flow.makers[tensor]
            found[tensor] = Reason(Unraised.MADE_BY).at(*_named(parts, Use(path, index, 0)))
        elif others:
            found[tensor] = Reason(Unraised.READ_BY).at(*_named(parts, others[0]))
        elif tensor in flow.pinned:
            found[tensor] = Reason(Unraised.LEAVES_GRAPH)
    return found


def _is_residual(parts: Partition, tensor: Tensor) -> bool:
    return any(site.residual == tensor for site in parts.sites)


def _named(parts: Partition, use: Use) -> tuple[str, str]:
    node = parts.flow.node(use.path, use.node)
    return known_op(node) or node.op_type, node.output[0] if node.output else ""


def _masks(parts: Partition, weights: Weights, form: Format) -> set[Tensor]:
    """The tensors that hold the fill value of a mask, which becomes the largest one of the format.

    It is a constant of at most two numbers, one of them near the end of the format or beyond, and
    goes on through what joins tensors or multiplies them element by element.
    """
    flow, found = parts.flow, set[Tensor]()
    known: dict[Tensor, bool] = {}

    def filled(tensor: Tensor | None) -> bool:
        if tensor is None or tensor not in flow.data:
            return tensor in found
        if tensor not in known:
            known[tensor] = _fills(weights, tensor, form)
        return known[tensor]

    for path, index in flow.order:
        node, op = flow.node(path, index), flow.op(path, index)
        if op == "ConstantOfShape":
            filling = any(_beyond(onnx.numpy_helper.to_array(a.t), form) for a in node.attribute)
        else:
            read = (flow.read(Use(path, index, p)) for p in range(len(node.input)))
            filling = (op in JOINS or op == "Mul") and any(map(filled, read))
        if filling:
            found.update(Tensor(path, name) for name in node.output if name)
    return found


def _fills(weights: Weights, tensor: Tensor, form: Format) -> bool:
    """Whether a constant is of at most two numbers, one of which would fill a mask."""
    proto = weights.flow.data[tensor]
    if proto.data_type not in FLOATS or math.prod(proto.dims) > _MOST_FILLS:
        return False
    return _beyond(weights.read(tensor), form)


def _beyond(values: Array, form: Format) -> bool:
    if not values.size:
        return False
    least, most = values.min(), values.max()
    outside = max(abs(float(least)), abs(float(most))) > form.largest / 2**SPARE
    return outside and bool(np.all((values == least) | (values == most)))
