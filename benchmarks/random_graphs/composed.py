"""Composed: a random graph of any ops before a norm, grown node by node as a runtime takes them.

Each node is run on numbers as it is drawn, which tells the shapes and types of what it makes; what
the runtime refuses is drawn again. Some nodes read constants alone, so that every op is folded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from benchmarks.random_graphs.any_op import (
    RECORDED,
    RULED,
    Drawn,
    Key,
    Schema,
    draw,
    node_of,
    schemas_at,
    type_of,
)
from benchmarks.random_graphs.building import BOOL, INT64, Array, Building, Dim, Input
from benchmarks.random_graphs.fitted import FITS, fitted
from benchmarks.random_graphs.make import SIZES, Made, extreme_rows
from slanc_onnx.targets import TARGETS

KIND = "any_ops"
OPSETS = (11, 12, 13, 14, 16, 17, 18, 20, 21, 22, 23, 24)
TRIES = 6  # of an op, before another one is drawn
SAMPLE = {"b": 2, "s": 3}  # sizes that the nodes are tried on
MOST = 1 << 12  # elements of what a node makes
SHARES = (0.65, 0.85)  # of nodes whose op has a rule, and of those that it or a record knows


@cache
def schemas_of(opset: int) -> dict[Key, Schema]:
    return schemas_at(opset)


@dataclass
class _Growing:
    """A graph that grows, with the numbers that its tensors have on the sample sizes."""

    g: Building
    data: dict[str, Array] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    recent: list[str] = field(default_factory=list)
    ops: list[Key] = field(default_factory=list)

    def step(self) -> None:
        """Add one node, if one is found."""
        g = self.g
        folded = g.chance(0.25)
        schema = self._schema(folded)
        if schema is None:
            return
        known = self.constants if folded else {**self.constants, **self.data}
        recent = [] if folded else self.recent[-3:]
        for _ in range(TRIES):
            try:
                drawn = self._drawn(schema, known, recent)
                self._add(drawn, known)
            except (LookupError, ValueError, Refused):
                continue
            return

    def _drawn(self, schema: Schema, known: Mapping[str, Array], recent: Sequence[str]) -> Drawn:
        """A node of an op, to whose first input all others fit where that is asked for."""
        g = self.g
        if schema.key not in FITS or g.chance(0.1):
            return draw(g.rng, schema, known, recent)
        names = list(recent) if recent and g.chance(0.7) else list(known)
        first = str(g.one_of(*names))
        drawn = fitted(g.rng, schema.key, known[first])
        inputs = list(drawn.inputs)
        for place, given in enumerate(inputs):
            if isinstance(given, str):
                inputs[place] = first
            elif given is not None and g.chance(0.5):
                alike = [name for name, a in known.items() if _alike(a, given)]
                inputs[place] = str(g.one_of(*alike)) if alike else given
        return replace(drawn, inputs=tuple(inputs))

    def _schema(self, folded: bool) -> Schema | None:
        g, share = self.g, self.g.rng.random()
        every = schemas_of(g.opset)
        if g.chance(0.12):
            keys = sorted(FITS)
        elif share < SHARES[0] and not folded:
            keys = RULED
        elif share < SHARES[1]:
            keys = RECORDED
        else:
            keys = sorted(every)
        return every.get(keys[int(g.rng.integers(len(keys)))])

    def _add(self, drawn: Drawn, known: Mapping[str, Array]) -> None:
        g = self.g
        arrays = [known[x] if isinstance(x, str) else x for x in drawn.inputs]
        made = tried(drawn, arrays, g.opset)
        if any(array.dtype.kind not in "fiub" or array.size > MOST for array in made):
            raise Refused
        names = [
            x if isinstance(x, str) else "" if x is None else _kept(self, x) for x in drawn.inputs
        ]
        outputs = [g.name(drawn.key[1][:4].lower()) for _ in made]
        g.nodes.append(node_of(drawn, names, outputs))
        fixed = all(not name or name in self.constants for name in names)
        for name, array in zip(outputs, made, strict=True):
            (self.constants if fixed and names else self.data)[name] = array
            if not fixed:
                self.recent.append(name)
        self.ops.append(drawn.key)


def _alike(one: Array, other: Array) -> bool:
    return (one.shape, one.dtype) == (other.shape, other.dtype)


def _kept(growing: _Growing, array: Array) -> str:
    """The name of a new constant; rarely of an initializer that a caller may replace."""
    g = growing.g
    if g.chance(0.02) and array.dtype in (np.float32, np.int64):
        kind = "floats" if array.dtype == np.float32 else "flag"
        name = g.name("given")
        g.inputs.append(Input(name, kind, type_of(array), array.shape, optional=True))  # type: ignore[arg-type]
        g.weights[name] = array
    else:
        name = g.name("k")
        g.weights[name] = array
        growing.constants[name] = array
    return name


class Refused(Exception):
    """No runtime takes the node on these numbers."""


def tried(drawn: Drawn, arrays: list[Array | None], opset: int) -> list[Array]:
    """What ONNX Runtime makes of a node.

    Raises:
        Refused: it takes no such node.
    """
    names = ["" if array is None else f"in{i}" for i, array in enumerate(arrays)]
    outputs = [f"out{i}" for i in range(drawn.outputs)]
    infos = [
        helper.make_tensor_value_info(name, type_of(array), array.shape)
        for name, array in zip(names, arrays, strict=True)
        if array is not None
    ]
    graph = helper.make_graph(
        [node_of(drawn, names, outputs)],
        "one",
        infos,
        [onnx.ValueInfoProto(name=n) for n in outputs],
    )
    ids = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=ids, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feed = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
        found = session.run(None, feed)
    except Exception as error:  # of ONNX Runtime, which has no class of its own
        raise Refused from error
    if not all(isinstance(array, np.ndarray) for array in found):
        raise Refused
    return [np.asarray(array) for array in found]


def composed(seed: int, number: int) -> Made:
    """The graph of a seed and a number."""
    rng = np.random.default_rng([seed, number, 7])
    opset, width = int(rng.choice(OPSETS)), int(rng.choice((4, 8, 8, 12)))
    batch: Dim = "b"
    length: Dim = "s"
    if rng.random() < 0.4:
        batch, length = int(rng.choice((1, 2))), int(rng.choice((1, 2, 3, width)))
    g = Building(rng, opset, batch, length, width)
    table = extreme_rows(rng, width).astype(np.float32)
    growing = _Growing(g)
    _begin(growing, table)
    for _ in range(int(rng.integers(1, 9))):
        growing.step()
    _end(growing)
    limits = {"floats": (-3.0, 3.0), "mask": (0.0, 1.0), "ids": (0.0, len(table) - 1.0)}
    ranges = {i.name: limits[i.kind] for i in g.inputs if i.kind in limits and not i.optional}
    ranges = {name: ends for name, ends in ranges.items() if g.chance(0.6)}
    names = tuple(map(_name, growing.ops)) or ("nothing",)
    target = str(rng.choice(list(TARGETS)))
    return Made(number, g.model(), tuple(g.inputs), len(table), names, KIND, target, ranges, SIZES)


def _begin(growing: _Growing, table: Array) -> None:
    """Rows of a table, normalised most times, with a mask and a size beside them."""
    g, rng = growing.g, growing.g.rng
    g.weights["table"] = table
    g.inputs.append(Input("ids", "ids", INT64, g.dims))
    sizes = tuple(SAMPLE[d] if isinstance(d, str) else d for d in g.dims)
    ids = rng.integers(0, len(table), sizes)
    rows = table[ids]
    g.x = g.node("Gather", "table", "ids")
    if g.chance(0.8):
        g.x = g.node("SimplifiedLayerNormalization", g.x, g.constant(np.ones(g.width)), axis=-1)
        rows = rows / np.sqrt((rows.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5)
    growing.data = {"ids": ids, g.x: rows.astype(np.float32)}
    growing.recent = [g.x]
    if g.chance(0.4):
        name = g.input("mask", "mask", g.one_of(INT64, BOOL), g.dims)
        kind = np.int64 if g.inputs[-1].element_type == INT64 else np.bool_
        growing.data[name] = np.ones(sizes).astype(kind)
    if g.chance(0.3):
        name = g.input("more", "floats", int(TensorProto.FLOAT), (*g.dims, g.width))
        growing.data[name] = rng.standard_normal((*sizes, g.width)).astype(np.float32)
    if g.chance(0.5):
        growing.data[g.node("Shape", g.x)] = np.array(rows.shape)


def _end(growing: _Growing) -> None:
    """A norm of what was made last, of its last axis, after what turns it into rows of FP32."""
    g = growing.g
    name = growing.recent[-1]
    last = growing.data[name]
    if last.dtype != np.float32:
        name = g.node("Cast", name, to=int(TensorProto.FLOAT))
    width = last.shape[-1] if last.ndim else 1
    if width == 1 or g.chance(0.2):
        width = g.width if width == 1 else width
        name = g.node("Add", name, g.constant(np.zeros(width, np.float32)))
    g.x, g.width = name, width
    if g.chance(0.6):
        gamma = g.constant(np.ones(width, np.float32))
        g.x = g.node("SimplifiedLayerNormalization", g.x, gamma, axis=-1, epsilon=1e-5)
    else:
        g.x = g.norm_by_hand(g.x)
    if g.chance(0.3):
        g.x = g.node("Mul", g.x, g.constant(3.0))
        gamma = g.constant(np.ones(width, np.float32))
        g.x = g.node("SimplifiedLayerNormalization", g.x, gamma, axis=-1, epsilon=1e-5)


def unreached(counts: Counter[str]) -> str:
    """Which ops no graph had, of those that a rule or a record knows and of all."""
    every = {key for opset in OPSETS for key in schemas_of(opset)}
    missing = sorted(key for key in every if _name(key) not in counts)
    known = {*RULED, *RECORDED}
    names = ", ".join(_name(key) for key in missing if key in known) or "none"
    return (
        f"{len(every) - len(missing)} of {len(every)} ops reached; never, of those that a rule or "
        f"a record knows: {names}; of the others: {sum(key not in known for key in missing)}"
    )


def _name(key: Key) -> str:
    return ".".join(filter(None, key))
