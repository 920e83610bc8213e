"""Run a model in segments: one segment's weights in memory at a time, what later ones read carried.

A model is cut where the sums of squares of a norm's input are made, so that a segment is about a
block of the network, and never more than that where a block alone is large.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, helper

from slanc_onnx.graph import Array
from slanc_onnx.run.emit import read_by
from slanc_onnx.run.float32 import too_large_at_once
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.run.session import Feeds, Session

SEGMENT = 1 << 30  # bytes of weights in FP32 from which a segment is cut


@dataclass(frozen=True)
class Segment:
    """A run of nodes.

    Attributes:
        nodes: In an order in which they can be run.
        weights: The names of the initializers that they read.
        reads: What they read that earlier segments or the caller give.
        gives: What later segments or the caller read of them.
    """

    nodes: tuple[NodeProto, ...]
    weights: tuple[str, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]


class SegmentedSession:
    """As `Session`, but each run reads the weights again, segment by segment.

    Raises:
        CannotRun: from `run`, where ONNX Runtime does not take a segment.
    """

    def __init__(
        self, model: onnx.ModelProto, folder: Path | None, cuts: Sequence[str] | None
    ) -> None:
        """Plan the segments.

        Args:
            model: The model; it is not changed.
            folder: Where its external data lies.
            cuts: Tensors behind whose makers a segment may end, once it has `SEGMENT` bytes;
                None for all.
        """
        self._model, self._folder = model, folder
        self.outputs = [output.name for output in model.graph.output]
        self.segments = segments_of(model, cuts, SEGMENT)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """The outputs by name; see `Session.run`."""
        values = dict(feeds)
        for i, segment in enumerate(self.segments):
            later = {name for after in self.segments[i + 1 :] for name in after.reads}
            try:
                made = self._run(segment, values)
            except KeyError as error:  # a sequence, which cannot be carried
                raise CannotRun(f"{error} cannot be carried to the next segment") from error
            values.update(made)
            values = {n: v for n, v in values.items() if n in later or n in self.outputs}
        return {name: values[name] for name in self.outputs if name in values}

    def _run(self, segment: Segment, values: Feeds) -> dict[str, Array]:
        """Copies: what ONNX Runtime gives keeps the memory of its whole session."""
        session = Session(self._part(segment, values), self._folder)
        made = session.run({name: values[name] for name in segment.reads})
        return {name: value.copy() for name, value in made.items()}

    def _part(self, segment: Segment, values: Feeds) -> onnx.ModelProto:
        part = onnx.ModelProto(ir_version=self._model.ir_version)
        part.opset_import.extend(self._model.opset_import)
        part.functions.extend(self._model.functions)
        graph = part.graph
        graph.name = self._model.graph.name or "segment"
        graph.node.extend(segment.nodes)
        weights = {tensor.name: tensor for tensor in self._model.graph.initializer}
        graph.initializer.extend(weights[name] for name in segment.weights)
        declared = {info.name: info for info in self._model.graph.input}
        for name in segment.reads:
            if name in declared:
                graph.input.append(declared[name])
                continue
            kind = helper.np_dtype_to_tensor_dtype(np.asarray(values[name]).dtype)
            graph.input.append(helper.make_tensor_value_info(name, kind, None))
        for name in segment.gives:  # ONNX Runtime finds the types
            graph.output.add(name=name)
        return part


def session_of(
    model: onnx.ModelProto,
    folder: Path | None,
    cuts: Sequence[str] | None = None,
    *,
    packs: bool = False,
    in_order: bool = False,
    at_odd_bytes: bool = False,
) -> Session | SegmentedSession:
    """A session on a model as it is written, in segments where it is too large at once.

    Args:
        model: The model; it is not changed.
        folder: Where its external data lies.
        cuts: See `SegmentedSession`.
        packs: See `Session`.
        in_order: See `Session`.
        at_odd_bytes: See `Session`.

    Raises:
        CannotRun: ONNX Runtime's CPU provider does not take the model.
    """
    if too_large_at_once(model):
        return SegmentedSession(model, folder, cuts)
    return Session(model, folder, packs=packs, in_order=in_order, at_odd_bytes=at_odd_bytes)


def segments_of(model: onnx.ModelProto, cuts: Sequence[str] | None, limit: int) -> list[Segment]:
    """The main graph's nodes in segments; see `SegmentedSession`."""
    graph = model.graph
    sizes = {tensor.name: 4 * math.prod(tensor.dims) for tensor in graph.initializer}
    groups: list[list[NodeProto]] = [[]]
    here: set[str] = set()
    for node in _sorted(graph.node):
        groups[-1].append(node)
        here.update(name for name in read_by(node) if name in sizes)
        ends = cuts is None or not set(node.output).isdisjoint(cuts)
        if ends and sum(sizes[name] for name in here) >= limit:
            groups.append([])
            here = set()
    groups = [group for group in groups if group]
    reads = [{name for node in group for name in read_by(node) if name} for group in groups]
    made = [{name for node in group for name in node.output if name} for group in groups]
    every = set().union({info.name for info in graph.input}, *made)
    outputs = {output.name for output in graph.output}
    found = []
    for i, group in enumerate(groups):
        later = outputs.union(*reads[i + 1 :])
        found.append(
            Segment(
                tuple(group),
                tuple(sorted(name for name in reads[i] if name in sizes)),
                tuple(sorted(n for n in reads[i] if n in every and n not in made[i] | set(sizes))),
                tuple(sorted(made[i] & later)),
            )
        )
    return found


def _sorted(nodes: Iterable[NodeProto]) -> list[NodeProto]:
    """In the order of the file, but what stands behind its reader comes right before it."""
    nodes = list(nodes)
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    order: list[NodeProto] = []
    state = [0] * len(nodes)  # 1: waits for what it reads, 2: done
    for root in range(len(nodes)):
        stack = [root]
        while stack:
            i = stack[-1]
            before = [makers[n] for n in read_by(nodes[i]) if n in makers]
            waiting = [b for b in before if state[b] == 0]
            if state[i] == 0 and waiting:
                state[i] = 1
                stack.extend(reversed(waiting))
                continue
            stack.pop()
            if state[i] != 2:
                state[i] = 2
                order.append(nodes[i])
    return order
