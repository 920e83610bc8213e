"""Weights of an inline file as ONNX Runtime can take them: where numbers lie as they do in memory.

ONNX Runtime maps external data where it lies in the file. In a data file that is where numbers may
lie; in a model that is its own data file they lie at any byte, and a sum over a weight then has
another order, which changes its last bits from one file to the next.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import onnx
from onnx import TensorProto, helper

from slanc_onnx.graph import (
    Array,
    all_tensors,
    every_graph,
    external_location,
    external_range,
    is_inside,
    read_tensor,
    real_path,
)

ALIGNED = 64  # bytes, as ONNX Runtime's own memory is
_TAKES_FOLDER = 1, 21  # the first version of ONNX Runtime that does
_NUMPY = "biufc"  # kinds of element types that NumPy has itself
_AT_ONCE = 1 << 22  # bytes that are compared
# The weights that sessions hold, by where they lie and by name; and those that are kept for more.
_HELD: WeakValueDictionary[tuple[object, ...], Array] = WeakValueDictionary()
_KEPT: ContextVar[list[Array] | None] = ContextVar("kept", default=None)


@dataclass(frozen=True)
class InPlace:
    """A model whose weights ONNX Runtime may use as they lie.

    Attributes:
        model: The model.
        folder: Where its external data lies.
        weights: By name, weights to give to ONNX Runtime beside the model; read-only.
    """

    model: onnx.ModelProto
    folder: Path | None
    weights: dict[str, Array]


@contextmanager
def weights_kept() -> Iterator[None]:
    """Keep weights in memory from one session to the next: a model is run in several versions."""
    token = _KEPT.set([])
    try:
        yield
    finally:
        _KEPT.reset(token)


def with_weights_in_place(
    model: onnx.ModelProto, folder: Path | None, *, at_odd_bytes: bool = False
) -> InPlace:
    """A model with those of its weights in memory that lie at odd bytes of a model file.

    Weights without a name of their own are taken into a copy of the model, and all of them for a
    runtime that looks for no data files. ONNX Runtime follows no link out of a folder, and download
    caches keep model and data as such links: files behind one are told as where they are.

    Args:
        model: The model; it is not changed.
        folder: Where its external data lies.
        at_odd_bytes: Whether they are mapped there too, which costs no memory, for outputs of which
            the last bits do not matter.
    """
    if folder is None:
        return InPlace(model, folder, {})
    model, folder = _without_links(model, folder)
    inside = [tensor for tensor in all_tensors(model) if is_inside(tensor)]
    if not inside:
        return InPlace(model, folder, {})
    times = Counter(name for name, _ in _named(model))
    found = {name: t for name, t in _named(model) if is_inside(t) and _is_odd(t)}
    given = {name: t for name, t in found.items() if times[name] == 1 and _has_numpy(t)}
    whole = _must_be_whole()
    if whole:
        given = {}
    taken_in = whole or sum(map(_is_odd, inside)) > len(given)
    here = {} if at_odd_bytes else given
    weights = {name: _read(tensor, folder) for name, tensor in here.items()}
    if not taken_in:
        return InPlace(model, folder, weights)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [t for name, t in _named(copy) if name in given]
    for tensor in [t for t in all_tensors(copy) if is_inside(t)]:
        if whole or (_is_odd(tensor) and not any(tensor is other for other in kept)):
            _take_in(tensor, folder)
    return InPlace(copy, folder, weights)


def _without_links(model: onnx.ModelProto, folder: Path) -> tuple[onnx.ModelProto, Path]:
    """The model with data files as they lie below a folder, without a link on the way; a copy where
    one of them led out of the folder it was in."""
    outside = [t for t in all_tensors(model) if t.data_location == TensorProto.EXTERNAL]
    one_of = {external_location(tensor): tensor for tensor in outside}
    real = {name: real_path(external_range(t, folder)[0]) for name, t in one_of.items()}
    if all(file.is_relative_to(real_path(folder)) for file in real.values()):
        return model, folder
    common = Path(os.path.commonpath([file.parent for file in real.values()]))
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in all_tensors(copy):
        if tensor.data_location == TensorProto.EXTERNAL:
            file = real[external_location(tensor)]
            _relocate(tensor, file.relative_to(common).as_posix())
    return copy, common


def _must_be_whole() -> bool:
    """Whether this ONNX Runtime takes no folder in which a serialised model's data files lie."""
    import onnxruntime as ort  # slow to import

    major, minor = ort.__version__.split(".")[:2]
    return (int(major), int(minor)) < _TAKES_FOLDER


def _named(model: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """The tensors that ONNX Runtime knows by a name: those of graphs, and not of functions."""
    for graph in every_graph(model.graph):
        for tensor in graph.initializer:
            yield tensor.name, tensor
        for node in graph.node:
            for name in node.output if node.op_type == "Constant" else ():
                yield from ((name, a.t) for a in node.attribute if a.HasField("t"))


def _is_odd(tensor: TensorProto) -> bool:
    """Whether it matters at which byte a tensor begins."""
    return _dtype(tensor).itemsize > 1


def _dtype(tensor: TensorProto) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _has_numpy(tensor: TensorProto) -> bool:
    return _dtype(tensor).kind in _NUMPY


def _relocate(tensor: TensorProto, name: str) -> None:
    for entry in tensor.external_data:
        if entry.key == "location":
            entry.value = name


def _take_in(tensor: TensorProto, folder: Path) -> None:
    data = read_tensor(tensor, folder).tobytes()
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    tensor.raw_data = data


def _read(tensor: TensorProto, folder: Path) -> Array:
    """The values of a tensor in memory that begins where ONNX Runtime's would.

    They are those that another session holds where the file has the same bytes.
    """
    file, offset, length = external_range(tensor, folder)
    seen, kind = file.stat(), (tensor.data_type, tuple(tensor.dims))
    place = (seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_size, offset, *kind)
    held, name = _HELD.get(place), (tensor.name, *kind)
    if held is not None:
        return held
    held = _HELD.get(name)
    if held is not None and _has_bytes(file, offset, held):
        _HELD[place] = held
        return held
    room = np.empty(length + ALIGNED, np.uint8)
    first = -room.ctypes.data % ALIGNED
    data = room[first : first + length]
    with file.open("rb") as opened:
        opened.seek(offset)
        opened.readinto(data.data)
    values = data.view(_dtype(tensor)).reshape(tuple(tensor.dims))
    values.flags.writeable = False
    _HELD[place] = _HELD[name] = values
    kept = _KEPT.get()
    if kept is not None:
        kept.append(values)
    return values


def _has_bytes(file: Path, offset: int, values: Array) -> bool:
    """Whether a file has the bytes of an array at an offset."""
    data = values.reshape(-1).view(np.uint8)
    if not data.size:
        return True
    stored = np.memmap(file, np.uint8, "r", offset, data.shape)
    parts = range(0, data.size, _AT_ONCE)
    return all(np.array_equal(stored[p : p + _AT_ONCE], data[p : p + _AT_ONCE]) for p in parts)
