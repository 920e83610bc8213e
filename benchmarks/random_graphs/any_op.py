"""Any op: one node of any op that ONNX or ONNX Runtime has, with what it reads drawn at random.

The schema tells the inputs, their types and the attributes; names tell what else makes sense. What
a runtime refuses is drawn again by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from benchmarks.random_graphs.building import Array
from slanc_onnx.ops import BETWEEN, ELEMENTWISE, FUSED
from slanc_onnx.prove.trusted import rules  # noqa: F401  # they enter themselves
from slanc_onnx.prove.trusted.table import RULES

# What ends the process of ONNX Runtime where it is called wrongly.
_ENDS = (
    *("QLinearLeakyRelu", "QLinearSigmoid", "AttnLSTM", "MatMulIntegerToFloat"),
    *("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"),
)
Rng = np.random.Generator
Key = tuple[str, str]  # domain and op
MICROSOFT = "com.microsoft"
FLOATS = (0.0, 1.0, -1.0, 0.5, 2.0, 1e-3, 1e3, 1e-40, 1e38, 7.0)
EXTREMES = (0.0, 1.0, -1.0, 0.5, 3.0, 1e-40, 1e-8, 1e4, 3e38, -3e38, -np.inf, 1e19)
TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
CAST_TO = (1, 1, 10, 16, 11, 7, 6, 3, 2, 9, 12, 13)
TEXTS: dict[str, tuple[str, ...]] = {
    "mode": ("constant", "edge", "reflect", "wrap", "nearest", "linear", "cubic", "DCR", "CRD"),
    "approximate": ("none", "tanh"),
    "reduction": ("none", "add", "mul", "max", "min"),
    "auto_pad": ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"),
    "direction": ("LEFT", "RIGHT", "forward", "reverse", "bidirectional"),
    "equation": ("bsd->bsd", "bsd->bds", "bsd,btd->bst", "ij->j", "i,i->", "bsd,bsd->bs"),
    "padding_mode": ("zeros", "border", "reflection"),
    "keep_aspect_ratio_policy": ("stretch", "not_larger", "not_smaller"),
    "nearest_mode": ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
    "coordinate_transformation_mode": (
        *("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "tf_crop_and_resize"),
    ),
    "activation": ("Relu", "Tanh", "Sigmoid"),
}
_WHOLE = (np.int64, np.int32)


@dataclass(frozen=True)
class Formal:
    """An input of an op: its name, the types it may have, what it shares them with, its kind."""

    name: str
    types: frozenset[str]
    of: str
    optional: bool
    variadic: bool


@dataclass(frozen=True)
class Schema:
    """What an op takes: its inputs, the kinds of its attributes, and how many outputs it has."""

    key: Key
    inputs: tuple[Formal, ...]
    attributes: Mapping[str, tuple[Any, bool]]
    outputs: int


def schemas_at(opset: int) -> dict[Key, Schema]:
    """Every op of a version of the standard domain, and ONNX Runtime's own."""
    found: dict[Key, Schema] = {}
    for name in {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}:
        try:
            schema = onnx.defs.get_schema(name, opset, "")
        except onnx.defs.SchemaError:
            continue
        if not schema.deprecated and name not in _ENDS:
            found["", name] = _read(schema, "")
    for schema in get_all_operator_schema():
        if schema.domain == MICROSOFT and schema.name not in _ENDS:
            found[MICROSOFT, schema.name] = _read(schema, MICROSOFT)
    return {key: schema for key, schema in found.items() if not _holds_graphs(schema)}


def _read(schema: Any, domain: str) -> Schema:
    choices = {t.type_param_str: frozenset(t.allowed_type_strs) for t in schema.type_constraints}
    inputs = []
    for given in schema.inputs:
        option = str(given.option).rpartition(".")[2]
        optional, variadic = option == "Optional", option == "Variadic"
        of = str(getattr(given, "type_str", "") or given.typeStr)
        types = choices.get(of, frozenset({of}))
        inputs.append(Formal(given.name, types, of, optional, variadic))
    attributes = {
        name: (str(a.type).rpartition(".")[2], a.required) for name, a in schema.attributes.items()
    }
    return Schema((domain, schema.name), tuple(inputs), attributes, max(1, schema.min_output))


def _holds_graphs(schema: Schema) -> bool:
    return any(kind in ("GRAPH", "GRAPHS") for kind, _ in schema.attributes.values())


RULED = sorted(RULES)
RECORDED = sorted({("", op) for op in (*BETWEEN, *ELEMENTWISE, *FUSED)})


