"""Weights of an inline file as ONNX Runtime can take them: where numbers lie as they do in memory.

ONNX Runtime maps external data where it lies in the file. In a data file that is where numbers may
lie; in a model that is its own data file they lie at any byte, and a sum over a weight then has
another order, which changes its last bits from one file to the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from slanc_onnx.graph import Array, all_tensors, every_graph, external_range, is_inside, read_tensor

ALIGNED = 64  # bytes, as ONNX Runtime's own memory is
_NUMPY = "biufc"  # kinds of element types that NumPy has itself


def with_weights_in_place(
    model: onnx.ModelProto, folder: Path | None
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model whose weights ONNX Runtime may use as they lie, and those to give it beside that.

    Args:
        model: The model; it is not changed.
        folder: Where its external data lies.

    Returns:
        The model, or a copy in which weights without a name of their own are taken in; and the
        others that lie at odd bytes of a file, by name, read-only.
    """
    if folder is None or not any(_is_odd(tensor) for tensor in all_tensors(model)):
        return model, {}
    named = [(name, t) for name, t in _named(model) if _is_odd(t)]
    times = Counter(name for name, _ in _named(model))
    given = {name: t for name, t in named if times[name] == 1 and _has_numpy(t)}
    if sum(map(_is_odd, all_tensors(model))) > len(given):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        kept = [t for name, t in _named(copy) if name in given]
        for tensor in all_tensors(copy):
            if _is_odd(tensor) and not any(tensor is other for other in kept):
                _take_in(tensor, folder)
        model = copy
    return model, {name: _read(tensor, folder) for name, tensor in given.items()}


def _named(model: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """The tensors that ONNX Runtime knows by a name: those of graphs, and not of functions."""
    for graph in every_graph(model.graph):
        for tensor in graph.initializer:
            yield tensor.name, tensor
        for node in graph.node:
            for name in node.output if node.op_type == "Constant" else ():
                yield from ((name, a.t) for a in node.attribute if a.HasField("t"))


def _is_odd(tensor: TensorProto) -> bool:
    return is_inside(tensor) and _dtype(tensor).itemsize > 1


def _dtype(tensor: TensorProto) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _has_numpy(tensor: TensorProto) -> bool:
    return _dtype(tensor).kind in _NUMPY


def _take_in(tensor: TensorProto, folder: Path) -> None:
    data = read_tensor(tensor, folder).tobytes()
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    tensor.raw_data = data


def _read(tensor: TensorProto, folder: Path) -> Array:
    """The values of a tensor in memory that begins where ONNX Runtime's would."""
    file, offset, length = external_range(tensor, folder)
    room = np.empty(length + ALIGNED, np.uint8)
    first = -room.ctypes.data % ALIGNED
    data = room[first : first + length]
    with file.open("rb") as opened:
        opened.seek(offset)
        opened.readinto(data.data)
    values = data.view(_dtype(tensor)).reshape(tuple(tensor.dims))
    values.flags.writeable = False
    return values
