"""Scale norms by nodes: a Div before each norm, and epsilon divided to match.

Nothing else of the model changes: weights, names, metadata and the order of nodes stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx
from onnx import AttributeProto, helper

from slanc_onnx.graph import Edits, NewNode, NodeAt, apply_edits, node_at, unused_name
from slanc_onnx.norms import (
    NORM_KEY,
    SCALE_KEY,
    TARGET_KEY,
    Limit,
    Norm,
    Place,
    residual_name,
    rounded,
    scaled_epsilon,
)
from slanc_onnx.ops import ATTRIBUTES, EPSILON

EXACT: Mapping[int, float] = MappingProxyType({})  # no epsilon is raised


def apply_scales_in(
    model: onnx.ModelProto,
    norms: Sequence[Norm],
    scales: Mapping[str, float],
    target: str = "",
    least_epsilon: Mapping[int, float] = EXACT,
) -> bool:
    """Scale norms in place.

    Args:
        model: The model in which `norms` were found, unchanged since.
        norms: Its norms.
        scales: The scale by norm name. Norms that are not named stay as they are, and so do those
            with a `skip_reason`.
        target: For which accelerator, as it is noted beside each scale; "" for no note.
        least_epsilon: What a divided epsilon is raised to at least, so that a device keeps it, by
            the power of the scale that divides it.

    Returns:
        Whether the model was modified.
    """
    edits = plan_edits(model, norms, scales, target, least_epsilon)
    apply_edits(model, edits)
    return bool(edits)


def note_target(edits: Edits, target: str) -> None:
    """Note beside each scale for which accelerator it is; "" for no note."""
    for metadata in (*edits.stamps.values(), *(node.metadata for node in edits.nodes)):
        if target and SCALE_KEY in metadata:
            metadata[TARGET_KEY] = target


def plan_edits(
    model: onnx.ModelProto,
    norms: Sequence[Norm],
    scales: Mapping[str, float],
    target: str = "",
    least_epsilon: Mapping[int, float] = EXACT,
) -> Edits:
    """The edits that `apply_scales_in` carries out; the model is not changed."""
    planner = Planner(model, least_epsilon)
    for norm in norms:
        if norm.name in scales and norm.skip_reason is None and norm.places:
            planner.scale(norm, scales[norm.name])
    note_target(planner.edits, target)
    return planner.edits


class Planner:
    """Collects the edits of a model, with unused names and one constant per value and type."""

    def __init__(self, model: onnx.ModelProto, least_epsilon: Mapping[int, float] = EXACT) -> None:
        self.edits = Edits()
        self._least = least_epsilon
        self._model = model
        self._used = set(_names_in(model.graph))
        self._made: dict[tuple[tuple[float, ...], tuple[int, ...], int], str] = {}

    def scale(self, norm: Norm, scale: float) -> None:
        """Plan a Div before each read of the input, and epsilon divided to match.

        The scale 1 leaves only a note, which tells the next run that it was decided.
        """
        if scale == 1.0:
            at = NodeAt(norm.path, norm.nodes[-1])
            self.edits.stamps[at] = {SCALE_KEY: repr(scale), NORM_KEY: norm.name}
            return
        first: dict[str, Place] = {}
        reads: dict[Place, str] = {}
        for place in sorted(norm.places):
            reads[place] = node_at(self._model, NodeAt(norm.path, place.node)).input[place.position]
            first.setdefault(reads[place], place)
        scaled = {tensor: self.unused(f"{tensor}/slanc") for tensor in first}
        for place in norm.places:
            self.edits.inputs[NodeAt(norm.path, place.node), place.position] = scaled[reads[place]]
        for tensor, place in first.items():
            divisor = self.scalar("scale", scale, place.element_type)
            self._insert(place.node, "Div", (tensor, divisor), scaled[tensor], norm, scale)
        self.epsilon(norm, scale)
        self._residual(norm, scale)

    def epsilon(self, norm: Norm, scale: float) -> None:
        """Plan epsilon divided to match the scale, and the other constants that go with it."""
        for limit in norm.limits:
            self._divided(norm, limit, scale)
        epsilon = scaled_epsilon(norm, scale)
        if epsilon is None or (norm.form == "decomposed" and norm.epsilon_place is None):
            return  # it has none
        if norm.epsilon_place is None:
            at = NodeAt(norm.path, norm.nodes[-1])
            kept = rounded(self._kept(norm, epsilon), np.dtype(np.float32))
            self.edits.attributes[at, ATTRIBUTES[EPSILON]] = float(kept)
            return
        known = norm.epsilon if norm.overridable_epsilon is None else None
        values = None if known is None else (self._kept(norm, epsilon) * scale**norm.epsilon_power,)
        self._divided(norm, Limit(norm.epsilon_place, norm.epsilon_power, values), scale)

    def _kept(self, norm: Norm, epsilon: float) -> float:
        return max(epsilon, self._least.get(norm.epsilon_power, 0.0)) if epsilon > 0 else epsilon

    def _divided(self, norm: Norm, limit: Limit, scale: float) -> None:
        """Plan a constant divided by a power of the scale.

        It is divided when the model runs where its values are not known, where a caller may
        override it, and where another norm has it divided too.
        """
        (index, position, element_type), divisor_value = limit.place, scale**limit.power
        at = NodeAt(norm.path, index)
        if position in ATTRIBUTES:
            (value,), key = limit.values or (0.0,), (at, ATTRIBUTES[position])
            self.edits.attributes[key] = self.edits.attributes.get(key, value) / divisor_value
            return
        before = self.edits.inputs.get((at, position))
        if limit.values is not None and before is None:
            values = tuple(value / divisor_value for value in limit.values)
            constant = self.constant("epsilon", values, limit.shape, element_type)
            self.edits.inputs[at, position] = constant
            return
        tensor = before or node_at(self._model, at).input[position]
        divisor = self.scalar("scale", divisor_value, element_type)
        divided = self.unused(f"{tensor}/slanc")
        self.edits.inputs[at, position] = divided
        self._insert(index, "Div", (tensor, divisor), divided, norm, scale)

    def _residual(self, norm: Norm, scale: float) -> None:
        """Plan a Mul so that the sum that a Skip op gives out keeps its name and value."""
        at = NodeAt(norm.path, norm.nodes[-1])
        residual = residual_name(node_at(self._model, at), norm)
        if residual and norm.residual is not None:
            inner = self.unused(f"{residual}/slanc")
            factor = self.scalar("scale", scale, norm.element_type)
            self.edits.outputs[at, norm.residual] = inner
            self._insert(at.node + 1, "Mul", (inner, factor), residual, norm, scale)

    def _insert(
        self, before: int, op: str, inputs: tuple[str, str], output: str, norm: Norm, scale: float
    ) -> None:
        name = self.unused(f"{norm.name}/slanc_{op}")
        metadata = {SCALE_KEY: repr(scale), NORM_KEY: norm.name}
        at = NodeAt(norm.path, before)
        self.edits.nodes.append(NewNode(at, op, inputs, output, name, metadata))

    def unused(self, wanted: str) -> str:
        """A name that is new in the model: the wanted one, or one that begins with it."""
        return unused_name(wanted, self._used)

    def scalar(self, what: str, value: float, element_type: int) -> str:
        """The name of the initializer with a value; there is one per value and element type."""
        return self.constant(what, (value,), (), element_type)

    def constant(
        self, what: str, values: tuple[float, ...], shape: tuple[int, ...], element_type: int
    ) -> str:
        """The name of the initializer with values of a shape; there is one for the same."""
        key = (values, shape, element_type)
        if key not in self._made:
            name = self._made[key] = self.unused(f"slanc.{what}_{values[0]:g}")
            dtype = helper.tensor_dtype_to_np_dtype(element_type)
            elements = [rounded(value, dtype) for value in values]
            self.edits.constants[name] = np.array(elements, dtype).reshape(shape)
        return self._made[key]


def _names_in(graph: onnx.GraphProto) -> Iterator[str]:
    for info in (*graph.input, *graph.initializer):
        yield info.name
    for node in graph.node:
        yield node.name
        yield from node.output
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _names_in(attribute.g)
