"""Idle Casts: those that a file has between types that are one now."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import NodeProto, TensorProto

from slanc_onnx.apply.convert.wiring import Source
from slanc_onnx.ops import Body, read_bodies

_CASTS = {"Cast", "CastLike"}


def drop_idle_casts(model: onnx.ModelProto, narrow: int) -> list[str]:
    """Remove the Casts that change nothing: from 16 bits to 16 bits, also through FP32.

    Args:
        model: The model; it is changed in place.
        narrow: The element type of 16 bits.

    Returns:
        Their names.
    """
    idle = _IdleCasts(read_bodies(model), narrow)
    idle.find()
    return list(idle.drop())


class _IdleCasts:
    """Finds idle Casts, and lets others read what these read.

    Args:
        bodies: The graphs and functions of the model.
        narrow: The element type of 16 bits.
    """

    def __init__(self, bodies: list[Body], narrow: int) -> None:
        self._bodies, self._narrow = bodies, narrow
        self._number = {id(body): i for i, body in enumerate(bodies)}
        self._renamed: dict[Source, str] = {}
        self._gone: set[Source] = set()  # results of Casts

    def find(self) -> None:
        """Note what is renamed and what goes."""
        for i, body in enumerate(self._bodies):
            outputs = set(body.outputs)
            for node in body.proto.node:
                if node.op_type not in _CASTS or body.kind(node.output[0]).element != self._narrow:
                    continue
                read = self._narrow_before(body, node)
                if read is None:
                    continue
                made = Source(i, node.output[0])
                if made.name not in outputs:
                    self._renamed[made] = read.name
                elif read.body == i and self._may_be_output(body, read.name):
                    self._renamed[read] = made.name
                else:
                    continue
                self._gone.add(made)

    def _narrow_before(self, body: Body, node: NodeProto) -> Source | None:
        """What a Cast to 16 bits reads, or has behind a Cast to FP32, where that has 16 bits."""
        name, before = node.input[0], body
        while True:
            defining = before.defining(name)
            if defining is None:
                return None
            if defining.kinds[name].element == self._narrow:
                return self._kept(Source(self._number[id(defining)], name))
            made = defining.makers.get(name)
            maker = None if made is None else defining.proto.node[made[0]]
            if maker is None or maker.op_type not in _CASTS:
                return None
            if defining.kinds[name].element not in (TensorProto.FLOAT, TensorProto.DOUBLE):
                return None
            name, before = maker.input[0], defining

    def _kept(self, source: Source) -> Source:
        """What stands for a tensor whose Cast goes."""
        while source in self._gone and source in self._renamed:
            name = self._renamed[source]
            defining = self._bodies[source.body].defining(name)
            assert defining is not None
            source = Source(self._number[id(defining)], name)
        return source

    def _may_be_output(self, body: Body, name: str) -> bool:
        """Whether a tensor may have the name of an output from now on."""
        source = Source(self._number[id(body)], name)
        made = name in body.makers and name not in body.outputs
        return made and source not in self._renamed and source not in self._gone

    def _read(self) -> set[Source]:
        """All tensors that are read, as outputs too."""
        bodies = self._bodies
        read = {self._source(b, n) for b in bodies for node in b.proto.node for n in node.input}
        return read | {self._source(b, n) for b in bodies for n in b.outputs}

    def _source(self, body: Body, name: str) -> Source:
        defining = body.defining(name)
        return Source(-1 if defining is None else self._number[id(defining)], name)

    def _name(self, body: Body, name: str) -> str:
        source = self._source(body, name)
        while source in self._renamed:
            name = self._renamed[source]
            source = self._source(self._bodies[source.body], name)
        return name

    def drop(self) -> Iterator[str]:
        """Rename, and remove what is not needed any more; gives the names of the nodes."""
        before = self._read()
        for i, body in enumerate(self._bodies):
            for node in body.proto.node:
                node.input[:] = [self._name(body, name) for name in node.input]
                node.output[:] = [self._made(Source(i, name)) for name in node.output]
            for position, name in enumerate(body.outputs):
                _set_output(body, position, self._name(body, name))
        unread = before - self._read() - self._renamed.keys()
        for i, body in enumerate(self._bodies):
            going = [s.name for s in self._gone | unread if s.body == i and s.name in body.makers]
            indices = {body.makers[name][0] for name in going}
            for index in sorted(indices, reverse=True):
                if body.proto.node[index].op_type in _CASTS:
                    yield body.proto.node[index].name
                    del body.proto.node[index]
            _forget(body, {source.name for source in (*self._renamed, *unread) if source.body == i})

    def _made(self, source: Source) -> str:
        """What a tensor is called where it is made."""
        return source.name if source in self._gone else self._renamed.get(source, source.name)


def _forget(body: Body, names: set[str]) -> None:
    """Let a body tell no type of tensors that it does not have any more."""
    infos = [info for info in body.proto.value_info if info.name not in names]
    if len(infos) < len(body.proto.value_info):
        copies = [_copy(info) for info in infos]
        del body.proto.value_info[:]
        body.proto.value_info.extend(copies)


def _set_output(body: Body, position: int, name: str) -> None:
    if isinstance(body.proto, onnx.FunctionProto):
        body.proto.output[position] = name
    else:
        body.proto.output[position].name = name


def _copy(info: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    twin = onnx.ValueInfoProto()
    twin.CopyFrom(info)
    return twin
