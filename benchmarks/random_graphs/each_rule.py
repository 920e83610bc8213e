"""Each rule of the proof on random nodes: what ONNX Runtime makes is among what the rule says.

    python -m benchmarks.random_graphs.each_rule [--count 10000] [--seed 0] [--only OP ...]

A node of each op with a rule in turn, its attributes and constants drawn by its schema, reads
arrays of which the rule is told a set that holds them: extreme sizes, all types of floats and whole
numbers, channels along any axes, open sizes. Exit status 1 where an output is not in the set that
follows.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import helper

from benchmarks.markdown import count as shown_count
from benchmarks.missing import positive, told
from benchmarks.random_graphs.any_op import RULED, Drawn, Rng, Schema, draw, node_of, type_of
from benchmarks.random_graphs.building import Array
from benchmarks.random_graphs.composed import Refused, schemas_of, tried
from benchmarks.random_graphs.fitted import FITS, fitted
from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.sets import Box, Ellipsoids
from slanc_onnx.prove.trusted.agreed import refuse_odd_switches
from slanc_onnx.prove.trusted.computed import computer
from slanc_onnx.prove.trusted.table import Call, applied, rule_for
from slanc_onnx.prove.trusted.values import Constant, Operand, Value
from tests.oracles.in_sets import holds

OPSETS = (11, 13, 17, 18, 21, 23, 24)
SHAPES = (
    *((2, 3, 8), (2, 3, 8), (1, 3, 8), (2, 8), (2, 3, 1), (8,), (2, 2, 3, 4), (2, 8, 3)),
    *((2, 8, 8), (6,), (), (2, 3, 32)),
)
SIZES = (1, 1, 30, 1e-3, 3, 1e-6, 1e-40, 1e4, 1e18, 3e-5)
FLOATS = (np.float32, np.float32, np.float16, np.float64)
WHOLE: tuple[Any, ...] = (np.int64, np.int32, np.int8, np.uint8)
TRIES = 60  # of a tensor to which others fit
CLOSE = 1 + 1e-12  # of a length that was computed in FP64


def main(arguments: Sequence[str] | None = None) -> int:
    """Try so many nodes and print what does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=positive, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="ops")
    options = parser.parse_args(arguments)
    held, broken = Counter[str](), 0
    for op, what in tries(options.seed, options.count, options.only):
        held[op] += 1
        broken += bool(what)
        if what:
            print(what)
    never = ", ".join(op for _, op in RULED if op not in held)
    print(f"{shown_count(held.total())} nodes that a rule bounds, {broken} broken; never: {never}")
    return int(broken > 0)


def tries(seed: int, count: int, only: Sequence[str] | None = None) -> Iterator[tuple[str, str]]:
    """The op of each node that its rule bounds, and what breaks that; "" where nothing does."""
    keys = [key for key in RULED if not only or key[1] in only]
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        opset, key = int(rng.choice(OPSETS)), keys[number % len(keys)]
        schema = schemas_of(opset).get(key)
        what = None if schema is None else _tried(rng, schema, opset)
        if what is not None:
            yield key[1], what and f"{seed} {number}: {what}"


def arrays(rng: Rng) -> dict[str, Array]:
    """Floats of many sizes, whole numbers and truths, by name."""
    found: dict[str, Array] = {}
    with np.errstate(all="ignore"):
        for place, shape in enumerate(SHAPES):
            made = rng.standard_normal(shape) * rng.choice(SIZES)
            made = np.abs(made) if rng.random() < 0.3 else made
            made = np.sign(made) * float(rng.choice((1.0, 2.5))) if rng.random() < 0.2 else made
            found[f"a{place}"] = np.asarray(made).astype(FLOATS[int(rng.integers(len(FLOATS)))])
        for place, dtype in enumerate(WHOLE):
            ends = np.iinfo(dtype)
            small = rng.integers(max(ends.min, -5), 9, SHAPES[0])
            found[f"i{place}"] = small.astype(dtype)
            found[f"j{place}"] = rng.choice([ends.min, ends.max, 1, 3], SHAPES[0]).astype(dtype)
        found[f"n{place}"] = np.asarray(rng.integers(0, 9)).astype(dtype)
    found["t"] = rng.random(SHAPES[0]) < 0.5
    return found


