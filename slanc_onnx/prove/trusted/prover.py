"""The walk over a graph: what every tensor can hold, by the rules, and the bound of every norm."""

from __future__ import annotations

import itertools
import math
from collections import ChainMap, Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from slanc_onnx.graph import CALLS, DOMAINS, Array, Scope
from slanc_onnx.norms import Deferred, Norm, ReadModel
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.prove.affine import Affine, affine_of
from slanc_onnx.prove.bound import Bound, NoBound, damage_has_no_bound
from slanc_onnx.prove.condition import Condition
from slanc_onnx.prove.sets import Ellipsoids
from slanc_onnx.prove.step_bounds import rounding_of
from slanc_onnx.prove.trusted.agreed import refuse_odd_switches
from slanc_onnx.prove.trusted.axes import either, in_positions
from slanc_onnx.prove.trusted.computed import Spent, computer, told_elements
from slanc_onnx.prove.trusted.constants import folded, moved_sizes, stored_constant
from slanc_onnx.prove.trusted.kinds import FLOATS, natural
from slanc_onnx.prove.trusted.known import Assumed, Known, Open, any_whole_numbers, of_input
from slanc_onnx.prove.trusted.norm_checks import check_norm
from slanc_onnx.prove.trusted.norm_rows import (
    columns_of,
    divided,
    input_of,
    known_width,
    output_of,
    row_of,
)
from slanc_onnx.prove.trusted.order import Order
from slanc_onnx.prove.trusted.table import Call, applied, rule_for
from slanc_onnx.prove.trusted.values import (
    Constant,
    Facts,
    Operand,
    Value,
    as_value,
    interval,
    off_by,
)
from slanc_onnx.reasons import Reason, Unproved, Unread, reason

# Ops that join past rows to new ones inside, and the place of the first of two caches.
_CACHES = {"GroupQueryAttention": 3, "Attention": 4}
_JOINS = (*_CACHES, "Concat")  # of two that read one cache, either may have made its rows


