"""Floats: the tensors of floats that a run can tell of, which lie outside norms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from onnx import TensorProto

from slanc_onnx.graph import Flow, GraphPath, Tensor, Use
from slanc_onnx.norms import Norm


class Outside(NamedTuple):
    """A tensor of floats that depends on inputs and lies outside norms.

    Attributes:
        path: The graph that holds it.
        node: The index of the node that makes it.
        name: Its name.
        wide: Whether it is in FP64; it is in FP32 otherwise.
    """

    path: GraphPath
    node: int
    name: str
    wide: bool


def floats_outside_norms(flow: Flow, norms: Sequence[Norm]) -> Iterator[Outside]:
    """The FP32 and FP64 tensors that depend on inputs and lie outside norms."""
    inside = {
        (norm.path, index) for norm in norms if not norm.by_ops for index in nodes_of(flow, norm)
    }
    outputs = {(norm.path, norm.output) for norm in norms}
    for path, index in flow.order:
        for name in filter(None, flow.node(path, index).output):
            tensor = Tensor(path, name)
            if (path, index) in inside and tensor not in outputs:
                continue
            wide = is_float(flow, tensor, TensorProto.DOUBLE)
            if tensor not in flow.constants and (wide or is_float(flow, tensor)):
                yield Outside(path, index, name, wide)


def nodes_of(flow: Flow, norm: Norm) -> list[int]:
    """The nodes of a norm, those included that apply gamma and beta behind `Norm.nodes`."""
    normalised, found = Tensor(norm.path, norm.normalised), list(norm.nodes)
    waiting = [Tensor(norm.path, norm.output)]
    while waiting:
        tensor = waiting.pop()
        path, index, _ = flow.makers.get(tensor, (norm.path, -1, 0))
        if tensor == normalised or index < 0 or path != norm.path or index in found:
            continue
        found.append(index)
        read = (flow.read(Use(path, index, p)) for p in range(len(flow.node(path, index).input)))
        waiting += [t for t in read if t is not None and t not in flow.constants]
    return found


def is_float(flow: Flow, tensor: Tensor, kind: int = TensorProto.FLOAT) -> bool:
    """Whether a tensor is FP32, or of another type of floats.

    Where the file does not tell, the first output of an op may be.
    """
    path, index, position = flow.makers[tensor]
    if "Sequence" in flow.node(path, index).op_type:
        return False
    is_told = position == 0 or flow.types.get(tensor, 0) != 0
    return is_told and flow.element_type(tensor) == kind
