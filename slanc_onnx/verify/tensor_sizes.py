"""Tensor sizes: how large each tensor of a model is, held against the format that it must fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from slanc_onnx.graph import Flow, Tensor, read_flow, read_graph
from slanc_onnx.norms import ReadModel
from slanc_onnx.options import Options
from slanc_onnx.run import (
    CannotRun,
    Emitter,
    Feeds,
    as_float32,
    floats_outside_norms,
    norms_in_float32,
    session_of,
)
from slanc_onnx.verify.emulate import can_emulate, float_inputs, largest_finite
from slanc_onnx.verify.left import Left, all_left


@dataclass(frozen=True)
class TensorSize:
    """A tensor that a model is fed with or that an op computes, and its largest number of all runs.

    Attributes:
        tensor: Its name.
        node: The name of the node that makes it; "" where it has none.
        op: The type of that node; the form of a norm, whose inner tensors are not among these;
            "input" for one that is fed.
        largest: The largest finite |x| in FP32; where a sum inside the op left the format, that.
        limit: The largest number of the format.
        left: Whether an element, or a sum inside the op, left the format where all is rounded.
    """

    tensor: str
    node: str
    op: str
    largest: float
    limit: float
    left: bool

    @property
    def bits(self) -> float:
        """From the largest number to the limit; below 0 where it is larger."""
        return math.log2(self.limit / self.largest) if self.largest > 0 else math.inf


def tensor_sizes(
    read: ReadModel,
    options: Options,
    feeds: Sequence[Feeds],
    known: Sequence[Left] | None = None,
) -> tuple[TensorSize, ...]:
    """Each tensor of floats that depends on the inputs, these first, in the order of the model.

    Those inside norms and loops are passed over. Nothing is told where the norms alone are
    emulated, and where ONNX Runtime does not run a model that shows so much.

    Args:
        read: The rewritten model.
        options: The accelerator.
        feeds: Inputs by name, one dict per run.
        known: What leaves the format, where that was looked for already.
    """
    if not options.everything:
        return ()
    model = as_float32(read.model, read.folder)
    flow = read_flow(read_graph(model))
    norms = list(filter(can_emulate, norms_in_float32(read.norms)))
    emitter = Emitter(model)
    shown: dict[Tensor, str] = {}
    emitter.place((), -1)
    for name in float_inputs(model):
        shown[Tensor((), name)] = largest_finite(emitter, name)
    for name in float_inputs(model, TensorProto.DOUBLE):
        shown[Tensor((), name)] = largest_finite(emitter, emitter.from_double(name))
    for path, index, name, wide in floats_outside_norms(flow, norms):
        if emitter.can_show(path, loops=False):
            emitter.place(path, index)
            size = largest_finite(emitter, emitter.from_double(name) if wide else name)
            shown[Tensor(path, name)] = emitter.shown(path, size)
    emitter.finish(list(shown.values()))
    try:
        largest = _largest(emitter.model, shown, read, feeds)
        left: dict[str, float] = {}
    except CannotRun:
        return ()
    found = all_left(read, options, feeds) if known is None else known
    if found is None:
        return ()
    for one in found:
        left[one.tensor] = max(left.get(one.tensor, 0.0), one.value)
    forms = {(norm.path, norm.output): norm.form for norm in norms}
    limit = options.accelerator.largest
    return tuple(
        _size(flow, tensor, forms.get(tensor, ""), value, limit, left)
        for tensor, value in largest.items()
    )


def _size(
    flow: Flow,
    tensor: Tensor,
    form: str,
    largest: float,
    limit: float,
    left: dict[str, float],
) -> TensorSize:
    made = tensor in flow.makers
    node = flow.node(*flow.makers[tensor][:2]) if made else onnx.NodeProto(op_type="input")
    beyond = left.get(tensor.name, 0.0)
    if math.isfinite(beyond):  # rows of a norm that are lost have no size here
        largest = max(largest, beyond)
    return TensorSize(
        tensor.name, node.name, form or node.op_type, largest, limit, tensor.name in left
    )


def _largest(
    model: onnx.ModelProto, shown: dict[Tensor, str], read: ReadModel, feeds: Sequence[Feeds]
) -> dict[Tensor, float]:
    session = session_of(model, read.folder)
    found = dict.fromkeys(shown, 0.0)
    for feed in feeds:
        values = session.run(feed)
        for tensor, output in shown.items():
            found[tensor] = max(found[tensor], float(np.max(values[output], initial=0.0)))
    return found
