"""The record of which expressions of a trace hold only as estimates, and why."""

from __future__ import annotations

from collections.abc import Sequence

from slanc_onnx.graph import op_of
from slanc_onnx.norms import Norm
from slanc_onnx.ops import CannotFollow, common_shape
from slanc_onnx.reasons import Doubt, Reason
from slanc_onnx.trace.expression import Embedding, Expr, Mix, Normalised, Pick, Shares, is_ids, walk
from slanc_onnx.trace.rules import ATTENTION, LOGIC
from slanc_onnx.trace.sound.alignment import Moves, carries_rows, misaligned, moves
from slanc_onnx.trace.sound.checks import repeats, views_in
from slanc_onnx.trace.sound.provable import past_values, unproven
from slanc_onnx.trace.values import Const, Items, Unknown, Value, View
from slanc_onnx.trace.visit import Visit, is_shares

_NOWHERE: Moves = frozenset()
# Ops that combine rows of any positions, and those whose output tells nothing of its inputs.
_ANYWHERE = {"MatMul", "FusedMatMul", "Einsum", *ATTENTION}
_RESTARTS = {*LOGIC, "Softmax", "Shape", "Size"}


class Doubts:
    """Why values of a trace are no proof.

    Attributes:
        estimated: The reason why an expression holds only as an estimate, by its serial.
        past: The graph input whose past rows an expression stands for as well, by its serial.
    """

    def __init__(self) -> None:
        self.estimated: dict[int, Reason] = {}
        self.past: dict[int, str] = {}
        self._constants: dict[Value, Reason] = {}  # reasons of constants
        self._moved: dict[Value, Moves] = {}  # which ops moved the positions of a value

    def mark(self, values: Sequence[Value], reason: Reason) -> None:
        """Record that values hold only as estimates, for this reason."""
        for value in values:
            if isinstance(value, View):
                self.estimated.setdefault(value.expr.serial, reason)
            elif isinstance(value, Items):
                self.mark(value.values, reason)
            elif not isinstance(value, Unknown):
                self._constants.setdefault(value, reason)

    def visit(self, visit: Visit, outputs: Sequence[Value]) -> None:
        """Record what the outputs of a rule are worth; those that cannot be judged are estimates.

        Args:
            visit: The node and the values of its inputs.
            outputs: The values that the rule gave for its outputs.
        """
        try:
            self._judge(visit, outputs)
        except CannotFollow as error:
            unknown = Reason(Doubt.NOT_JUDGED, behind=error.reason)
            self.mark(outputs, unknown.at(visit.node.op, visit.node.outputs[0].name))
            for output in outputs:
                self._moved[output] = frozenset({f"{visit.node.op} {visit.node.outputs[0].name}"})

    def _judge(self, visit: Visit, outputs: Sequence[Value]) -> None:
        op = op_of(visit.node)
        inputs = [v for v in visit.inputs if v is not None]
        moved = [self._moved.get(v, _NOWHERE) for v in inputs]
        reason = unproven(visit, outputs)
        if reason is None and op not in _RESTARTS:
            if op not in _ANYWHERE and misaligned(inputs, moved):
                reason = Reason(Doubt.POSITIONS_DIFFER)
            reason = reason or self._inherited(_told_by(visit, inputs), outputs)
        if reason is not None:
            here = Reason(Doubt.INHERITED, behind=reason) if reason.op else reason
            self.mark(outputs, here.at(visit.node.op, visit.node.outputs[0].name))
        self._keep_past(visit, outputs)
        # Masks, shares and constants among several inputs come from elsewhere.
        views = [(v, m) for v, m in zip(inputs, moved, strict=True) if isinstance(v, (View, Items))]
        before = _NOWHERE.union(*(m for v, m in views if len(views) == 1 or carries_rows(v)))
        for output in outputs:
            if isinstance(output, (View, Items)):
                after = moves(visit, output, before)
                self._moved[output] = self._moved.get(output, _NOWHERE) | after

    def _keep_past(self, visit: Visit, outputs: Sequence[Value]) -> None:
        """Record the past rows that outputs stand for, from the op itself or from its inputs."""
        names = [past_values(visit)]
        for view in views_in(visit.inputs):
            expr = view.expr
            while isinstance(expr, Pick):
                names.append(self.past.get(expr.serial))
                expr = expr.x
            names.append(self.past.get(expr.serial))
        name = next((name for name in names if name is not None), None)
        if name is not None:
            for view in views_in(outputs):
                self.past.setdefault(view.expr.serial, name)

    def _inherited(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Reason | None:
        """The reason of an input that the expressions of the outputs do not show; else None.

        Constants and shares leave no part behind in an expression, and a Pick may be skipped.
        """
        rows = [v.expr for v in views_in(outputs)]
        looked_up = bool(rows) and all(isinstance(e, Embedding) for e in rows)
        for value in inputs:
            index = looked_up and isinstance(value, Const) and value.array.dtype.kind in "iu"
            if value in self._constants and not index:
                return self._constants[value]
        for view in views_in(inputs):
            found = self._dropped(view.expr, rows)
            if found is not None:
                return found
        shown = {v.expr.serial for v in views_in(inputs)}
        fresh = any(
            isinstance(v.expr, (Shares, Mix)) and v.expr.serial not in shown
            for v in views_in(outputs)
        )
        for view in views_in(inputs) if fresh else ():
            if is_shares(view.expr) or any(isinstance(v.expr, Shares) for v in views_in(outputs)):
                found = self.behind(view.expr)
                if found is not None:
                    return found
        return None

    def _dropped(self, source: Expr, made: Sequence[Expr]) -> Reason | None:
        """The reason of a source that is an estimate, if the outputs do not hold it as a part.

        Picking channels of a Pick skips the Pick that carried the reason.
        """
        chain = [source]
        while isinstance(chain[-1], Pick):
            chain.append(chain[-1].x)
        marked = [e.serial for e in chain if e.serial in self.estimated]
        if not marked or is_ids(source):
            return None
        kept = {e.serial for expr in made for e in walk(expr, lambda e: isinstance(e, Normalised))}
        return None if kept.issuperset(marked) else self.estimated[marked[0]]

    def behind(self, expr: Expr) -> Reason | None:
        """The first reason of an expression and its parts, as far back as the norms; else None."""
        parts = walk(expr, lambda e: isinstance(e, Normalised))
        return next((self.estimated[e.serial] for e in parts if e.serial in self.estimated), None)

    def norm(
        self, norm: Norm, read: Sequence[Value], expr: Expr, view: View, open_rows: bool
    ) -> None:
        """Record what the input and the output of a norm are worth.

        Args:
            norm: The norm.
            read: The values that it reads: its addends, gamma and beta.
            expr: Its input row.
            view: Its normalised output.
            open_rows: Whether the file leaves open how many elements a row has.
        """
        addends = [v for v in read if not isinstance(v, Unknown)]
        moved = [self._moved.get(v, _NOWHERE) for v in addends]
        reason = Reason(Doubt.POSITIONS_DIFFER) if misaligned(addends, moved) else None
        for addend in views_in(addends):
            reason = reason or self._dropped(addend.expr, [expr])
        estimated = next((self._constants[v] for v in addends if v in self._constants), None)
        varies = any(isinstance(v, Const) and v.varies for v in addends)
        if open_rows:
            reason = Reason(Doubt.ROWS_OPEN)
        elif varies or estimated:
            reason = estimated or Reason(Doubt.NUMBERS_BY_LENGTH)
        elif len({v.shape for v in addends if isinstance(v, View)}) > 1:
            shapes = [v.shape for v in addends if isinstance(v, View)]
            try:
                common_shape(*shapes)
            except CannotFollow:
                reason = Reason(Doubt.ROW_COUNTS_DIFFER)
        if reason is not None:
            here = Reason(Doubt.INHERITED, behind=reason) if reason.op else reason
            here = here.at(norm.form, norm.normalised)
            self.estimated.setdefault(expr.serial, here)
            self.estimated.setdefault(view.expr.serial, here)
        self._moved[view] = _NOWHERE.union(*(m for m in moved))

    def branches(
        self, outputs: Sequence[Value], given: Sequence[Sequence[Value]], branch: Reason
    ) -> None:
        """Record what an If gives if the data decides: rows of one of its branches.

        Args:
            outputs: Its outputs.
            given: For each branch, the values of its outputs.
            branch: The reason that it is about.
        """
        for output, values in zip(outputs, zip(*given, strict=False), strict=False):
            views = [v for v in values if isinstance(v, View) and v.ids.size]
            rows = isinstance(output, View) and all(
                repeats(v) is None and v.shape == output.shape for v in views
            )
            if len(views) != len(values) or not rows or not _either_of(output, views):
                self.mark([output], branch)


def _told_by(visit: Visit, inputs: Sequence[Value]) -> Sequence[Value]:
    """The inputs that an op's output is made of: for attention V, not the scores and masks."""
    if op_of(visit.node) not in ATTENTION:
        return inputs
    projects = visit.node.op == "Attention" and visit.node.domain == "com.microsoft"
    if projects:
        return inputs[:3]
    values = [visit.value(0) if visit.value(2) is None else visit.value(2)]
    if visit.node.op == "MultiHeadAttention":
        values.append(visit.value(3))
    return [v for v in values if v is not None]


def _either_of(output: Value, views: Sequence[View]) -> bool:
    """Whether a value holds the rows of all branches as parts."""
    serials = {e.serial for e in walk(output.expr)} if isinstance(output, View) else set()
    return all(v.expr.serial in serials for v in views)
