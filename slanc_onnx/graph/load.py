"""Load a model from disk without its external weights, and single weights on demand."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, NodeProto, SparseTensorProto, TensorProto, numpy_helper

from slanc_onnx.errors import SlancError, no_file, no_name
from slanc_onnx.graph.inline import read_skeleton

# Any element type: weights come in all of ONNX's.
Array = npt.NDArray[Any]

# Two 4-bit values share a byte, so these cannot be viewed in place.
PACKED = {
    TensorProto.INT4,
    TensorProto.UINT4,
    getattr(TensorProto, "FLOAT4E2M1", -1),
    getattr(TensorProto, "INT2", -1),
    getattr(TensorProto, "UINT2", -1),
}


_ALIGNED = 8  # bytes of the largest number


def load_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file; tensors in external data files stay references.

    Large tensors in the file itself become references too: the location is the file's own name.

    Raises:
        SlancError: no such file, not an ONNX model, truncated, or external data that is missing,
            too short or outside the model's folder.
    """
    if not path.is_file():
        raise no_file(str(path), path, ".onnx")
    try:
        skeleton = read_skeleton(path)
        model = _parsed(path) if skeleton is None else skeleton.model
    except OSError as error:
        raise SlancError(f"{path}: cannot be read ({error.strerror}).") from error
    except (DecodeError, ValueError) as error:
        raise SlancError(
            f"{path}: not an ONNX model, or cut short ({error}). "
            "Export or copy it again and compare the file's size."
        ) from error
    if not model.graph.node and not model.graph.output:
        raise SlancError(f"{path}: holds no graph. Is it an ONNX model, and copied completely?")
    if not model.opset_import:  # stands behind the graph
        raise SlancError(f"{path}: names no opset, so it was cut short. Copy it again.")
    for tensor in all_tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            file, offset, _ = external_range(tensor, path.parent)
            taken = skeleton is not None and offset in skeleton.taken
            if not taken and file.samefile(path):
                raise SlancError(
                    f"initializer {tensor.name!r}: its external data is said to lie in the model "
                    "file itself. The file is damaged: export it again."
                )
    return model


def _parsed(path: Path) -> onnx.ModelProto:
    return onnx.load(path, format="protobuf", load_external_data=False)


def all_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor with data, sparse ones as values and indices.

    Initializers and attributes, in subgraphs, functions and the graphs of training too.
    """

    def of_attributes(attributes: Iterable[AttributeProto]) -> Iterator[TensorProto]:
        for attribute in attributes:
            if attribute.type == AttributeProto.TENSOR and attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.type == AttributeProto.SPARSE_TENSOR:
                yield from of_sparse([attribute.sparse_tensor])
            yield from of_sparse(attribute.sparse_tensors)
            if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
                for graph in (attribute.g, *attribute.graphs):
                    yield from of_graph(graph)

    def of_sparse(tensors: Iterable[SparseTensorProto]) -> Iterator[TensorProto]:
        for tensor in tensors:
            yield from (t for t in (tensor.values, tensor.indices) if t.data_type)

    def of_graph(graph: onnx.GraphProto) -> Iterator[TensorProto]:
        yield from graph.initializer
        yield from of_sparse(graph.sparse_initializer)
        for node in graph.node:
            yield from of_attributes(node.attribute)

    yield from of_graph(model.graph)
    for function in model.functions:
        yield from of_attributes(function.attribute_proto)
        for node in function.node:
            yield from of_attributes(node.attribute)
    for training in model.training_info:
        yield from of_graph(training.initialization)
        yield from of_graph(training.algorithm)


def float32_bytes(model: onnx.ModelProto) -> int:
    """The bytes of all tensors of a model once FP16 and BF16 have become FP32."""
    narrow = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return sum(
        math.prod(tensor.dims)
        * (
            4
            if tensor.data_type in narrow
            else onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        )
        for tensor in all_tensors(model)
    )


def stored_bytes(model: onnx.ModelProto, folder: Path | None) -> int:
    """The bytes of a model and of its external data in a folder.

    Raises:
        SlancError: some of that is not there.
    """
    total: int = model.ByteSize()
    if folder is not None:
        for tensor in all_tensors(model):
            if tensor.data_location == TensorProto.EXTERNAL:
                total += external_range(tensor, folder)[2]
    return total


def every_node(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes and the nodes of their subgraphs; a node comes before those inside it."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from every_node(attribute.g.node)


def every_graph(body: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.GraphProto]:
    """A graph and the graphs in it, or those in a function."""
    waiting = [body]
    while waiting:
        part = waiting.pop()
        if isinstance(part, onnx.GraphProto):
            yield part
        for node in part.node:
            waiting += [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]


def names_read(model: onnx.ModelProto) -> set[str]:
    """The names of all tensors that a node reads or a graph gives out, in any graph."""
    found = {info.name for graph in every_graph(model.graph) for info in graph.output}
    for node in every_node(model.graph.node):
        found.update(node.input)
    return found


def external_location(tensor: TensorProto) -> str:
    """The relative path of the file that holds an external tensor."""
    return next((e.value for e in tensor.external_data if e.key == "location"), "")


def stays_inside(location: str, kind: type[PurePath] = PurePath) -> bool:
    """Whether a location leads nowhere but into its folder, by name.

    Args:
        location: As a model has it.
        kind: Of the system's paths: on Windows a drive or a root alone leads elsewhere.
    """
    path, depth = kind(location), 0
    for part in path.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return False
    return not path.anchor


def _number(text: str) -> int:
    """A number as runtimes read it, in digits: Python's own also takes spaces, signs, _ and ١٢."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(repr(text))
    return int(text)


