"""Undo: take out the scales that norms have from a run for another target, or without its notes.

A Div by a power of two right before a norm, which nothing else reads, is a scale, with or without
the note that tools drop: what stands behind it is the norm of x / s with epsilon / s^2. Without
both the norm gives the same, bit by bit, and a scale for this target is placed as in the original.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto

from slanc_onnx.apply.div import Planner
from slanc_onnx.graph import (
    GraphPath,
    apply_edits,
    drop_own_constants,
    every_graph,
    every_node,
    graph_at,
    known_op,
    read_tensor,
)
from slanc_onnx.norms import (
    APPLIED_KEY,
    SCALE_KEY,
    TARGET_KEY,
    Norm,
    ReadModel,
    drop_notes,
    notes_of,
    read_model,
    residual_name,
)


def without_scales_of_others(read: ReadModel, target: str) -> tuple[ReadModel, list[str]]:
    """The model with the scales taken out that are not of this target.

    Args:
        read: The model; it is not changed.
        target: What scales of this target are stamped with.

    Returns:
        The model, with `loaded` as it was given, and the names of the norms that had such a scale.
        A norm whose scale cannot be taken out without rounding has it as its own.
    """
    found = [norm for norm in read.norms if _is_of_another(read.model, norm, target)]
    if not found:
        return read, []
    model = onnx.ModelProto()
    model.CopyFrom(read.model)
    reads, owned = _reads(model), _read_by_norms(model, found)
    constants = Counter(at for norm in found for at in _constants(norm))
    dead: dict[str, set[str]] = {}
    for norm in found:
        divs = [graph_at(model, norm.path).node[i].output[0] for i in norm.divisions]
        if all(reads[name] == owned[name] for name in divs):
            alone = all(constants[at] == 1 for at in _constants(norm))
            dead[norm.name] = _take_out(model, norm, read.folder) if alone else set()
    taken = [norm.name for norm in found if dead.get(norm.name)]
    if taken:
        _drop(model, {name for names in dead.values() for name in names} - {""})
        now = read_model(model, read.folder)
        read = replace(now, loaded=read.loaded, inlined=read.inlined, written_out=read.written_out)
    kept = {n.name: n.divisor for n in found if n.name in dead and n.name not in taken}
    norms = [
        replace(norm, scaled_by=kept[norm.name]) if norm.name in kept else norm
        for norm in read.norms
    ]
    return replace(read, norms=norms) if kept else read, taken


def _constants(norm: Norm) -> list[tuple[GraphPath, int, int]]:
    """Where a norm reads what is divided along; another may read it there too."""
    places = [limit.place for limit in norm.limits]
    places += [] if norm.epsilon_place is None else [norm.epsilon_place]
    return [(norm.path, place.node, place.position) for place in places]


def _is_of_another(model: onnx.ModelProto, norm: Norm, target: str) -> bool:
    """Whether a norm has a scale that is not of this target, and that can be taken out."""
    graph = graph_at(model, norm.path)
    noted = [notes for node in _stamped(graph, norm) if SCALE_KEY in (notes := notes_of(node))]
    if norm.scaled_by is not None:
        targets = {notes[TARGET_KEY] for notes in noted if TARGET_KEY in notes}
        return bool(targets) and targets != {target}
    if not norm.divisions or norm.skip_reason is not None:
        return False
    return not any(APPLIED_KEY in notes_of(graph.node[i]) for i in norm.divisions)


def _stamped(graph: onnx.GraphProto, norm: Norm) -> list[NodeProto]:
    return [graph.node[i] for i in (*norm.divisions, norm.nodes[-1])]


def _take_out(model: onnx.ModelProto, norm: Norm, folder: Path | None) -> set[str]:
    """Let a norm read what the Divs before it read, with its epsilon.

    The nodes stay where they are, so that the indices of other norms hold.

    Returns:
        What is not read any more; nothing where the scale has to stay.
    """
    graph = graph_at(model, norm.path)
    planner, divs = Planner(model), {graph.node[i].output[0]: i for i in norm.divisions}
    if norm.divisor is not None:
        if math.frexp(norm.divisor)[0] != 0.5:
            return set()  # taking it out would round
        planner.epsilon(norm, 1 / norm.divisor)
        possible, restored = _restored(graph, norm, model, folder)
        if planner.edits.nodes or not possible:
            return set()
        apply_edits(model, planner.edits)
        if restored is not None:
            node = graph.node[norm.nodes[-1]]
            node.output[norm.residual or 0] = restored.output[0]
            restored.output[0] = f"{restored.input[0]}/undone"
            divs[restored.output[0]] = 0
        for place in norm.places:
            node = graph.node[place.node]
            node.input[place.position] = graph.node[divs[node.input[place.position]]].input[0]
    for node in _stamped(graph, norm):
        drop_notes(node)
    return {*divs, ""}


def _reads(model: onnx.ModelProto) -> Counter[str]:
    """How often each tensor is read, by any graph; a name that two graphs have counts for both."""
    found = Counter(name for node in every_node(model.graph.node) for name in node.input)
    found.update(out.name for graph in every_graph(model.graph) for out in graph.output)
    return found


def _read_by_norms(model: onnx.ModelProto, norms: Sequence[Norm]) -> Counter[str]:
    """How often these norms read each tensor as their input."""
    return Counter(
        graph_at(model, norm.path).node[place.node].input[place.position]
        for norm in norms
        for place in norm.places
    )


def _restored(
    graph: onnx.GraphProto, norm: Norm, model: onnx.ModelProto, folder: Path | None
) -> tuple[bool, NodeProto | None]:
    """Whether the sum that a Skip op gives out can be as it was, and the Mul that restores it."""
    inner = residual_name(graph.node[norm.nodes[-1]], norm)
    reads = _reads(model)[inner] if inner else 0
    if not reads:
        return True, None
    muls = [n for n in graph.node if n.input[:1] == [inner] and known_op(n) == "Mul"]
    for mul in muls:
        factors = [t for t in model.graph.initializer if t.name == mul.input[1]]
        if reads == 1 and factors and np.all(read_tensor(factors[0], folder) == norm.divisor):
            return True, mul
    return False, None


def _drop(model: onnx.ModelProto, dead: set[str]) -> None:
    """Drop the nodes and constants of scales that nothing reads any more."""
    read = _reads(model)
    for graph in list(every_graph(model.graph)):
        for node in [n for n in graph.node if n.output[:1] and n.output[0] in dead]:
            if not read[node.output[0]]:
                graph.node.remove(node)
    drop_own_constants(model, [tensor.name for tensor in model.graph.initializer])
