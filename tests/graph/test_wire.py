"""The wire format: fields are stepped over, and what is no message is said to be none."""

import random

import pytest
from google.protobuf.internal import decoder, encoder
from onnx import NodeProto

from slanc_onnx.graph.wire import BYTES, FIXED32, FIXED64, VARINT, OddWire, fields, head, number

WHOLE = b"\x08\x96\x01" + b"\x12\x03abc" + b"\x1d0000" + b"\x2111111111" + b"\xfa\x01\x00"


def test_fields_of_each_kind_are_found() -> None:
    found = list(fields(WHOLE, 0, len(WHOLE)))
    assert [(f.number, f.kind) for f in found] == [
        (1, VARINT),
        (2, BYTES),
        (3, FIXED32),
        (4, FIXED64),
        (31, BYTES),
    ]
    assert WHOLE[found[1].value : found[1].stop] == b"abc"
    assert [f.start for f in found[1:]] == [f.stop for f in found[:-1]]


@pytest.mark.parametrize(
    "bad",
    [
        b"\x12\x04abc",  # longer than what is there
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7fabc",  # much longer
        b"\x08\x96",  # a number that does not end
        b"\x08" + b"\xff" * 10 + b"\x01",  # nor within 64 bits
        b"\x1d000",
        b"\x02\x00",  # field 0
        b"\x0b\x0c",  # a group
        b"\x0f",  # no kind
    ],
)
def test_what_is_no_message_is_told(bad: bytes) -> None:
    with pytest.raises(OddWire):
        list(fields(bad, 0, len(bad)))


def test_numbers_are_written_as_protobuf_writes_and_reads_them() -> None:
    rng = random.Random(0)
    for value in [0, 1, 127, 128, 2**31, 2**32, 2**63, *(rng.getrandbits(64) for _ in range(200))]:
        written = number(value)
        assert written == encoder._VarintBytes(value)
        assert decoder._DecodeVarint(written, 0) == (value, len(written))
        told = number(5 << 3 | VARINT) + written
        assert [f.stop for f in fields(told, 0, len(told))] == [len(told)]


def test_a_text_has_its_length_before_it() -> None:
    text = "x" * 300
    assert head(3, 300) + text.encode() == NodeProto(name=text).SerializeToString()
