"""Known: what the walk knows of a tensor, at first of the graph's inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from urllib.parse import quote

from onnx import NodeProto

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.graph import InputSpec
from slanc_onnx.prove.condition import Condition
from slanc_onnx.prove.trusted.kinds import BOOL, FLOATS, natural, whole
from slanc_onnx.prove.trusted.sizes import Dim
from slanc_onnx.prove.trusted.table import WHOLE
from slanc_onnx.prove.trusted.values import Facts, Operand, interval
from slanc_onnx.reasons import Reason, Unproved, reason


@dataclass(frozen=True, eq=False)
class Open:
    """A tensor whose elements nothing bounds.

    Attributes:
        kind: Its ONNX element type.
        dims: Its shape; None where that is not known either.
        reason: Why.
    """

    kind: int
    dims: tuple[Dim, ...] | None
    reason: Reason


Known = Operand | Open


@dataclass(frozen=True)
class Assumed:
    """What the proof is for.

    Attributes:
        device: Whose norms' outputs are rounded.
        ranges: Least and largest element of graph inputs, by name.
        exact: Whether large matrices get their tight norms.
        executor: Works on blocks of large matrices; None for this thread.
    """

    device: Accelerator
    ranges: Mapping[str, tuple[float, float]]
    exact: bool = False
    executor: Executor | None = None


def _symbol(name: str | None) -> str:
    """The symbol of a size by its name in the file, like no other's; "" where it has none."""
    return f"${quote(name, safe='')}" if name else ""


def of_input(spec: InputSpec, assumed: Assumed, fresh: Callable[[], str]) -> Known:
    """What a graph input can hold.

    Args:
        spec: The input.
        assumed: Its limits, if any are said.
        fresh: Gives a new symbol for an open size.
    """
    dims = tuple(dim if isinstance(dim, int) else _symbol(dim) or fresh() for dim in spec.dims)
    is_whole = spec.element_type in (*WHOLE, BOOL)
    limits = assumed.ranges.get(spec.name)
    if limits is None and is_whole and spec.rows == 0 and "mask" in spec.name.lower():
        limits = 0.0, 1.0
    if limits is not None and (is_whole or spec.element_type in FLOATS):
        low, high = limits
        if is_whole:
            low, high = whole(spec.element_type, math.ceil(low), math.floor(high))
        facts = Facts(frozenset({Condition(spec.name, "range", low, high)}))
    elif is_whole:
        (low, high), facts = natural(spec.element_type), Facts()
    else:
        return Open(spec.element_type, dims, reason(Unproved.INPUT_UNLIMITED, spec.name))
    origin = Facts(origin=frozenset({spec.name} if is_whole else ()))
    return interval(spec.element_type, dims, low, high, facts | origin)


def any_whole_numbers(node: NodeProto, given: list[Known | None]) -> None:
    """Let a cast to whole numbers read what nothing bounds: its results are some of their type."""
    first = given[0] if given else None
    if node.op_type == "Cast" and isinstance(first, Open) and first.dims is not None:
        to = next(a.i for a in node.attribute if a.name == "to")
        if to in WHOLE:
            origin = Facts(origin=frozenset({""}))  # of data, whatever that is
            given[0] = interval(to, first.dims, *natural(to), origin)
