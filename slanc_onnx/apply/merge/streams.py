"""Streams: the tensors that have to be centred together so that no norm of them needs its mean.

Subtracting the mean over channels is linear: x (I - 11^T / d). What writes into a stream by a
product, an embedding or a bias is centred in its weights; then all sums of it are centred, and a
LayerNorm of them is an RMSNorm (Pre-RMSNorm, arXiv 2305.14858; SliceGPT, arXiv 2401.15024).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from slanc_onnx.apply.merge.channels import Channels
from slanc_onnx.apply.merge.readers import graph_outputs
from slanc_onnx.graph import FLOATS, GraphPath, Tensor, Use
from slanc_onnx.norms import Norm
from slanc_onnx.ops import FUSED
from slanc_onnx.reasons import Reason, Unmerged

_MOST = 100_000  # tensors of a stream
_FARTHEST = 8  # axes of a tensor


@dataclass
class Stream:
    """Tensors that are centred together.

    Attributes:
        width: The number of channels.
        axes: The tensors, each with the axis of its channels, from the end.
        weights: The stored weights among them.
        norms: The norms that read them.
        cuts: The tensors that nodes have to centre, as no weight can, with the reason.
        reason: Why they cannot be centred; None where they can.
    """

    width: int
    axes: dict[Tensor, int] = field(default_factory=dict)
    weights: dict[Tensor, int] = field(default_factory=dict)
    norms: list[Norm] = field(default_factory=list)
    cuts: dict[Tensor, Reason] = field(default_factory=dict)
    reason: Reason | None = None


class Streams:
    """The streams of a model.

    Args:
        channels: The axes of its tensors.
        norms: All of its norms.
    """

    def __init__(self, channels: Channels, norms: list[Norm]) -> None:
        self._channels, self._flow = channels, channels.flow
        self._norms = {(n.path, index): n for n in norms for index in n.nodes}
        self._outputs = graph_outputs(channels.flow)
        self._known: dict[Tensor, Stream] = {}

    def of(self, norm: Norm) -> Stream:
        """The stream that a norm reads."""
        start = self._flow.tensor(norm.path, norm.input)
        if start not in self._known:
            found = self._follow(start, norm)
            self._known.update(dict.fromkeys(found.axes, found))
        return self._known[start]

    def _follow(self, start: Tensor, norm: Norm) -> Stream:
        """All tensors that have to be centred where one is."""
        axis = norm.axes.axes[0]
        sizes = self._channels.dims(start)
        if axis > 0 and sizes is not None:
            axis -= len(sizes)
        stream = Stream(norm.width or 0, {start: axis})
        if axis >= 0 or not norm.width:
            stream.reason = Reason(Unmerged.ROWS)
            return stream
        waiting = [start]
        while waiting:
            here = waiting.pop()
            try:
                for tensor, where in (*self._before(here, stream), *self._behind(here, stream)):
                    if tensor not in stream.axes:
                        waiting.append(tensor)
                        stream.axes[tensor] = where
                    elif stream.axes[tensor] != where:
                        raise _Stop(Reason(Unmerged.ROWS))
            except _Stop as stop:  # what else belongs to it has the same reason
                stream.reason = stream.reason or stop.reason
            if len(stream.axes) > _MOST:
                stream.reason = stream.reason or Reason(Unmerged.ROWS)
                break
        if stream.reason is None and len(stream.cuts) >= len(stream.norms):
            stream.reason = next(iter(stream.cuts.values()), None)
        return stream

    def _before(self, tensor: Tensor, stream: Stream) -> Iterator[tuple[Tensor, int]]:
        """What has to be centred so that a tensor is; a node centres it where nothing is enough.

        Raises:
            _Stop: it is no result of a node.
        """
        try:
            needs = list(self._needed(tensor, stream))
            for one, axis in needs:
                if one in self._flow.constants and tensor not in self._flow.constants:
                    self._check_stored(one, axis, stream.width)
        except _Stop as stop:
            if tensor in self._flow.constants or tensor not in self._flow.makers:
                raise
            stream.cuts[tensor] = stop.reason
            return
        yield from needs

    def _check_stored(self, tensor: Tensor, axis: int, width: int) -> None:
        """Check that a constant can be centred where it is stored.

        Raises:
            _Stop: it is computed, quantised, may be given, or something else reads it.
        """
        flow = self._flow
        while tensor not in flow.data:
            path, index, _ = flow.makers.get(tensor, (tensor.path, -1, 0))
            needs = self._needs(path, index, axis, width) if index >= 0 else None
            if needs is None or len(needs) != 1:
                raise _Stop(self._written_by(tensor))
            ((place, axis),) = needs
            read = flow.read(Use(path, index, place))
            assert read is not None
            tensor = read
        sizes = tuple(flow.data[tensor].dims)
        fits = len(sizes) >= -axis and sizes[axis] == width and tensor not in flow.overridable
        if not fits or flow.data[tensor].data_type not in FLOATS:
            raise _Stop(self._written_by(tensor))
        waiting = [(tensor, axis)]
        while waiting:
            here, where = waiting.pop()
            for use in flow.uses.get(here, ()):
                made, after = self._made(use, where, width)
                if not made:
                    raise _Stop(Reason(Unmerged.TIED, (tensor.name,)))
                waiting += [(one, after) for one in made if one in flow.constants]

    def _written_by(self, tensor: Tensor) -> Reason:
        """That what makes a tensor cannot be centred."""
        made = self._flow.makers.get(tensor)
        op = "Input" if made is None else self._flow.node(*made[:2]).op_type
        if made is None and tensor in self._flow.data:
            op = "Constant"
        return Reason(Unmerged.WRITTEN_BY, op=op, tensor=tensor.name)

    def _needed(self, tensor: Tensor, stream: Stream) -> Iterator[tuple[Tensor, int]]:
        """What has to be centred so that a tensor is.

        Raises:
            _Stop: nothing is enough.
        """
        flow, axis = self._flow, stream.axes[tensor]
        if tensor in flow.data:
            sizes = tuple(flow.data[tensor].dims)
            whole = len(sizes) >= -axis and sizes[axis] == stream.width
            if tensor in flow.overridable or flow.data[tensor].data_type not in FLOATS or not whole:
                raise _Stop(self._written_by(tensor))
            stream.weights[tensor] = axis
            return
        if tensor not in flow.makers:
            raise _Stop(self._written_by(tensor))
        path, index, position = flow.makers[tensor]
        norm = self._norms.get((path, index))
        if norm is not None and position == norm.residual and norm.form in FUSED:
            yield from self._addends(norm, axis)
            return
        if norm is not None:
            raise _Stop(Reason(Unmerged.WRITTEN_BY, op=norm.form, tensor=tensor.name))
        needs = self._needs(path, index, axis, stream.width)
        if not needs:
            raise _Stop(self._written_by(tensor))
        for place, where in needs:
            read = flow.read(Use(path, index, place))
            assert read is not None
            yield read, where

    def _addends(self, norm: Norm, axis: int) -> Iterator[tuple[Tensor, int]]:
        """What a Skip op adds; the rows of embedding tables are read by indices."""
        if FUSED[norm.form].indices:
            raise _Stop(Reason(Unmerged.WRITTEN_BY, op=norm.form, tensor=norm.output))
        for place in norm.places:
            read = self._flow.read(Use(norm.path, place.node, place.position))
            assert read is not None
            yield read, axis

    def _behind(self, tensor: Tensor, stream: Stream) -> Iterator[tuple[Tensor, int]]:
        """What is centred then, as it reads the tensor.

        Raises:
            _Stop: something would see that the mean is gone.
        """
        flow, axis = self._flow, stream.axes[tensor]
        if tensor in self._outputs:
            raise _Stop(Reason(Unmerged.STREAM_OUTPUT))
        for use in flow.uses.get(tensor, ()):
            norm = self._norms.get((use.path, use.node))
            if norm is not None:
                yield from self._into_norm(norm, use, axis, stream)
                continue
            made, where = self._made(use, axis, stream.width)
            if not made:
                op = flow.node(use.path, use.node).op_type
                raise _Stop(Reason(Unmerged.SEEN_BY, op=op, tensor=tensor.name))
            for one in made:
                yield one, where

    def _into_norm(
        self, norm: Norm, use: Use, axis: int, stream: Stream
    ) -> Iterator[tuple[Tensor, int]]:
        """A norm that reads the stream, and the sum that a Skip op gives out."""
        flow = self._flow
        reads = {(place.node, place.position) for place in norm.places}
        rows = norm.axes.axes if not norm.axes.grouped else ()
        sizes = self._channels.dims(flow.tensor(norm.path, norm.input))
        same = rows == (axis,) or (sizes is not None and rows == (len(sizes) + axis,))
        fits = norm.kind == "layer" and same and norm.width == stream.width
        if not fits or (use.node, use.position) not in reads:
            raise _Stop(Reason(Unmerged.SEEN_BY, op=norm.form, tensor=norm.output))
        if norm not in stream.norms:
            stream.norms.append(norm)
        if len(norm.addends) > 1:
            yield from self._addends(norm, axis)
            names = flow.node(norm.path, norm.nodes[-1]).output
            if norm.residual is not None and norm.residual < len(names) and names[norm.residual]:
                yield Tensor(norm.path, names[norm.residual]), axis

    def _made(self, use: Use, axis: int, width: int) -> tuple[list[Tensor], int]:
        """The outputs of a node that are centred where what it reads is, and their axis."""
        node = self._flow.node(use.path, use.node)
        for after in range(-1, -_FARTHEST - 1, -1):
            if (use.position, axis) in (self._needs(use.path, use.node, after, width) or ()):
                made = [Tensor(use.path, name) for name in node.output if name]
                op = self._flow.op(use.path, use.node)
                return made if op == "Split" else made[:1], after
        return [], 0

    def _needs(
        self, path: GraphPath, index: int, axis: int, width: int
    ) -> list[tuple[int, int]] | None:
        """The inputs of a linear node that are centred where its output is, with their axes."""
        op, node = self._flow.op(path, index), self._flow.node(path, index)
        here = [p for p, name in enumerate(node.input) if name]
        if op in ("Add", "Sub", "Sum"):
            return [(p, axis) for p in here]
        if op == "Concat":
            along = self._channels.attribute(path, index, "axis", 0)
            sizes = self._channels.dims(Tensor(path, node.output[0]))
            if along >= 0 and sizes is None:
                return None
            along -= 0 if along < 0 or sizes is None else len(sizes)
            return None if along == axis else [(p, axis) for p in here]
        if op in ("MatMul", "FusedMatMul", "Gemm"):
            return self._product(path, index, axis)
        if op == "Conv":
            return self._conv(path, index, axis)
        if op == "Gather" and self._is_table(path, index, axis):
            return [(0, -1)]
        found = self._channels.moved(path, index, axis, width)
        return None if found is None else [found]

    def _is_table(self, path: GraphPath, index: int, axis: int) -> bool:
        table = self._channels.read(path, index, 0)
        whole = table is not None and table in self._flow.constants and axis == -1
        sizes = None if table is None else self._channels.dims(table)
        first = self._channels.attribute(path, index, "axis", 0) in (0, -2)
        return whole and sizes is not None and len(sizes) == 2 and first

    def _product(self, path: GraphPath, index: int, axis: int) -> list[tuple[int, int]] | None:
        """The weight of a product with a matrix, and its bias."""
        weight = self._channels.read(path, index, 1)
        node = self._flow.node(path, index)
        turned = {a.name: a.i for a in node.attribute}
        if axis != -1 or weight is None or weight not in self._flow.constants:
            return None
        sizes = self._channels.dims(weight)
        if turned.get("transBatchB") or sizes is None or len(sizes) < 2:
            return None  # a product with a vector has no axis of it left
        found = [(1, -2 if turned.get("transB") else -1)]
        if len(node.input) > 2 and node.input[2]:
            found.append((2, -1))
        return found

    def _conv(self, path: GraphPath, index: int, axis: int) -> list[tuple[int, int]] | None:
        """The weight of a convolution, and its bias."""
        weight = self._channels.read(path, index, 1)
        sizes = None if weight is None else self._channels.dims(weight)
        if weight not in self._flow.constants or sizes is None or axis != 1 - len(sizes):
            return None
        if self._channels.attribute(path, index, "group", 1) != 1:
            return None  # each group reads other channels
        found = [(1, -len(sizes))]
        if len(self._flow.node(path, index).input) > 2:
            found.append((2, -1))
        return found


class _Stop(Exception):
    """A tensor of a stream cannot be centred, or must not be."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason
