"""The wire format of protobuf: where the fields of a message lie, without reading what they hold.

A message is a run of fields. Each begins with a number that says which field it is and how it is
written; a message, a text or bytes then have their length before them. So a reader can step over
whatever it does not want to see.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # how a field is written
_FIXED = {FIXED64: 8, FIXED32: 4}
_MOST = 10  # bytes of a number of 64 bits
Buffer = bytes | mmap.mmap


class OddWire(Exception):
    """The bytes are no message, or one that no usual writer writes."""


class Field(NamedTuple):
    """A field: its number, how it is written, and where it, its value and its end lie."""

    number: int
    kind: int
    start: int
    value: int
    stop: int


def fields(data: Buffer, start: int, stop: int) -> Iterator[Field]:
    """The fields of a message.

    Args:
        data: What the message lies in.
        start: Where it begins, in bytes.
        stop: Where it ends.

    Raises:
        OddWire: a field goes beyond the end, or there are groups, which ONNX has none of.
    """
    at = start
    while at < stop:
        tag, value = number_at(data, at, stop)
        kind = tag & 7
        if kind == BYTES:
            length, value = number_at(data, value, stop)
            end = value + length
        elif kind == VARINT:
            _, end = number_at(data, value, stop)
        elif kind in _FIXED:
            end = value + _FIXED[kind]
        else:
            raise OddWire(f"a field of kind {kind}")
        if end > stop or tag < 8:
            raise OddWire("a field beyond the end of its message, or without a number")
        yield Field(tag >> 3, kind, at, value, end)
        at = end


def number_at(data: Buffer, at: int, stop: int) -> tuple[int, int]:
    """A number of up to 64 bits, and where it ends.

    Raises:
        OddWire: it does not end.
    """
    if at < stop and data[at] < 0x80:  # nearly all
        return data[at], at + 1
    found = 0
    for place, byte in enumerate(data[at : min(stop, at + _MOST)]):
        found |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return found, at + place + 1
    raise OddWire("a number without an end")


def number(value: int) -> bytes:
    """A number as it is written."""
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*written, value))


def head(field: int, length: int) -> bytes:
    """What stands before a message, a text or bytes of a length."""
    return number(field << 3 | BYTES) + number(length)
