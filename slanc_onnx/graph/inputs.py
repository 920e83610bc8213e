"""The inputs of a graph that have to be fed, with the facts that the file tells of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs
from onnx import TensorProto

from slanc_onnx.graph.facts import constant_made, dims
from slanc_onnx.graph.scope import Scope, op_of

# Ops through which token ids reach the Gather that looks them up.
_INDEX_OPS = {"Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Expand", "Clip"}


# Ops that look rows up, with the positions of (table, indices).
_LOOKUPS = {
    "Gather": ((0, 1),),
    "GatherBlockQuantized": ((0, 1),),
    "EmbedLayerNormalization": ((2, 0), (4, 1)),
}
# Ops that pick or replace elements, with the position of the indices.
_PICKS = {
    **dict.fromkeys(("Gather", "GatherElements", "GatherND"), 1),
    **dict.fromkeys(("Scatter", "ScatterElements", "ScatterND"), 1),
}


_SAMPLES = {TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16}


@dataclass(frozen=True)
class InputSpec:
    """One graph input that has to be fed.

    Attributes:
        name: As in the graph.
        element_type: onnx.TensorProto element type.
        dims: Sizes, or names (possibly empty) for dynamic ones.
        rows: Rows of the smallest table that the input's values are looked up in; 0 if none. One
            behind a Clip counts only where there is no other.
        head_width: Last dimension that an attention op asks of this cache; 0 if unknown.
        sliding_window: Rows that an attention op asks of this cache before the first token.
        points: Whether the values say where something else is, like the graph of each node.
    """

    name: str
    element_type: int
    dims: tuple[int | str, ...]
    rows: int
    head_width: int = 0
    sliding_window: int = 0
    points: bool = False

    @property
    def is_float(self) -> bool:
        """Whether the values are floats."""
        floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
        return self.element_type in floats

    @property
    def is_cache(self) -> bool:
        """Whether the input holds past keys or values, as the names of its sizes tell."""
        return any(isinstance(dim, str) and "past" in dim for dim in self.dims) and self.is_float

    @property
    def is_picture(self) -> bool:
        """Whether the values may be pixels in three colours."""
        return self.is_float and not self.is_cache and len(self.dims) > 3 and 3 in self.dims

    @property
    def is_sampled(self) -> bool:
        """Whether the values may be any of their type: raw pixels or sound, but no mask or index.

        Such types are as narrow as a sample; what counts or points is written in wider ones.
        """
        indexes = self.rows or self.points or "mask" in self.name.lower()
        return self.element_type in _SAMPLES and not indexes

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
        _, rows = min(_table_rows(main, tensors[info.name]), default=(False, 0))
        width = _head_width(main, tensors[info.name])
        element_type = kind.elem_type or TensorProto.FLOAT  # left undefined by some exporters
        sliding_window = _sliding_window(tensors[info.name])
        points = _points(tensors[info.name])
        specs.append(InputSpec(info.name, element_type, sizes, rows, width, sliding_window, points))
    return specs


def _table_rows(
    main: Scope, tensor: gs.Tensor, depth: int = 0, clipped: bool = False
) -> Iterator[tuple[bool, int]]:
    """Of the tables that a tensor's values are looked up in: if behind a Clip, and their rows."""
    for node in tensor.outputs:
        for table, indices in _LOOKUPS.get(op_of(node), ()):
            if len(node.inputs) > indices and node.inputs[indices] is tensor:
                held = constant_made(main, node.inputs[table])  # a tied one may be turned first
                shape = dims(main, node.inputs[table]) if held else None
                by_row = node.attrs.get("axis", 0) == 0
                if shape and len(shape) > 1 and by_row and isinstance(shape[0], int):
                    yield clipped, shape[0]
        if _carries_indices(node, tensor) and depth < 8:
            within = clipped or op_of(node) == "Clip"
            yield from _table_rows(main, node.outputs[0], depth + 1, within)


def _carries_indices(node: gs.Node, tensor: gs.Tensor) -> bool:
    """Whether a node's first output has the indices of a tensor that it reads."""
    return op_of(node) in _INDEX_OPS and node.inputs[0] is tensor and bool(node.outputs)


def _points(tensor: gs.Tensor, depth: int = 0) -> bool:
    """Whether a tensor's values are the indices of an op that picks or replaces elements."""
    for node in tensor.outputs:
        position = _PICKS.get(op_of(node), len(node.inputs))
        if position < len(node.inputs) and node.inputs[position] is tensor:
            return True
        inner = _carries_indices(node, tensor) and depth < 8
        if inner and _points(node.outputs[0], depth + 1):
            return True
    return False


def _attention_of(tensor: gs.Tensor) -> gs.Node | None:
    """The GroupQueryAttention that reads a cache, None where none does."""
    return next((n for n in tensor.outputs if op_of(n) == "GroupQueryAttention"), None)


def _head_width(main: Scope, tensor: gs.Tensor) -> int:
    """The width of a cache's heads, from the keys or the rotary table; 0 if neither tells."""
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
    """The last dimension of an activation, from the file or the weight behind it; 0 if unknown."""
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


def _sliding_window(tensor: gs.Tensor) -> int:
    """The rows that a cache must have from the start for a sliding window; 0 without one."""
    node = _attention_of(tensor)
    sliding = node is not None and node.attrs.get("sliding_window_cache", 0)
    return max(0, int(node.attrs.get("local_window_size", 0))) if sliding and node else 0
