"""Assumed: the norms that inputs reach of whose values nobody says anything."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slanc_onnx.estimate import Estimate
from slanc_onnx.feed import UNIT, Feed
from slanc_onnx.graph import Flow, Scope, Tensor, Use, read_flow
from slanc_onnx.norms import Norm, ReadModel
from slanc_onnx.run import TRIED, Said, tried


@dataclass(frozen=True)
class Assumption:
    """What is assumed of a graph input of whose values nobody says anything.

    Attributes:
        input: Its name.
        feeds: What its values were made of; of several sizes where a scale serves them all.
    """

    input: str
    feeds: tuple[Feed, ...]


def assumptions(
    read: ReadModel, said: Said, estimates: Mapping[str, Estimate | None]
) -> dict[str, tuple[Assumption, ...]]:
    """What is assumed of the inputs behind each norm, by norm name.

    Args:
        read: The model.
        said: What the user says of its inputs.
        estimates: Of the norms, by name, as their scales were placed by them.
    """
    specs = {spec.name: spec for spec in read.specs if said.leaves_open(spec)}
    several = {spec.name for spec in tried(read.specs, said)}
    found = {}
    for name, inputs in reached_by(list(specs), read.norms, read.scopes).items():
        estimate = estimates.get(name)
        if estimate is not None:
            feeds = TRIED if estimate.any_size else (UNIT,)
            found[name] = tuple(
                Assumption(one, feeds if one in several else (UNIT,)) for one in inputs
            )
    return found


def reached_by(
    inputs: Sequence[str], norms: Sequence[Norm], scopes: Sequence[Scope]
) -> dict[str, tuple[str, ...]]:
    """The inputs among these that each norm's input is computed from, by norm name.

    Args:
        inputs: Names of graph inputs.
        norms: The norms.
        scopes: The graphs of the model.
    """
    if not inputs:
        return {}
    flow = read_flow(scopes)
    reach: dict[Tensor, int] = defaultdict(int)  # one bit per input
    for bit, name in enumerate(inputs):
        reach[Tensor((), name)] = 1 << bit
    while _spread(flow, reach):
        pass
    found = {}
    for norm in norms:
        bits = reach[flow.tensor(norm.path, norm.input)]
        found[norm.name] = tuple(name for bit, name in enumerate(inputs) if bits >> bit & 1)
    return found


def _spread(flow: Flow, reach: dict[Tensor, int]) -> bool:
    """One pass over all nodes; whether it reached more. Graphs inside need a second one."""
    changed = False
    inside: dict[tuple[object, int], int] = defaultdict(int)  # by the node that holds a graph
    for path, scope in flow.scopes.items():
        if path:
            holder = path[:-1], path[-1][0]
            for info in scope.proto.output:
                inside[holder] |= reach[flow.tensor(path, info.name)]
    for path, index in flow.order:
        node = flow.node(path, index)
        reads = (flow.read(Use(path, index, p)) for p in range(len(node.input)))
        bits = inside[path, index]
        for tensor in reads:
            bits |= 0 if tensor is None else reach[tensor]
        made = [Tensor(path, name) for name in node.output if name]
        for inner, scope in flow.scopes.items() if (path, index) in inside else ():
            if inner and (inner[:-1], inner[-1][0]) == (path, index):
                made += [Tensor(inner, info.name) for info in scope.proto.input]
        for tensor in made:
            changed |= bits | reach[tensor] != reach[tensor]
            reach[tensor] |= bits
    return changed
