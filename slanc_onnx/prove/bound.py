"""Bound: how large a norm's input can be, whatever the data.

The expressions that the scales come from are evaluated a second time, as sets of rows (`sets.py`).
Sets start from norms, whose outputs are no longer than sqrt(channels), and from the largest rows of
tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from slanc_onnx.estimate import refuse_nan
from slanc_onnx.graph import Array
from slanc_onnx.norms import Norm
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.prove.activation_bounds import NoBound
from slanc_onnx.prove.condition import Condition
from slanc_onnx.prove.evaluate import EXACT, Evaluator, Outputs, row_width
from slanc_onnx.prove.sets import sides
from slanc_onnx.reasons import Reason, Unproved
from slanc_onnx.trace import Linear, Normalised, Trace, walk
from slanc_onnx.weights import read_once


@dataclass(frozen=True)
class Bound:
    """How large a norm's input can be.

    Attributes:
        length: Upper bound of a row's L2 norm; None where there is none.
        conditions: What it asks of graph inputs.
        reason: Why there is no bound; None where there is one.
        loose: Whether cheap norms of large matrices were used instead of tight ones.
        width: Elements per row.
    """

    length: float | None
    conditions: tuple[Condition, ...] = ()
    reason: Reason | None = None
    loose: bool = False
    width: int = 0


@np.errstate(all="ignore")  # a bound that is not finite is none
def bounds_of(
    trace: Trace,
    norms: Sequence[Norm],
    *,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    exact: bool = False,
) -> dict[str, Bound]:
    """The bounds of norms in exact arithmetic, by norm name; see `Bounds`."""
    return Bounds(trace, norms, EXACT, ranges or {}, exact).all()


class Bounds:
    """The bounds of a model's norms, made one after another.

    `multiply` also carries sample rows through the matrices, so that each is read once for both.
    """

    def __init__(
        self,
        trace: Trace,
        norms: Sequence[Norm],
        outputs: Outputs,
        ranges: Mapping[str, tuple[float, float]],
        exact: bool = False,
        executor: Executor | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            trace: What lies between the norms.
            norms: In topological order.
            outputs: Bounds of the norms' outputs.
            ranges: Least and largest element of float graph inputs, by name.
            exact: Whether large matrices get their tight norms too.
            executor: Works on blocks of large matrices; None for this thread.
        """
        self._evaluator = Evaluator(trace, outputs, ranges, exact, executor)
        self._trace, self._norms, self._executor = trace, norms, executor
        self._found: dict[str, Bound] = {}
        self._released = _last_uses(trace, norms)

    def all(self, progress: Progress = no_progress) -> dict[str, Bound]:
        """Every norm's bound, by its name."""
        while len(self._found) < len(self._norms):
            self._next()
            progress("bounding", len(self._found) / len(self._norms))
        return self._found

    def multiply(self, expr: Linear, rows: Array) -> Array:
        """Rows times the matrix of an expression; the same read gives the sizes of the matrix.

        Args:
            expr: The expression; calls have to come in the order of serials.
            rows: FP32, [n, channels of expr.x].

        Raises:
            SlancError: the matrix holds nan.
        """
        self._up_to(expr.serial)
        inside: Array | None = None
        if not self._evaluator.takes_tight(expr.weight.shape):
            with np.errstate(all="ignore"), suppress(NoBound, np.linalg.LinAlgError):
                inside = sides(self._evaluator.reach(expr.x))
        product, sizes = read_once(expr.weight.blocks(), rows, inside, self._executor)
        if sizes is not None:
            self._evaluator.sizes[expr.serial] = sizes
        assert product is not None
        refuse_nan(product, expr.weight)
        return product

    @np.errstate(all="ignore")
    def _next(self) -> None:
        norm = self._norms[len(self._found)]
        bound = self._found[norm.name] = _bound(self._evaluator, self._trace, norm)
        if bound.length is None:  # later norms look for what there is
            return
        for serial in self._released.get(norm.name, ()):
            self._evaluator.made.pop(serial, None)

    def _up_to(self, serial: int) -> None:
        """Make the bounds of the norms whose inputs come before an expression."""
        while len(self._found) < len(self._norms):
            expr = self._trace.inputs.get(self._norms[len(self._found)].name)
            if expr is not None and expr.serial > serial:
                return
            self._next()


def _last_uses(trace: Trace, norms: Sequence[Norm]) -> dict[str, list[int]]:
    """By norm name, the serials of the expressions that this norm is the last to need."""
    last: dict[int, str] = {}
    inputs: set[int] = set()
    for norm in norms:
        expr = trace.inputs.get(norm.name)
        if expr is None:
            continue
        for part in walk(expr, lambda e: isinstance(e, Normalised) or e.serial in inputs):
            last[part.serial] = norm.name
        inputs.add(expr.serial)
    released: dict[str, list[int]] = {}
    for serial, name in last.items():
        released.setdefault(name, []).append(serial)
    return released


def _bound(evaluator: Evaluator, trace: Trace, norm: Norm) -> Bound:
    expr = trace.inputs.get(norm.name)
    if expr is None:
        return Bound(None, reason=trace.unread(norm.name))
    try:
        reach = evaluator.reach(expr)
        length = reach.length()
    except NoBound as error:
        return Bound(None, reason=error.reason)
    except np.linalg.LinAlgError:
        return Bound(None, reason=Reason(Unproved.WEIGHTS_NOT_FINITE))
    if not math.isfinite(length):
        return Bound(None, reason=Reason(Unproved.BOUND_NOT_FINITE))
    conditions, loose = evaluator.facts(expr)
    evaluator.simplify(expr, reach)
    return Bound(length, conditions, loose=loose, width=row_width(expr))
