"""An inline model is its own external data file: its large weights as ranges of the file, and back.

A skeleton is a model whose large tensors say in which bytes of which file their data lies, as
tensors of external data do, and carry a mark that ONNX does not know. Reading a model as a skeleton
takes no weight into memory, and whatever reads external data reads them. To write it, each marked
tensor becomes again what it was.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from slanc_onnx.graph.wire import (
    BYTES,
    VARINT,
    Buffer,
    Field,
    OddWire,
    fields,
    head,
    number,
    number_at,
)

LEAST = 4096  # bytes of a message that can hold a tensor that is taken; constants are smaller
LARGEST = 2**31 - 1  # bytes of a message that protobuf reads and writes
_DEEPEST = 100  # messages in each other, for protobuf as well
_MOST_FIELDS = 200  # of a tensor that is taken
_MARK = 1 << 26  # a field that ONNX does not have; protobuf keeps it

# Message -> field -> the message in it, and whether there can be several: the ways to tensors. Of
# the attributes only those of Constant are on them, as kernels read theirs from the model.
_Way = dict[str, tuple[str, bool]]
_WAYS: dict[str, _Way] = {
    "ModelProto": {
        "graph": ("GraphProto", False),
        "functions": ("FunctionProto", True),
        "training_info": ("TrainingInfoProto", True),
    },
    "TrainingInfoProto": {
        "initialization": ("GraphProto", False),
        "algorithm": ("GraphProto", False),
    },
    "FunctionProto": {"node": ("NodeProto", True)},
    "GraphProto": {
        "node": ("NodeProto", True),
        "initializer": ("TensorProto", True),
        "sparse_initializer": ("SparseTensorProto", True),
    },
    "SparseTensorProto": {"values": ("TensorProto", False), "indices": ("TensorProto", False)},
    "NodeProto": {"attribute": ("AttributeProto", True)},
    "AttributeProto": {
        "g": ("GraphProto", False),
        "graphs": ("GraphProto", True),
        "t": ("TensorProto", False),
        "sparse_tensor": ("SparseTensorProto", False),
    },
}


def _numbered(message: str, way: _Way) -> dict[int, tuple[str, bool]]:
    known = getattr(onnx, message).DESCRIPTOR.fields_by_name
    return {known[name].number: inner for name, inner in way.items()}


_PARTS = {message: _numbered(message, way) for message, way in _WAYS.items()}
_OF_TENSOR = {f.name: f.number for f in TensorProto.DESCRIPTOR.fields}
_OP_TYPE = onnx.NodeProto.DESCRIPTOR.fields_by_name["op_type"].number
_VALUES = {onnx.AttributeProto.DESCRIPTOR.fields_by_name[n].number for n in ("t", "sparse_tensor")}
_RAW = _OF_TENSOR["raw_data"]
# Fields whose bytes are the same as raw data: in one run, and for the types that lie in them.
_TYPED = {
    _OF_TENSOR["float_data"]: {TensorProto.FLOAT, TensorProto.COMPLEX64},
    _OF_TENSOR["double_data"]: {TensorProto.DOUBLE, TensorProto.COMPLEX128},
}
_OTHER_DATA = {
    _OF_TENSOR[name]
    for name in (
        "segment",
        "int32_data",
        "string_data",
        "int64_data",
        "uint64_data",
        "external_data",
    )
}
_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}


class Span(NamedTuple):
    """Bytes of a file, by its name beside the model."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class Skeleton:
    """A model whose large tensors are ranges of its file.

    Attributes:
        model: The model.
        taken: Where these ranges begin.
    """

    model: onnx.ModelProto
    taken: frozenset[int] = frozenset()


def read_skeleton(path: Path) -> Skeleton | None:
    """A model without its large tensors' data, of which no page is read.

    Returns:
        None where no tensor is large, and where the file has to be read by protobuf: it is damaged,
        too large for it, or written in an unusual way.

    Raises:
        OSError: it cannot be read.
    """
    size, name = path.stat().st_size, path.name
    if not LEAST <= size <= LARGEST or not name.isprintable():  # no text that a model can hold
        return None
    with (
        path.open("rb") as opened,
        mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_READ) as pages,
    ):
        if hasattr(mmap, "MADV_RANDOM"):  # or the system reads ahead what is stepped over
            pages.madvise(mmap.MADV_RANDOM)
        return slimmed(pages, size, name)


