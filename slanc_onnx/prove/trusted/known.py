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
from slanc_onnx.prove.trusted.kinds import BOOL, FLOATS, largest_of, natural, nearest_ends, whole
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


def _are_held(limits: tuple[float, float], kind: int) -> bool:
    """Whether a type of floats holds the ends of a range, so that no number within is infinite."""
    return kind in FLOATS and -largest_of(kind) <= limits[0] <= limits[1] <= largest_of(kind)


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
    facts = Facts()
    if limits is not None and is_whole:
        low, high = whole(spec.element_type, math.ceil(limits[0]), math.floor(limits[1]))
        facts = Facts(frozenset({Condition(spec.name, "range", low, high)}))
    elif limits is not None and _are_held(limits, spec.element_type):
        # What a caller gives within them is rounded to the type, and so may lie outside.
        low, high = nearest_ends(*limits, spec.element_type)
        facts = Facts(frozenset({Condition(spec.name, "range", *limits)}))
    elif is_whole:
        low, high = natural(spec.element_type)
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