class Prover:
    """The tensors of a graph, one after another.

    Args:
        read: The model.
        assumed: What the proof is for.
        scope: Which of its graphs: the main one, or a branch.
        around: Who reads the graph around a branch.
    """

    def __init__(
        self,
        read: ReadModel,
        assumed: Assumed,
        scope: Scope | None = None,
        around: Prover | None = None,
    ) -> None:
        self._read, self._assumed = read, assumed
        self._scope = scope or read.scopes[0]
        self._opsets = {entry.domain: entry.version for entry in read.model.opset_import}
        self._found: ChainMap[str, Known] = ChainMap()
        self._symbols = itertools.count()
        self._widths: dict[str, int] = {}
        self._order = Order(self._scope, read.norms)
        joins = Counter(
            name for node in self._scope.proto.node if node.op_type in _JOINS for name in node.input
        )
        self._caches = {s.name for s in read.specs if s.is_float and joins[s.name] == 1}
        self._spent: Spent = Spent() if around is None else around._spent
        self._outputs = frozenset(info.name for info in self._scope.proto.output)
        self._tensors = self._scope.graph.tensors()
        self.affine: dict[str, Affine | None] = {}
        self.misread = set[str]()  # norms that are something else, of which no row is safe
        self._rows: dict[str, Known] = {}  # of norms whose products are divided, over their roots
        self.bounds = {
            norm.name: Bound(None, reason=Reason(Unread.NOT_REACHED)) for norm in read.norms
        }
        if around is not None:
            self._found, self._symbols = around._found.new_child(), around._symbols
            self.affine, self.bounds, self.misread = around.affine, around.bounds, around.misread
            self._caches, self._outputs = set(), frozenset()  # the other branch may fill them

    def run(self, progress: Progress = no_progress) -> dict[str, Bound]:
        """Every norm's bound, by its name."""
        for name, tensor in self._scope.initializers.items():
            if name not in self._scope.overridable:
                self._found[name] = stored_constant(tensor, self._scope.folder, Facts())
        for spec in self._read.specs if not self._scope.path else ():
            self._found[spec.name] = of_input(spec, self._assumed, self._fresh)
        for name in self._scope.overridable:
            kind = self._scope.initializers[name].data_type
            self._found[name] = Open(kind, None, reason(Unproved.MAY_BE_GIVEN, name))
        order = self._order.indices
        self._widths = self._order.told_widths(self.constant)
        ends = self._order.last_reads()
        with np.errstate(all="ignore"):
            for at, index in enumerate(order):
                node = self._scope.proto.node[index]
                self._visit(index, node)
                for name in ends.get(at, ()):
                    if name not in self._scope.initializers:
                        self._found.pop(name, None)
                progress("bounding", (at + 1) / len(order))
        for norm in (norm for norm in self._order.norm_at.values() if norm.deferred):
            columns = columns_of(norm, self._scope.proto.node, self._numbers)
            if norm.name not in self.misread:
                self.affine[norm.name] = affine_of(norm, self._numbers, columns)
        for name, norm in self._order.others.items():
            if name in self._found:
                self.bounds[norm.name] = self._bound(norm, self._found[name])
        return self.bounds

    def constant(self, name: str | None) -> Constant | None:
        """A tensor whose numbers are known; None for any other."""
        found = self._found.get(name or "")
        return found if isinstance(found, Constant) else None

    def _numbers(self, name: str) -> Array | None:
        found = self.constant(name)
        return None if found is None else np.asarray(found.values)

    def _fresh(self) -> str:
        return f"?{next(self._symbols)}"

    def _visit(self, index: int, node: NodeProto) -> None:
        names = [name for name in node.output if name]
        inner = names and all(name in self._order.inside for name in names)
        norms = self._order.norm_at
        norm = next((norms[name] for name in names if name in norms), None)
        if norm is not None:
            self._normalise(norm, node)
            return
        if inner:
            return
        deferred = self._order.deferred_at.get(names[0]) if names else None
        if deferred is not None:
            self._found[names[0]] = self._as_read(names[0], self._divided(*deferred))
            return
        for name, made in zip(node.output, self._results(index, node), strict=False):
            if name:
                self._found[name] = self._as_read(name, made)

    def _as_read(self, name: str, made: Known) -> Known:
        """A tensor as its readers take it: rounded behind a norm, elements alone if that does.

        What a norm makes leans on it, also where its ops were read one by one, as FP32.
        """
        if not isinstance(made, Value):
            return made
        if name in self._order.by_ops:
            own = Facts(norms=frozenset({self._order.by_ops[name]}))
            made = replace(made, facts=made.facts | own)
        try:
            with damage_has_no_bound():
                made = self._rounded(made) if name in self._order.after else made
                return in_positions(made) if name in self._order.plain else made
        except NoBound as error:
            return Open(made.kind, made.dims, error.reason)

    def _results(self, index: int, node: NodeProto, row: Known | None = None) -> list[Known]:
        """What a node makes; of another row than its first input, where one is given."""
        if self._scope.graph.nodes[index].domain == CALLS:
            called = reason(Unread.NO_RULE_IN_DOMAIN, node.domain or "ai.onnx")
            return [Open(0, None, called.at(node.op_type, node.output[0])) for _ in node.output]
        why: Reason | None = self._scope.faults.get(index)
        first = node.output[0] if node.output else ""
        given = [self._found.get(name) if name else None for name in node.input]
        if row is not None:
            given[0] = row
        if why is None:
            try:
                with damage_has_no_bound():
                    self._fill_caches(node, given)
                    any_whole_numbers(node, given)
                    self._check_known(node, given)
                    if node.op_type == "If" and node.domain in DOMAINS:
                        return self._either(index, node)
                    why = next((o.reason for o in given if isinstance(o, Open)), None)
                    if why is None:
                        return self._applied(node, given)  # type: ignore[arg-type]
            except NoBound as error:
                why = error.reason if error.reason.op else error.reason.at(node.op_type, first)
        return self._only_shapes(node, given, why)

    def _either(self, index: int, node: NodeProto) -> list[Known]:
        """The results of both branches, or of the one that a constant condition takes.

        Raises:
            NoBound: a branch is missing.
        """
        told, taken = self.constant(node.input[0]), ["then_branch", "else_branch"]
        if told is not None and told.size == 1:
            taken = [taken[0 if told.values.item() else 1]]
        branches = []
        for name in taken:
            path = (*self._scope.path, (index, name))
            scope = next((s for s in self._read.scopes if s.path == path), None)
            if scope is None:
                raise NoBound(reason(Unread.UNKNOWN_INPUT, name))
            inner = Prover(self._read, self._assumed, scope, self)
            inner.run()
            branches.append([inner._found.get(out.name) for out in scope.proto.output])
        made: list[Known] = []
        for one, other in zip(branches[0], branches[-1], strict=True):
            opened = next((part for part in (one, other) if isinstance(part, Open)), None)
            if isinstance(one, Open | None) or isinstance(other, Open | None):
                made.append(opened or Open(0, None, Reason(Unread.NOTHING_SAID)))
                continue
            try:
                made.append(either(one, other, self._fresh))
            except NoBound as error:
                made.append(Open(one.kind, None, error.reason))
        return made

    def _check_known(self, node: NodeProto, given: Sequence[Known | None]) -> None:
        """Refuse inputs that are no tensors here: of graphs around, or of nothing.

        Raises:
            NoBound: there is one.
        """
        for name, operand in zip(node.input, given, strict=True):
            if name and operand is None and name not in self._caches:
                raise NoBound(reason(Unread.UNKNOWN_TENSOR, name, node.op_type))

    def _fill_caches(self, node: NodeProto, given: list[Known | None]) -> None:
        """Past rows that the same model made are rows of what is joined to them.

        By induction over the runs: what leaves the graph is what it was given and new rows, and
        the first time nothing was given.
        """
        first = _CACHES.get(node.op_type)
        if first is not None:
            places = range(first, min(first + 2, len(given)))
            for place, made in zip(places, node.output[1:3], strict=False):
                if node.input[place] in self._caches and made in self._outputs:
                    given[place] = None
        if node.op_type != "Concat" or node.output[0] not in self._outputs or len(given) != 2:
            return
        new, past = given[1], node.input[0]
        if past not in self._caches or not isinstance(new, Value):
            return
        axis = next(a.i for a in node.attribute if a.name == "axis") % new.rank
        dims = (*new.dims[:axis], self._fresh(), *new.dims[axis + 1 :])
        facts = new.facts | Facts(frozenset({Condition(past, "made")}))
        rows = in_positions(new, [a for a in new.axes if a != axis])
        given[0] = replace(rows, dims=dims, facts=facts)

    def _only_shapes(self, node: NodeProto, given: list[Known | None], why: Reason) -> list[Known]:
        """Outputs of which only shapes follow, by the same rules: of what, nothing bounds."""
        stand_ins: list[Operand | None] = []
        unknown: list[Known] = [Open(0, None, why) for _ in node.output]
        try:
            for name, operand in zip(node.input, given, strict=True):
                if name and operand is None:
                    return unknown
                if isinstance(operand, Open | Value):
                    if operand.dims is None:
                        return unknown
                    ends = (1.0, 1.0) if operand.kind in FLOATS else natural(operand.kind)
                    operand = interval(operand.kind, operand.dims, *ends, Facts())
                stand_ins.append(operand)
            with damage_has_no_bound():
                made = self._applied(node, stand_ins)
        except NoBound:
            return unknown
        return [o if not isinstance(o, Value) else Open(o.kind, o.dims, why) for o in made]

    def _applied(self, node: NodeProto, given: list[Operand | None]) -> list[Known]:
        refuse_odd_switches(node)
        told = told_elements(node, self._tensors)
        apart = self._read.scopes[0].apart
        compute = computer(node, self._opsets, apart, told, self._spent)
        if node.op_type == "Constant" and not node.input:
            return self._constant_node(node)
        try:
            found: list[Operand | None] | None = folded(node, given, compute, told)
        except NoBound:  # too large to compute: a rule may take it as any numbers in a range
            found = None
        sizes = None if found is not None else moved_sizes(node, given, compute, self._fresh)
        if found is None and sizes is not None:
            found = [sizes]
        if found is None:
            attributes = {a.name: _attribute(a) for a in node.attribute}
            opset = self._opsets.get(node.domain, 1)
            call = Call(
                node.op_type,
                opset,
                attributes,
                tuple(given),
                tuple(node.input),
                tuple(node.output),
                self._outputs,
                self._fresh,
                compute,
                self._widths.get(node.output[0]),
                self._assumed.exact,
                self._order.plain.issuperset(name for name in node.output if name),
                self._assumed.executor,
            )
            found = applied(rule_for(node.domain, node.op_type, opset, list(attributes)), call)
        here = Reason(Unread.NOTHING_SAID).at(node.op_type, node.output[0])
        return [Open(0, None, here) if o is None else o for o in found]

    def _constant_node(self, node: NodeProto) -> list[Known]:
        tensor = self._scope.initializers.get(node.output[0])
        if tensor is not None:
            return [stored_constant(tensor, self._scope.folder, Facts())]
        array = computer(node, self._opsets)([])[0]
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        return [Constant(kind, array.shape, lambda: array)]

    def _normalise(self, norm: Norm, node: NodeProto) -> None:
        """Bound a norm's input; its output has a length of its own, whatever that is."""
        try:
            with damage_has_no_bound():
                given: Known | None = input_of(norm, node, self._found)
                check_norm(norm, self._scope, self._order, self._found, self._assumed.device)
        except NoBound as error:
            given = Open(norm.element_type, None, error.reason)
            self.misread.add(norm.name)
        self.bounds[norm.name] = self._bound(norm, given)
        if isinstance(given, Value) and isinstance(given.reach, Ellipsoids) and given.largest:
            kept = replace(given, reach=given.reach.simplified())
            if norm.input in self._found and norm.residual is None:
                self._found[norm.input] = kept
            given = kept
        affine = [self.constant(name) for name in (norm.gamma, norm.beta)]
        try:
            if given is None or (isinstance(given, Open) and given.dims is None):
                raise NoBound(Reason(Unread.STOPPED) if given is None else given.reason)
            with damage_has_no_bound():
                made = output_of(norm, given, affine, self._assumed.device)
                made = self._rounded(made) if norm.output == norm.normalised else made
            result: Known = made
        except NoBound as error:
            result = Open(norm.output_type, None, error.reason)
        if norm.deferred:  # whose weights may not be known yet
            self._rows[norm.name] = result
            self._found[norm.normalised] = self._divided(norm, norm.deferred[0])
            return
        if norm.name not in self.misread:
            self.affine[norm.name] = affine_of(norm, self._numbers)
        self._found[norm.normalised] = result
        if norm.residual is not None and len(node.output) > norm.residual and given is not None:
            self._found[node.output[norm.residual]] = given

    def _divided(self, norm: Norm, one: Deferred) -> Known:
        """What a product makes of a norm's row over its root, as it is rounded on the way."""
        row, node = self._rows.get(norm.name), self._scope.proto.node[one.product]
        if row is None:
            return Open(norm.output_type, None, Reason(Unread.NOT_REACHED))
        (made,) = self._results(one.product, node, row)
        if not isinstance(made, Value) or not isinstance(row, Value):
            return made
        return divided(norm, row, made, self._assumed.device)

    def _bound(self, norm: Norm, given: Known | None) -> Bound:
        if given is None:
            return Bound(None, reason=Reason(Unread.NOT_REACHED))
        if isinstance(given, Open):
            return Bound(None, reason=given.reason, width=known_width(norm, given.dims))
        if not isinstance(given, Value):
            given = as_value(given)
        if norm.overridable_epsilon is not None:
            return Bound(None, reason=reason(Unproved.MAY_BE_GIVEN, norm.overridable_epsilon))
        try:
            with damage_has_no_bound():
                length, width, facts = row_of(norm, given)
        except NoBound as error:
            return Bound(None, reason=error.reason, width=known_width(norm, given.dims))
        if not math.isfinite(length):
            return Bound(None, reason=Reason(Unproved.BOUND_NOT_FINITE), width=width)
        conditions = tuple(sorted(facts.conditions))
        return Bound(length, conditions, None, facts.loose, width, tuple(sorted(facts.norms)))

    def _rounded(self, value: Value) -> Value:
        """A norm's output, gamma and beta included, widened by the device's rounding."""
        affine = rounding_of(self._assumed.device, "affine")
        return off_by(value, affine.grow**2 - 1, 2 * affine.eta * affine.grow)


def _attribute(attribute: onnx.AttributeProto) -> Any:
    return helper.get_attribute_value(attribute)
