"""Called: the norms of a rewritten model by the names that they had before.

A norm whose node has no name is called as its output. Where the rewriting gives the node a name, or
an output of the model is cast to the type that it had, that would be another name, and what is
observed of the norm would be of none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from slanc_onnx.graph import graph_at, known_op
from slanc_onnx.norms.model import ReadModel
from slanc_onnx.norms.norm import Norm


def called_as(read: ReadModel, before: Sequence[Norm]) -> ReadModel:
    """A rewritten model whose norms have the names of those that they were.

    Args:
        read: The model.
        before: The norms of its original.
    """
    known, here = {norm.name for norm in before}, {norm.name for norm in read.norms}
    missing = [norm for norm in before if norm.name not in here]
    if not missing:
        return read
    found = []
    for norm in read.norms:
        tensors = () if norm.name in known else set(_tensors(read, norm))
        was = next((one for one in missing if {one.normalised, one.output} & {*tensors}), None)
        if was is not None:
            missing.remove(was)
        found.append(norm if was is None else replace(norm, name=was.name))
    return replace(read, norms=found)


def _tensors(read: ReadModel, norm: Norm) -> Iterator[str]:
    """What a norm gives, and what that is cast to."""
    made = {norm.normalised, norm.output}
    yield from made
    for node in graph_at(read.model, norm.path).node:
        if known_op(node) == "Cast" and node.input[0] in made:
            yield node.output[0]