@dataclass(frozen=True)
class Drawn:
    """A node to try: its inputs are names of tensors, arrays of new constants, or left out."""

    key: Key
    inputs: tuple[str | Array | None, ...]
    attributes: Mapping[str, Any]
    outputs: int


def draw(rng: Rng, schema: Schema, pool: Mapping[str, Array], recent: Sequence[str]) -> Drawn:
    """A node of an op that reads some of the pool, the recent ones first.

    Raises:
        LookupError: it takes what no tensor here is, like sequences.
    """
    first: Array | None = None
    kinds: dict[str, str] = {}
    inputs: list[str | Array | None] = []
    for place, formal in enumerate(schema.inputs):
        count = int(rng.integers(1, 4)) if formal.variadic else 1
        for _ in range(count):
            if formal.optional and rng.random() < 0.5:
                inputs.append(None)
                continue
            given = _input(rng, formal, pool, recent if place == 0 else [], first, kinds)
            inputs.append(given)
            array = pool[given] if isinstance(given, str) else given
            first = array if first is None else first
    while inputs and inputs[-1] is None:
        inputs.pop()
    attributes = {
        name: value
        for name, (kind, required) in schema.attributes.items()
        if required or rng.random() < 0.4
        for value in [_attribute(rng, name, kind, first)]
        if value is not None
    }
    return Drawn(schema.key, tuple(inputs), attributes, schema.outputs)


def _input(
    rng: Rng,
    formal: Formal,
    pool: Mapping[str, Array],
    recent: Sequence[str],
    first: Array | None,
    kinds: dict[str, str],
) -> str | Array:
    """A tensor of the pool, or a constant that makes sense under the name of the input."""
    known = {text: dtype for text, dtype in TYPES.items() if text in formal.types}
    if formal.of in kinds:
        known = {kinds[formal.of]: TYPES[kinds[formal.of]]}
    if not known:
        raise LookupError(formal.name)
    special = _SPECIAL.get(formal.name)
    dtypes = {np.dtype(dtype) for dtype in known.values()}
    fits = [name for name in pool if pool[name].dtype in dtypes]
    near = [name for name in recent if name in fits]
    chosen: str | Array
    if special is not None and first is not None and rng.random() < 0.85:
        kind = np.int64 if np.dtype(np.int64) in dtypes else next(iter(known.values()))
        chosen = np.asarray(special(rng, first)).astype(kind)
    elif near and rng.random() < 0.9:
        chosen = str(rng.choice(near))
    elif fits and rng.random() < 0.5:
        chosen = str(rng.choice(fits))
    else:
        chosen = _constant(rng, list(known.values()), first)
    array = pool[chosen] if isinstance(chosen, str) else chosen
    text = next((t for t, dtype in TYPES.items() if array.dtype == dtype), "")
    kinds.setdefault(formal.of, text)
    return chosen


def _constant(rng: Rng, dtypes: Sequence[Any], first: Array | None) -> Array:
    """Numbers that broadcast with the first input, are multiplied with it, or stand alone."""
    dtype = np.dtype(dtypes[int(rng.integers(len(dtypes)))])
    shape: tuple[int, ...] = () if rng.random() < 0.4 or first is None else first.shape
    if len(shape) > 1 and rng.random() < 0.5:
        width = shape[-1]
        shape = [(width,), (width, width), (width, 4), (1, 1, 1), (1,)][int(rng.integers(5))]
    elif rng.random() < 0.3:
        shape = tuple(size if rng.random() < 0.6 else 1 for size in shape)
    if dtype == np.bool_:
        return np.asarray(rng.random(shape) < 0.5)
    if dtype.kind in "iu":
        return np.asarray(rng.integers(0 if dtype.kind == "u" else -3, 5, shape)).astype(dtype)
    with np.errstate(all="ignore"):
        if rng.random() < 0.4:
            return np.full(shape, rng.choice(EXTREMES)).astype(dtype)
        return np.asarray(rng.standard_normal(shape) * rng.choice((1.0, 1.0, 30.0))).astype(dtype)


def _few(rng: Rng, first: Array) -> list[int]:
    rank = max(first.ndim, 1)
    axes = rng.permutation(rank)[: int(rng.integers(1, rank + 1))]
    return [int(axis) - (rank if rng.random() < 0.5 else 0) for axis in axes]


