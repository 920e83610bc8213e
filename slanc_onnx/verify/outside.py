"""Outside: what is beyond the format outside of norms, where norms alone are rounded.

The run of the rewritten model in FP32 shows how large each tensor becomes that an op computes: that
is a pass over it, and no run more. A mask's lowest number is no such tensor, as converters make it
the format's lowest, which serves as well: what is made of large constants and inputs element by
element is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from slanc_onnx.accelerator import Format
from slanc_onnx.graph import FLOATS, Flow, Tensor, Use, read_flow, read_graph, read_tensor
from slanc_onnx.norms import Norm, ReadModel
from slanc_onnx.ops import BETWEEN, ELEMENTWISE, EVERY
from slanc_onnx.run import Emitter, Feeds, floats_outside_norms
from slanc_onnx.verify.emulate import MOVES, Watched
from slanc_onnx.verify.left import Left

LARGE = 4096.0  # of what masks are made: 16 of them together leave FP16
_MOST = 1 << 22  # elements of a constant that is read: masks are smaller, tables may be larger
_BY_ELEMENT = {"Add", "Sub", "Mul", "Div", "Pow", "Sum", "Mean", "Cast", "CastLike"}
_WITHIN_ONE = {"Softmax", "LogSoftmax"} | {
    op for op, one in ELEMENTWISE.items() if not one.attributes and max(map(abs, one.range())) <= 1
}


def beyond_outside(found: Sequence[Left], form: Format) -> list[Left]:
    """Those of the tensors that were shown that a format does not hold."""
    return [one for one in found if np.isfinite(one.value) and not form.holds(one.value)]


def show_outside(
    emitter: Emitter, read: ReadModel, norms: Sequence[Norm], sets: Sequence[Sequence[Feeds]]
) -> list[Watched]:
    """Let a model show the largest |x| of each tensor that an op of its main graph computes.

    Args:
        emitter: It holds the model in FP32, as it was read; it takes the nodes.
        read: The model, with the folder of its data.
        norms: Its norms in FP32; what lies inside them is passed over.
        sets: The inputs that it is run on.

    Returns:
        What is watched, in the model's order.
    """
    flow = read_flow(read_graph(emitter.model))
    passed_over = _large(flow, read, sets)
    passed_over |= {Tensor(norm.path, norm.output) for norm in norms}
    watched = []
    for path, index, name, wide in floats_outside_norms(flow, norms):
        op = flow.node(path, index).op_type
        small = op in MOVES or op in _WITHIN_ONE or Tensor(path, name) in passed_over
        if path or wide or small:
            continue
        emitter.place(path, index)
        watched.append(Watched(name, op, _largest(emitter, name)))
    return watched


def makes_masks(read: ReadModel, feeds: Sequence[Feeds], name: str) -> bool:
    """Whether a tensor of the main graph is made of large constants and inputs, as masks are."""
    flow = read_flow(read_graph(read.model))
    return Tensor((), name) in _large(flow, read, [feeds])


def _largest(emitter: Emitter, x: str) -> str:
    """The largest |x|, [1]; 0 where there are no elements, not finite where one is not."""
    flat = emitter.node("Reshape", x, emitter.integers(-1))
    zero = emitter.constant(np.zeros(1, np.float32))
    flat = emitter.node("Concat", flat, zero, axis=0)
    below = emitter.node("Neg", emitter.smallest(flat))
    return emitter.node("Max", emitter.largest(flat), below)


def _large(flow: Flow, read: ReadModel, sets: Sequence[Sequence[Feeds]]) -> set[Tensor]:
    """What is made of large constants and inputs, element by element or moved."""
    found = {
        Tensor((), name)
        for feeds in sets
        for feed in feeds
        for name, values in feed.items()
        if _is_large(np.asarray(values))
    }
    found |= {tensor for tensor, data in _constants(flow) if _is_large_constant(data, read)}
    for path, index in flow.order:
        node = flow.node(path, index)
        if node.op_type not in MOVES and node.op_type not in _BY_ELEMENT:
            continue
        places = (p for p in range(len(node.input)) if _passes_values(node.op_type, p))
        if any(flow.read(Use(path, index, p)) in found for p in places):
            found.update(Tensor(path, name) for name in node.output)
    return found


def _passes_values(op: str, position: int) -> bool:
    """Whether numbers of an input come out of an op, as those of indices and divisors do not."""
    if op == "Div":
        return position == 0
    record = BETWEEN.get(op)
    joins = (record.joins or (0,)) if record is not None else EVERY
    return joins == EVERY or position in joins


def _constants(flow: Flow) -> Iterator[tuple[Tensor, onnx.TensorProto]]:
    """Initializers, and the tensors in nodes by the names of what these make."""
    yield from flow.data.items()
    for path, index in flow.order:
        node = flow.node(path, index)
        for attribute in node.attribute:
            if attribute.HasField("t") and node.output:
                yield Tensor(path, node.output[0]), attribute.t


def _is_large_constant(data: onnx.TensorProto, read: ReadModel) -> bool:
    floats = data.data_type in FLOATS or data.data_type == TensorProto.DOUBLE
    small = np.prod(data.dims, dtype=float) <= _MOST
    return floats and small and _is_large(read_tensor(data, read.folder))


def _is_large(values: np.typing.NDArray[np.generic]) -> bool:
    """Whether a number is large or infinite."""
    if values.dtype.kind not in "fiuV" or not values.size:
        return False
    return bool(max(values.max(), -float(values.min())) >= LARGE)
