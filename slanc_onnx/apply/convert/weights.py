"""Weights on their way into 16 bits: one at a time, from where they lie to where they go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import TensorProto

from slanc_onnx.apply.convert.constants import Counts, Limits, narrowed
from slanc_onnx.graph import (
    Array,
    NewData,
    Pending,
    all_tensors,
    read_tensor,
    unused_name,
    without_data,
)


@dataclass(frozen=True, eq=False)
class Weights:
    """Takes the tensors of a model that change.

    Attributes:
        folder: Where the external data of the model lies.
        data: Where tensors go whose data is not in the message; None to take them into it.
        pending: Those that a fold changed.
        counts: What became of each, by the name that it has in the file, which others in other
            graphs may have; those of `data` that are made when it is written are there then.
    """

    folder: Path | None = None
    data: NewData | None = None
    pending: Pending = field(default_factory=Pending)
    counts: dict[str, Counts] = field(default_factory=dict)
    _counted: set[str] = field(default_factory=set)

    def narrow(self, tensor: TensorProto, name: str, limits: Limits, element_type: int) -> None:
        """Let a tensor have its values in a narrower format, under the name that it has now.

        Args:
            tensor: The tensor; it is changed in place.
            name: What it is counted under.
            limits: The format.
            element_type: ONNX's for that.
        """
        name = unused_name(name, self._counted)
        made = self.pending.give(tensor)
        before = TensorProto()
        before.CopyFrom(tensor)
        read = made or (lambda: read_tensor(before, self.folder))

        def values() -> Array:
            found, self.counts[name] = narrowed(read(), limits)
            return found

        if self.data is None or not self.data.put(tensor, values, element_type):
            after = without_data(tensor)
            after.data_type, after.raw_data = element_type, values().tobytes()
            tensor.CopyFrom(after)

    def finish(self, model: onnx.ModelProto) -> None:
        """Let what was not narrowed come along, so that the output needs no other data file.

        Where nothing was, as in a second run, all data stays where it is.
        """
        if self.data is None:
            return
        for tensor in all_tensors(model):
            made: Callable[[], Array] | None = self.pending.give(tensor)
            if made is not None:
                self.data.put(tensor, made)
        if self.data.taken:
            for tensor in all_tensors(model):
                self.data.bring(tensor)