def _shape(rng: Rng, first: Array) -> list[int]:
    """Sizes of a Reshape: those of the tensor, some joined, one split, some left to the op."""
    sizes = list(first.shape)
    for _ in range(int(rng.integers(3))):
        at = int(rng.integers(max(len(sizes), 1)))
        if rng.random() < 0.6 and at + 1 < len(sizes):
            sizes[at : at + 2] = [sizes[at] * sizes[at + 1]]
        elif sizes and sizes[at] % 2 == 0:
            sizes[at : at + 1] = [2, sizes[at] // 2]
        else:
            sizes.insert(at, 1)
    same = [i for i in range(min(len(sizes), first.ndim)) if sizes[i] == first.shape[i]]
    for i in same:
        sizes[i] = 0 if rng.random() < 0.4 else sizes[i]
    if sizes and rng.random() < 0.6:
        sizes[int(rng.integers(len(sizes)))] = -1
    return sizes


def _ends(rng: Rng, first: Array) -> list[int]:
    return [int(rng.choice((-100, -3, -2, -1, 0, 1, 2, 5, 100, -(2**62), 2**62)))]


def _index(rng: Rng, first: Array) -> Array:
    least = max(1, min(first.shape, default=1))
    shape = [(), (1,), (3,), (2, 2), first.shape][int(rng.integers(5))]
    return np.asarray(rng.integers(-least, least, shape))


def _split(rng: Rng, first: Array) -> list[int]:
    size = first.shape[-1] if first.ndim else 1
    part = int(rng.integers(0, size + 1))
    return [part, size - part]


def _pads(rng: Rng, first: Array) -> list[int]:
    return [
        int(n) for n in rng.integers(-2, 4, 2 * first.ndim) * (rng.random(2 * first.ndim) < 0.4)
    ]


_SPECIAL: dict[str, Callable[[Rng, Array], Any]] = {
    "axes": _few,
    "axis": lambda rng, first: _few(rng, first)[0],
    "shape": _shape,
    "starts": _ends,
    "ends": _ends,
    "steps": lambda rng, first: [int(rng.choice((1, 1, 2, -1, -2)))],
    "pads": _pads,
    "repeats": lambda rng, first: rng.integers(1, 3, first.ndim),
    "K": lambda rng, first: [int(rng.integers(1, 4))],
    "k": lambda rng, first: int(rng.integers(-3, 4)),
    "split": _split,
    "indices": _index,
    "depth": lambda rng, first: 8,
    "sizes": lambda rng, first: [size * int(rng.integers(1, 3)) for size in first.shape],
    "scales": lambda rng, first: [float(rng.choice((1, 1, 2, 0.5))) for _ in first.shape],
    "training_mode": lambda rng, first: rng.random() < 0.2,
    "y_scale": lambda rng, first: float(rng.choice((0.1, 1.0, 30.0, 1e-3))),
    "x_scale": lambda rng, first: float(rng.choice((0.1, 1.0, 30.0, 1e-3))),
    "W": lambda rng, first: rng.standard_normal(
        (4, first.shape[1] if first.ndim > 1 else 1, *(1,) * max(first.ndim - 2, 1))
    ),
}


def _attribute(rng: Rng, name: str, kind: str, first: Array | None) -> Any:
    """A value of an attribute; None where it is of no kind that is drawn."""
    rank = first.ndim if first is not None else 2
    if kind == "INT":
        if name in ("to", "dtype", "output_dtype"):
            return int(rng.choice(CAST_TO))
        if "head" in name:
            return int(rng.choice((1, 2, 4)))
        if "axis" in name:
            return int(rng.integers(-3, 3))
        return int(rng.choice((0, 1, 0, 1, 2, -1)))
    if kind == "FLOAT":
        return float(rng.choice(FLOATS))
    if kind == "STRING":
        return str(rng.choice(TEXTS.get(name, ("none",))))
    if kind == "INTS":
        if name == "perm":
            return [int(axis) for axis in rng.permutation(rank)]
        if name == "axes":
            return _few(rng, first if first is not None else np.zeros((1, 1)))
        length = max(rank - 2, 1) * (2 if name == "pads" else 1)
        return [int(n) for n in rng.integers(0 if name == "pads" else 1, 3, length)]
    if kind == "TENSOR" and name == "value":
        dtype = (np.float32, np.int64, np.bool_, np.float16)[int(rng.integers(4))]
        with np.errstate(all="ignore"):
            number = np.array([rng.choice(EXTREMES)]).astype(dtype)
        return onnx.numpy_helper.from_array(number)
    return None


def node_of(drawn: Drawn, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
    """The node, with these names."""
    domain, op = drawn.key
    made = helper.make_node(op, list(inputs), list(outputs), name=outputs[0], domain=domain)
    for key, value in drawn.attributes.items():
        if not isinstance(value, list) or value:  # an empty one has no type
            made.attribute.append(helper.make_attribute(key, value))
    return made


def type_of(array: Array) -> int:
    """ONNX's element type of an array."""
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))