def slimmed(data: Buffer, size: int, name: str) -> Skeleton | None:
    """The skeleton of a serialised model; see `read_skeleton`.

    Args:
        data: The model.
        size: Its bytes.
        name: What the file is called that holds it.
    """
    walk = _Slimming(data, name)
    with suppress(OddWire, DecodeError, ValueError):  # of a text that is none
        found = walk.message("ModelProto", 0, size, 0)
        if found is not None:
            return Skeleton(onnx.ModelProto.FromString(found), frozenset(walk.taken))
    return None


@dataclass
class _Slimming:
    """One walk through a model that takes the data of its large tensors out."""

    data: Buffer
    name: str
    taken: list[int] = field(default_factory=list)

    def message(self, kind: str, start: int, stop: int, depth: int) -> bytes | None:
        """A message without the data of its large tensors; None where it has none.

        Raises:
            OddWire: it cannot be walked, or has a part twice that there is once, which protobuf
                makes one of.
        """
        if depth > _DEEPEST:
            raise OddWire("too deep")
        if kind == "TensorProto":
            return self._tensor(start, stop)
        parts: list[bytes] = []
        kept, seen = start, set()
        for found, (inner, several) in self._ways(kind, start, stop):
            if not several and found.number in seen:
                raise OddWire("a part that is there twice")
            seen.add(found.number)
            if found.stop - found.value < LEAST:
                continue
            slim = self.message(inner, found.value, found.stop, depth + 1)
            if slim is not None:
                parts += (self.data[kept : found.start], head(found.number, len(slim)), slim)
                kept = found.stop
        return b"".join((*parts, self.data[kept:stop])) if parts else None

    def _ways(self, kind: str, start: int, stop: int) -> Iterator[tuple[Field, tuple[str, bool]]]:
        """The fields on the way to tensors."""
        ways = _PARTS[kind]
        if kind != "NodeProto":
            for found in fields(self.data, start, stop):
                if found.kind == BYTES and found.number in ways:
                    yield found, ways[found.number]
            return
        attributes, constant = [], False
        for found in fields(self.data, start, stop):
            if found.kind == BYTES and found.number in ways:
                attributes.append(found)
            elif found.number == _OP_TYPE and found.kind == BYTES:
                constant = self.data[found.value : found.stop] == b"Constant"
        for found in attributes:
            if constant or not self._has_value(found):
                yield found, ways[found.number]

    def _has_value(self, attribute: Field) -> bool:
        """Whether an attribute holds a tensor itself."""
        return any(f.number in _VALUES for f in fields(self.data, attribute.value, attribute.stop))

    def _tensor(self, start: int, stop: int) -> bytes | None:
        """A tensor that refers to its data; None where that stays."""
        held: Field | None = None
        explicit = False
        rest: list[bytes] = []
        for count, found in enumerate(fields(self.data, start, stop)):
            is_data = found.kind == BYTES and (found.number == _RAW or found.number in _TYPED)
            if found.number in _OTHER_DATA or (is_data and held is not None):
                return None
            if is_data:
                held = found
            elif found.number == _OF_TENSOR["data_location"] and found.kind == VARINT:
                location, _ = number_at(self.data, found.value, found.stop)
                if location != TensorProto.DEFAULT or explicit:
                    return None
                explicit = True
            elif found.number in (_RAW, *_TYPED, _MARK) or count >= _MOST_FIELDS:
                return None
            else:
                rest.append(self.data[found.start : found.stop])
        if held is None or held.stop - held.value < LEAST:
            return None
        bare = TensorProto.FromString(b"".join(rest))
        if not _fits(bare, held):
            return None
        self.taken.append(held.value)
        refer(bare, Span(self.name, held.value, held.stop - held.value), held.number, explicit)
        return bytes(bare.SerializeToString())


