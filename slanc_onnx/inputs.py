"""Inputs for running a model when the user gives none: made from the graph's own inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from slanc_onnx.graph import Scope, op_of
from slanc_onnx.load import Array
from slanc_onnx.tensor_facts import constant_made, dims

# Ops through which token ids reach the Gather that looks them up.
_INDEX_OPS = {"Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Expand", "Clip"}
# Ops that look rows up, with the positions of (table, indices).
_LOOKUPS = {
    "Gather": ((0, 1),),
    "GatherBlockQuantized": ((0, 1),),
    "EmbedLayerNormalization": ((2, 0), (4, 1)),
}
IMAGE_SIZES = (224, 32, 64, 384, 512)
SEED, FIRST_IDS = 0, 32
_SAMPLES = 4000  # of audio: enough for one frame of the usual stack of strided convolutions


@dataclass(frozen=True)
class InputSpec:
    """One graph input that has to be fed.

    Attributes:
        name: As in the graph.
        element_type: onnx.TensorProto element type.
        dims: Sizes, or names (possibly empty) for dynamic ones.
        rows: Rows of the smallest table that this input's values look up; 0 if none.
        head_width: Last dimension that an attention op asks of this cache; 0 if unknown.
        window: Rows that an attention op asks of this cache before the first token.
    """

    name: str
    element_type: int
    dims: tuple[int | str, ...]
    rows: int
    head_width: int = 0
    window: int = 0

    @property
    def is_float(self) -> bool:
        floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
        return self.element_type in floats

    @property
    def is_cache(self) -> bool:
        return any(isinstance(dim, str) and "past" in dim for dim in self.dims) and self.is_float

    @property
    def is_text(self) -> bool:
        """Whether the values are ids of a vocabulary (not positions or segments)."""
        return self.rows > 0 and not any(w in self.name.lower() for w in ("posi", "type", "seg"))


def input_specs(main: Scope) -> list[InputSpec]:
    """The graph inputs without a default value, in order."""
    tensors = {t.name: t for t in main.graph.inputs}
    specs = []
    for info in main.proto.input:
        if info.name in main.initializers or not info.type.HasField("tensor_type"):
            continue
        kind = info.type.tensor_type
        sizes = tuple(  # old exporters write -1 for a dynamic size
            d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else d.dim_param
            for d in kind.shape.dim
        )
        rows = min(_table_rows(main, tensors[info.name]), default=0)
        width = _head_width(main, tensors[info.name])
        element_type = kind.elem_type or TensorProto.FLOAT  # left undefined by some exporters
        window = _window(tensors[info.name])
        specs.append(InputSpec(info.name, element_type, sizes, rows, width, window))
    return specs


def _table_rows(main: Scope, tensor: gs.Tensor, depth: int = 0) -> Iterator[int]:
    for node in tensor.outputs:
        for table, indices in _LOOKUPS.get(op_of(node), ()):
            if len(node.inputs) > indices and node.inputs[indices] is tensor:
                held = constant_made(main, node.inputs[table])  # a tied one may be turned first
                shape = dims(main, node.inputs[table]) if held else None
                by_row = node.attrs.get("axis", 0) == 0
                if shape and len(shape) > 1 and by_row and isinstance(shape[0], int):
                    yield shape[0]
        if op_of(node) in _INDEX_OPS and node.inputs[0] is tensor and depth < 8:
            yield from _table_rows(main, node.outputs[0], depth + 1)


def _attention_of(tensor: gs.Tensor) -> gs.Node | None:
    """The GroupQueryAttention that reads a cache."""
    return next((n for n in tensor.outputs if op_of(n) == "GroupQueryAttention"), None)


def _head_width(main: Scope, tensor: gs.Tensor) -> int:
    """The width of a cache head: that of the keys, or what the rotary table tells."""
    node = _attention_of(tensor)
    if node is None:
        return 0
    queries, heads = int(node.attrs["num_heads"]), int(node.attrs["kv_num_heads"])
    packed = not node.inputs[1].name
    columns = _columns(main, node.inputs[0 if packed else 1])
    if columns:
        return columns // (queries + 2 * heads if packed else heads)
    cosine = main.constant(node.inputs[7]) if len(node.inputs) > 7 else None
    return 2 * int(cosine.dims[1]) if cosine is not None and len(cosine.dims) == 2 else 0


def _columns(main: Scope, tensor: gs.Tensor, depth: int = 0) -> int:
    """The last dimension of an activation, as far as the file or the weight behind it tells."""
    shape = dims(main, tensor) or ("?",)
    if isinstance(shape[-1], int):
        return shape[-1]
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or depth > 4:
        return 0
    if op_of(maker) == "MatMulNBits":
        return int(maker.attrs["N"])
    if op_of(maker) == "MatMul":
        return _columns(main, maker.inputs[1], depth + 1)
    if op_of(maker) != "Add":
        return 0
    return max(_columns(main, t, depth + 1) for t in maker.inputs)


def _window(tensor: gs.Tensor) -> int:
    """The rows that a cache of a sliding window must have from the start."""
    node = _attention_of(tensor)
    sliding = node is not None and node.attrs.get("sliding_window_cache", 0)
    return max(0, int(node.attrs.get("local_window_size", 0))) if sliding and node else 0


def make_feeds(
    specs: Sequence[InputSpec],
    rng: np.random.Generator,
    *,
    batch: int = 1,
    sequence: int = 16,
    size: int = IMAGE_SIZES[0],
    ids: Array | None = None,
    draw: int = 0,
) -> dict[str, Array]:
    """One set of inputs: random ids, masks of ones, positions, empty caches, unit-variance floats.

    Args:
        specs: The inputs.
        rng: Source of the random ids and floats.
        batch: Size of dynamic first axes.
        sequence: Size of dynamic sequence axes.
        size: Height and width of images whose size the file leaves open.
        ids: Token ids of shape [batch, sequence] for the text inputs, instead of random ones.
        draw: Which random ids; every number gives others.
    """
    return {spec.name: _feed(spec, rng, batch, sequence, size, ids, draw) for spec in specs}


def _feed(
    spec: InputSpec,
    rng: np.random.Generator,
    batch: int,
    sequence: int,
    size: int,
    ids: Array | None,
    draw: int,
) -> Array:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(spec.element_type))
    shape = _shape(spec, batch, sequence, size)
    name = spec.name.lower()
    if spec.is_cache:
        return np.zeros(shape, dtype)
    if spec.is_float:
        return rng.standard_normal(shape).astype(dtype)
    if spec.is_text:
        values = ids if ids is not None else random_ids(spec.rows, shape, draw)
        return np.broadcast_to(values, shape).astype(dtype)
    if "position" in name:
        return np.broadcast_to(np.arange(shape[-1] if shape else 1), shape).astype(dtype)
    if spec.rows or "type" in name or "segment" in name:
        return np.zeros(shape, dtype)
    return np.ones(shape, dtype)  # masks, flags


def random_ids(rows: int, shape: tuple[int, ...], draw: int = 0) -> Array:
    """Token ids drawn uniformly, but each row starts with another of the first `FIRST_IDS`.

    The rows of draw 1 follow on those of draw 0, and so on.

    Vocabularies keep begin-of-text and the other special tokens there. They come first in real
    inputs, their rows are unlike all others, and chance would not draw them. The ids depend on
    the arguments alone, so that every estimate sees the same ones.
    """
    seed = [SEED, *shape, draw] if draw else [SEED, *shape]
    ids = np.random.default_rng(seed).integers(0, rows, shape)
    if ids.ndim:
        flat = ids.reshape(-1, shape[-1])
        first = draw * len(flat)
        special = np.arange(first, min(first + len(flat), FIRST_IDS, rows))
        flat[special - first, 0] = special
    return np.asarray(ids)


def _shape(spec: InputSpec, batch: int, sequence: int, size: int) -> tuple[int, ...]:
    def of(axis: int, dim: int | str) -> int:
        if isinstance(dim, int):
            return dim
        low = dim.lower()
        if "+" in dim or "total" in low:
            return sequence
        if "past" in low:
            return spec.window
        if axis == 0:
            return batch
        if spec.is_cache:
            return spec.head_width or sequence
        if spec.is_float and len(spec.dims) == 4:
            return 3 if axis == 1 else size
        if spec.is_float and len(spec.dims) == 2:
            return _SAMPLES
        return sequence

    return tuple(of(axis, dim) for axis, dim in enumerate(spec.dims))
