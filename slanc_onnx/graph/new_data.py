"""Where the changed tensors of an output go: each where its data was before."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from onnx import TensorProto

from slanc_onnx.graph.inline import Span, refer
from slanc_onnx.graph.load import Array, external_location, external_range
from slanc_onnx.graph.own_data import OwnData


class NewData:
    """Takes the changed tensors whose data is not in the message.

    Those of external data go to the output's own data file at once. Those of a model that is its
    own data file (see `inline`) are made when the output is written, one at a time.

    Args:
        source: The model's file.
        own: Gives the output's own data file.

    Attributes:
        name: What tensors refer to that are made when they are written.
    """

    def __init__(self, source: Path, own: Callable[[], OwnData]) -> None:
        self.name = f"slanc-{secrets.token_hex(8)}"
        self._source, self._own = source, own
        self._made: list[Callable[[], Array]] = []

    def put(self, tensor: TensorProto, values: Callable[[], Array]) -> bool:
        """Let a tensor have other values of its shape and type.

        Args:
            tensor: The tensor; it is changed in place.
            values: Gives them.

        Returns:
            False where its data is in the message; then it is as it was.
        """
        if tensor.data_location != TensorProto.EXTERNAL:
            return False
        if external_location(tensor) == self._source.name:
            _, _, length = external_range(tensor, self._source.parent)
            new = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            refer(new, Span(self.name, len(self._made), length))
            tensor.CopyFrom(new)
            self._made.append(values)
            return True
        data = self._own()
        offset, length = data.add(values())
        del tensor.external_data[:]
        for key, text in (("location", data.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(text))
        return True

    def made(self, span: Span) -> memoryview:
        """The bytes of a tensor that is made when it is written."""
        values = memoryview(self._made[span.offset]().tobytes())
        assert len(values) == span.length
        return values