def _fits(tensor: TensorProto, held: Field) -> bool:
    """Whether a field holds exactly the data of a tensor, as raw data would."""
    if held.number != _RAW and tensor.data_type not in _TYPED[held.number]:
        return False
    bits = _bits_of(tensor.data_type)
    count = 1
    for size in tensor.dims:
        count *= size
        if size < 1 or count > 8 * LARGEST:
            return False
    return bits is not None and -(-count * bits // 8) == held.stop - held.value


def _bits_of(element_type: int) -> int | None:
    """The bits of an element; None where it has no fixed number."""
    if element_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        return None
    if element_type not in TensorProto.DataType.values():
        return None
    small = _BITS.get(TensorProto.DataType.Name(element_type))
    if small is not None:
        return small
    return 8 * int(helper.tensor_dtype_to_np_dtype(element_type).itemsize)


def refer(tensor: TensorProto, span: Span, kind: int = _RAW, explicit: bool = False) -> None:
    """Let a tensor without data refer to a range of a file that becomes part of the model's.

    Args:
        tensor: The tensor.
        span: Where its data is.
        kind: The field that it belongs into.
        explicit: Whether the tensor says that its data is inside.
    """
    tensor.data_location = TensorProto.EXTERNAL
    told = (("location", span.file), ("offset", span.offset), ("length", span.length))
    for key, value in told:
        tensor.external_data.add(key=key, value=str(value))
    tensor.MergeFromString(number(_MARK << 3 | VARINT) + number(kind << 1 | explicit))


def is_inside(tensor: TensorProto) -> bool:
    """Whether a tensor is one of a skeleton, whose data lies in a model and not in a data file."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return False
    return number(_MARK << 3 | VARINT) in tensor.SerializeToString()


def pieces_of(model: bytes, names: Set[str]) -> list[bytes | Span]:
    """What a file holds in which the references of a skeleton are data again.

    Args:
        model: The skeleton, serialised by protobuf.
        names: The files whose ranges become part of it; other references stay.

    Returns:
        Bytes and ranges in order: together, what protobuf writes for the model with all its data.
    """
    marks = []
    tag = number(_MARK << 3 | VARINT)
    at = model.find(tag)
    while at >= 0:
        marks.append(at)
        at = model.find(tag, at + 1)
    if not marks:
        return [model]
    whole, _ = _Splicing(model, marks, names).message("ModelProto", 0, len(model))
    return whole


Pieces = tuple[list[bytes | Span], int]  # in order, and how many bytes they are


@dataclass(frozen=True)
class _Splicing:
    """The way back: a walk through a skeleton to the marks in it."""

    model: bytes
    marks: list[int]
    names: Set[str]

    def message(self, kind: str, start: int, stop: int) -> Pieces:
        """A message whose references are data again."""
        if kind == "TensorProto":
            return self._tensor(start, stop)
        found: list[bytes | Span] = []
        total, kept, ways = 0, start, _PARTS[kind]
        for part in fields(self.model, start, stop):
            if part.kind != BYTES or part.number not in ways:
                continue
            if not self._is_marked(part.value, part.stop):
                continue
            inner, length = self.message(ways[part.number][0], part.value, part.stop)
            before = self.model[kept : part.start] + head(part.number, length)
            found += (before, *inner)
            total += len(before) + length
            kept = part.stop
        found.append(self.model[kept:stop])
        return found, total + stop - kept

    def _is_marked(self, start: int, stop: int) -> bool:
        first = bisect_left(self.marks, start)
        return first < len(self.marks) and self.marks[first] < stop

    def _tensor(self, start: int, stop: int) -> Pieces:
        """A tensor with its data where protobuf writes it: it writes one with a short stand-in."""
        whole = self.model[start:stop]
        tensor, told = TensorProto(), None
        for part in fields(whole, 0, len(whole)):
            if part.number == _MARK and part.kind == VARINT:
                told, _ = number_at(whole, part.value, part.stop)
            else:
                tensor.MergeFromString(whole[part.start : part.stop])
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if told is None or entries.get("location") not in self.names:
            return [whole], len(whole)
        kind, explicit = told >> 1, told & 1
        span = Span(entries["location"], int(entries["offset"]), int(entries["length"]))
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        if explicit:
            tensor.data_location = TensorProto.DEFAULT
        tensor.MergeFromString(head(kind, 8) + bytes(8))
        whole = tensor.SerializeToString()
        place = next(f for f in fields(whole, 0, len(whole)) if f.number == kind)
        before, after = whole[: place.start] + head(kind, span.length), whole[place.stop :]
        return [before, span, after], len(before) + span.length + len(after)
