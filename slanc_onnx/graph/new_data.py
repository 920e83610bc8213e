"""Where the changed tensors of an output go: each where its data was before."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from slanc_onnx.graph.inline import Span, refer
from slanc_onnx.graph.load import (
    Array,
    all_tensors,
    bytes_at,
    every_graph,
    external_location,
    external_range,
)
from slanc_onnx.graph.own_data import OwnData

ExternalData = Literal["auto", "yes", "no"]
LEAST = 1024  # bytes of a tensor that is worth a place in a data file


def _bytes(place: tuple[Path, int, int]) -> Array:
    """Bytes of a file."""
    return np.frombuffer(bytes_at(*place), np.uint8)


def without_data(tensor: TensorProto) -> TensorProto:
    """A tensor of the same name, type and shape, with what the file says of it."""
    bare = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    if tensor.HasField("doc_string"):
        bare.doc_string = tensor.doc_string
    bare.metadata_props.extend(tensor.metadata_props)
    return bare


class Pending:
    """Takes changed tensors as `NewData` does, and keeps how they are made, for another change."""

    def __init__(self) -> None:
        self.name = f"slanc-{secrets.token_hex(8)}"
        self._taken: list[tuple[TensorProto, Callable[[], Array]]] = []

    def put(self, tensor: TensorProto, values: Callable[[], Array]) -> bool:
        """Let a tensor have other values of its shape and type; see `NewData.put`."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return False
        before = TensorProto()
        before.CopyFrom(tensor)
        del tensor.external_data[:]
        for key, text in (("location", self.name), ("offset", str(len(self._taken)))):
            tensor.external_data.add(key=key, value=text)
        self._taken.append((before, values))
        return True

    def give(self, tensor: TensorProto) -> Callable[[], Array] | None:
        """What makes a tensor that was taken, which refers to its old data again; else None."""
        if external_location(tensor) != self.name:
            return None
        number = int(next(e.value for e in tensor.external_data if e.key == "offset"))
        before, values = self._taken[number]
        name = tensor.name
        tensor.CopyFrom(before)
        tensor.name = name
        return values


class NewData:
    """Takes the changed tensors whose data is not in the message.

    Those of external data go to the output's own data file at once. Those of a model that is its
    own data file (see `inline`) are made when the output is written, one at a time.

    Args:
        source: The model's file.
        own: Gives the output's own data file.
        external: Whether data lies in a file of its own: "auto" for as before, "yes" or "no".

    Attributes:
        name: What tensors refer to that are made when they are written.
        taken: Whether any tensor was put here.
    """

    def __init__(
        self, source: Path, own: Callable[[], OwnData], external: ExternalData = "auto"
    ) -> None:
        self.name = f"slanc-{secrets.token_hex(8)}"
        self._source, self._own, self._external = source, own, external
        self._made: list[Callable[[], Array]] = []
        self.taken = False

    def put(
        self, tensor: TensorProto, values: Callable[[], Array], element_type: int | None = None
    ) -> bool:
        """Let a tensor have other values of its shape.

        Args:
            tensor: The tensor; it is changed in place.
            values: Gives them.
            element_type: Their type, a whole number of bytes; None for that of the tensor.

        Returns:
            False where its data is in the message; then it is as it was.
        """
        if tensor.data_location != TensorProto.EXTERNAL:
            return False
        self.taken = True
        if self._goes_inside(tensor):
            kind = tensor.data_type if element_type is None else element_type
            _, _, length = external_range(tensor, self._source.parent)
            if kind != tensor.data_type:
                length = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(kind).itemsize
            new = without_data(tensor)
            new.data_type = kind
            refer(new, Span(self.name, len(self._made), length))
            tensor.CopyFrom(new)
            self._made.append(values)
            return True
        if element_type is not None:
            tensor.data_type = element_type
        self._add(tensor, values())
        return True

    def _goes_inside(self, tensor: TensorProto) -> bool:
        """Whether the data of a tensor becomes a part of the model's file."""
        if self._external == "auto":
            return external_location(tensor) == self._source.name
        return self._external == "no"

    def _add(self, tensor: TensorProto, values: Array) -> None:
        """Put the values of a tensor into the output's own data file."""
        new = without_data(tensor)
        new.data_location = TensorProto.EXTERNAL
        data = self._own()
        offset, length = data.add(values)
        for key, text in (("location", data.name), ("offset", offset), ("length", length)):
            new.external_data.add(key=key, value=str(text))
        tensor.CopyFrom(new)

    def move(self, model: onnx.ModelProto) -> None:
        """Let data lie where it was asked for that nobody changed."""
        if self._external == "auto":
            return
        for tensor in all_tensors(model):
            if tensor.data_location != TensorProto.EXTERNAL:
                continue
            inside = external_location(tensor) in (self.name, self._source.name)
            if inside != (self._external == "no"):
                place = external_range(tensor, self._source.parent)
                self.put(tensor, partial(_bytes, place))
        if self._external == "yes":
            for graph in every_graph(model.graph):
                for tensor in graph.initializer:
                    if tensor.HasField("raw_data") and len(tensor.raw_data) >= LEAST:
                        self._add(tensor, np.frombuffer(tensor.raw_data, np.uint8))

    def bring(self, tensor: TensorProto) -> None:
        """Take a tensor of another data file along as it is, so that the output needs no other."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return
        if external_location(tensor) in (self.name, self._source.name, self._own().name):
            return
        self.put(tensor, partial(_bytes, external_range(tensor, self._source.parent)))

    def made(self, span: Span) -> memoryview:
        """The bytes of a tensor that is made when it is written."""
        values = memoryview(self._made[span.offset]().tobytes())
        assert len(values) == span.length
        return values