def around(array: Array, name: str, rng: Rng) -> Operand:
    """A set that holds an array: rows along some axes, sizes that may be open."""
    wide, kind = array.astype(np.float64), type_of(array)
    if not np.isfinite(wide).all():
        return Constant(kind, array.shape, lambda: array)
    ends = (float(wide.min()), float(wide.max()))
    axes: tuple[int, ...] = ()
    if array.dtype.kind == "f" and rng.random() < 0.8:
        some = sorted(int(axis) for axis in rng.permutation(array.ndim)[: int(rng.integers(1, 3))])
        axes = tuple(axis for axis in some if array.shape[axis] != 1)
    others = [axis for axis in range(array.ndim) if axis not in axes]
    channels = math.prod(array.shape[axis] for axis in axes)
    rows = np.transpose(wide, [*others, *axes]).reshape(-1, channels)
    each = np.abs(rows).max(axis=0)
    longest = np.full(channels, float(np.linalg.norm(rows, axis=1).max()) * CLOSE)
    reach = Box(each) if channels == 1 else Ellipsoids(each, (longest,))
    dims = tuple(
        int(size) if axis in axes or rng.random() < 0.65 else f"${name}{axis}"
        for axis, size in enumerate(array.shape)
    )
    return Value(kind, dims, axes, reach, *ends)


def _tried(rng: Rng, schema: Schema, opset: int) -> str | None:
    """What breaks a rule on one node; None where there is no such node, or no bound."""
    pool = arrays(rng)
    try:
        drawn = _drawn(rng, schema, pool)
        given = [pool[x] if isinstance(x, str) else x for x in drawn.inputs]
        if _ends_the_process(drawn, given):
            return None
        names = ["" if array is None else f"in{i}" for i, array in enumerate(given)]
        outputs = [f"out{i}" for i in range(drawn.outputs)]
        node = node_of(drawn, names, outputs)
        refuse_odd_switches(node)
        made = tried(drawn, given, opset)
    except (LookupError, ValueError, NoBound, Refused):
        return None
    operands = [_told(x, array, rng) for x, array in zip(drawn.inputs, given, strict=True)]
    if not any(isinstance(operand, Value) for operand in operands):
        return None
    symbols, opsets = itertools.count(), {"": opset, "com.microsoft": 1}
    same = [x if isinstance(x, str) else n for x, n in zip(drawn.inputs, names, strict=True)]
    call = Call(
        schema.key[1],
        opsets[schema.key[0]],
        {a.name: helper.get_attribute_value(a) for a in node.attribute},
        tuple(operands),
        tuple(same),
        tuple(outputs),
        frozenset(),
        lambda: f"?{next(symbols)}",
        computer(node, opsets),
    )
    try:
        said = applied(rule_for(*schema.key, call.opset, list(call.attributes)), call)
    except NoBound:
        return None
    for value, array in zip(said, made, strict=False):
        if value is not None and array.size and not _holds(value, array):
            return f"{schema.key[1]} of opset {opset}, {dict(drawn.attributes)}: {value} {array}"
    return ""


def _drawn(rng: Rng, schema: Schema, pool: dict[str, Array]) -> Drawn:
    """A node that reads some of the pool; of ops whose inputs have to fit, with more put there."""
    if schema.key not in FITS or rng.random() < 0.1:
        return draw(rng, schema, pool, list(pool))
    for _ in range(TRIES):
        name = str(rng.choice(list(pool)))
        try:
            drawn = fitted(rng, schema.key, pool[name])
        except LookupError:
            continue
        inputs = list(drawn.inputs)
        for place, given in enumerate(inputs):
            if isinstance(given, str):
                inputs[place] = name
            elif given is not None and given.dtype.kind in "fi" and rng.random() < 0.3:
                inputs[place] = f"fitted{place}"  # of which the rule is told a set
                pool[f"fitted{place}"] = given
        return replace(drawn, inputs=tuple(inputs))
    raise LookupError(schema.key[1])


def _told(x: object, array: Array | None, rng: Rng) -> Operand | None:
    if array is None:
        return None
    if isinstance(x, str):
        return around(array, x, rng)
    return Constant(type_of(array), array.shape, lambda: array)


def _ends_the_process(drawn: Drawn, given: Sequence[Array | None]) -> bool:
    """Whether a whole number is divided by zero, or the least one by -1."""
    divisors = [a for a in given[1:] if a is not None and a.dtype.kind in "iu"]
    odd = any(bool(np.isin(a.astype(np.float64), (0, -1)).any()) for a in divisors)
    return drawn.key[1] in ("Div", "Mod") and odd


def _holds(value: Any, array: Array) -> bool:
    """Whether an array is in a set; of shares of 16 bits the sum is not looked at."""
    narrow = isinstance(value, Value) and array.dtype == np.float16
    try:
        holds(replace(value, shares=None) if narrow else value, array)
    except AssertionError:
        infinite = isinstance(value, Value) and value.infinite  # so in FP64 far below FP32
        return infinite and array.dtype == np.float64
    return True


if __name__ == "__main__":
    sys.exit(told(main))