def external_range(tensor: TensorProto, folder: Path) -> tuple[Path, int, int]:
    """File, offset and length in bytes of an external tensor.

    Raises:
        SlancError: they make no sense, or the file is missing or too short.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    file = folder / location
    # By name, not by resolved path: download caches keep model and data as links to elsewhere.
    if not location or not stays_inside(location):
        raise SlancError(
            f"initializer {tensor.name!r}: external data location {location!r} leaves the model's "
            f"folder. Move the data file beside the model and export again."
        )
    if not file.is_file():
        told = f"initializer {tensor.name!r}: external data file {location!r}"
        missing = SlancError(f"{told} is missing. Copy it into {folder} beside the model.")
        raise no_name(told, file) or missing
    size = file.stat().st_size
    try:
        offset = _number(entries.get("offset", "0"))
        length = _number(entries.get("length", str(max(0, size - offset))))
    except ValueError as error:
        raise SlancError(
            f"initializer {tensor.name!r}: its place in {location!r} is no number ({error}). "
            "Export the model again."
        ) from error
    if offset + length > size:
        raise SlancError(
            f"initializer {tensor.name!r}: external data file {location!r} has {size} bytes, "
            f"but {offset + length} are needed. It was cut short: copy it again."
        )
    return file, offset, length


def read_tensor(tensor: TensorProto, folder: Path | None) -> Array:
    """The values of a tensor, as a read-only view of the file or message where possible.

    Args:
        tensor: An initializer or a Constant's value, of any element type.
        folder: The folder of the model, for external data; None if the model has none.

    Raises:
        SlancError: its data is damaged or not there.
    """
    if tensor.data_location != TensorProto.EXTERNAL:
        if tensor.HasField("raw_data") and tensor.data_type not in PACKED:
            return _view(tensor, memoryview(tensor.raw_data))
        try:
            return numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise _damaged(tensor, str(error)) from error
    if folder is None:
        raise SlancError(
            f"initializer {tensor.name!r} is external data, but the model's folder is unknown. "
            "Pass folder=, or load the model with its external data."
        )
    file, offset, length = external_range(tensor, folder)
    data = bytes_at(file, offset, length)
    if tensor.data_type in PACKED:
        inline = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=bytes(data))
        return numpy_helper.to_array(inline)
    return _view(tensor, data)


def constant_value(node: NodeProto) -> TensorProto | None:
    """The value of a Constant node, None where it is no tensor of numbers."""
    attribute = node.attribute[0] if node.attribute else None
    if attribute is None:
        return None
    if attribute.name == "value":
        value: TensorProto = attribute.t
        return value
    if attribute.name in ("value_float", "value_floats"):
        several = attribute.name == "value_floats"
        values = np.array(attribute.floats if several else attribute.f, dtype=np.float32)
        return numpy_helper.from_array(values)
    if attribute.name in ("value_int", "value_ints"):
        whole = np.array(attribute.ints or attribute.i, dtype=np.int64)
        return numpy_helper.from_array(whole)
    return None


def with_tensor(node: NodeProto) -> TensorProto:
    """The tensor of a Constant node of numbers; those in another attribute become one in place."""
    attribute = node.attribute[0]
    if attribute.name != "value":
        attribute.CopyFrom(onnx.helper.make_attribute("value", constant_value(node)))
    value: TensorProto = attribute.t
    return value


def bytes_at(file: Path, offset: int, length: int) -> memoryview:
    """Bytes of a file: mapped, or read where numbers do not lie there as they do in memory.

    NumPy takes longer with those, and sums them in another order.
    """
    if not length:
        return memoryview(b"")
    with file.open("rb") as opened:
        if offset % _ALIGNED:
            found = np.empty(length, np.uint8)
            opened.seek(offset)
            opened.readinto(found.data)
            return found.data.toreadonly()
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        size = length + offset - start
        pages = mmap.mmap(opened.fileno(), size, offset=start, access=mmap.ACCESS_READ)
    return memoryview(pages)[offset - start :]


def _view(tensor: TensorProto, data: memoryview) -> Array:
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    count = math.prod(tensor.dims)
    if dtype.hasobject:
        raise _damaged(tensor, "raw data of texts")
    if len(data) < count * dtype.itemsize:
        raise _damaged(tensor, f"{len(data)} bytes of data")
    return np.frombuffer(data, dtype=dtype, count=count).reshape(tuple(tensor.dims))


def _damaged(tensor: TensorProto, what: str) -> SlancError:
    return SlancError(
        f"initializer {tensor.name!r}: {what} for shape {list(tensor.dims)}. The file is "
        "damaged: export it again."
    )
