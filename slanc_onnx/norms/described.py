"""What a region computes, read off its ops: what each tensor is, row by row.

A region whose only exit is a quotient is a norm that the library knows; of any other it knows that
a scale cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import onnx_graphsurgeon as gs

from slanc_onnx.graph import Dims, Scope, constant_made, dims, element_count, op_of
from slanc_onnx.norms.averages import PRODUCTS, adds_all, elements, matrices
from slanc_onnx.norms.constants import sizes_in, small_value, stored_value
from slanc_onnx.norms.forms import (
    BY_ROW,
    Form,
    count_of,
    difference,
    is_mean,
    over,
    raised,
    times,
    with_limit,
)
from slanc_onnx.norms.origins import between, origins
from slanc_onnx.norms.reads import Read
from slanc_onnx.norms.region import Joined, Region
from slanc_onnx.norms.root_axes import axes_of, einsum_terms, rows_by_themselves
from slanc_onnx.norms.row_axes import RowAxes
from slanc_onnx.norms.sums import summed
from slanc_onnx.ops import EPSILON, MOVES, QUANTISING, tells_no_size

_MOST_AFTER = 8  # nodes between the exits of a region and their difference
_SUMS = ("ReduceMean", "ReduceSum", "GlobalAveragePool", "AveragePool", "Conv", *PRODUCTS)
_BY_MATRIX = ("Conv", *PRODUCTS)
_PARTS = ("inverse", "product", "shift", "quotient")
_ADDS = ("Add", "Max", "Min", "Clip", "Relu", "Abs")


def describe(scope: Scope, region: Region) -> dict[int, Form]:
    """The forms of a region's tensors, by id; what has none is something else."""
    inputs = [region.x, *(read.tensor for read in region.reads)]
    return _forms(scope, inputs, region.nodes, region.joined)


def _forms(
    scope: Scope,
    inputs: Sequence[gs.Tensor],
    nodes: Sequence[gs.Node],
    constants: Sequence[Joined] = (),
) -> dict[int, Form]:
    found = {id(t): Form("x", source=t) for t in inputs}
    joined = {id(j.read.node): j for j in reversed(constants)}
    for node in nodes:
        form = _of_node(scope, node, found, joined.get(id(node)))
        if form is not None:
            found[id(node.outputs[0])] = form
    return found


def less_mean(
    scope: Scope, tensor: gs.Tensor, rows: RowAxes | None, width: int | None
) -> tuple[list[Read], list[gs.Node]] | None:
    """The reads of x where a tensor is x less the mean of its rows, and the nodes between.

    Args:
        scope: The graph.
        tensor: The tensor.
        rows: Its rows.
        width: The number of elements of one.
    """
    x = next((x for x, centred in origins(scope, tensor) if centred), None)
    if x is None:
        return None
    nodes = between(scope, x, tensor)
    form = _forms(scope, [x], nodes).get(id(tensor))
    if form is None or not form.centred or not form.aligned or form.negative or form.layout:
        return None
    if form.mean_axes is None or form.mean_axes.rows != rows or form.factor != 1 or form.gamma:
        return None
    if form.mean_count not in (None, width):
        return None
    reads = (Read(node, p) for node in nodes for p, t in enumerate(node.inputs) if t is x)
    return list(reads), nodes


def quotient(
    scope: Scope, region: Region, forms: dict[int, Form]
) -> tuple[gs.Tensor, Form, list[gs.Node]] | None:
    """What a region makes that is the input over its root; None where it makes something else.

    That is its one exit, or the difference of two, with the nodes between them and it.
    """
    exits = [t for t in region.exits if not tells_no_size(op_of(t.inputs[0]))]
    whats = {form.what if (form := forms.get(id(t))) is not None else None for t in exits}
    if whats == {"quotient"} and len(exits) == 1:
        return exits[0], forms[id(exits[0])], []
    if not whats <= {"product", "shift"}:
        return None
    after: dict[int, gs.Node] = {}
    waiting = [node for t in exits for node in t.outputs]
    for node in waiting:
        if len(after) == _MOST_AFTER or id(node) not in scope.index or not node.outputs:
            return None
        inputs = [t for t in node.inputs if id(t) not in forms]
        form = _of_node(scope, node, forms, None)
        if form is None or not all(constant_made(scope, t) for t in inputs):
            continue
        if id(node) not in after:
            after[id(node)] = node
            forms[id(node.outputs[0])] = form
            waiting += node.outputs[0].outputs
        if form.what == "quotient":
            return node.outputs[0], form, list(after.values())
    return None


def _of_node(
    scope: Scope, node: gs.Node, found: dict[int, Form], joined: Joined | None
) -> Form | None:
    op = op_of(node)
    forms = [found.get(id(t)) for t in node.inputs]
    known = [form for form in forms if form is not None]
    if not known:
        return None
    first = known[0]
    if op == "Where":
        chosen = uniform(scope, node.inputs[0])  # n > 0 is no choice
        return None if chosen is None else forms[1 if chosen else 2]
    if op in MOVES or op in QUANTISING:
        return _moved(scope, node, first) if forms[0] is not None else None
    if op in PRODUCTS and len(known) == 2:
        return _product_of_two(scope, node, found, known)
    if op in _SUMS or op in ("ReduceSumSquare", "ReduceL2"):
        return _summed(scope, node, first, joined)
    if op in ("LpNormalization", "MeanVarianceNormalization", "BatchNormalization"):
        return _normalised(scope, node, forms, joined)
    if op in ("Mul", "Div"):
        return _multiplied(scope, node, forms)
    if op == "Pow":
        power = small_value(scope, node.inputs[1])
        return None if power is None or power.size != 1 else raised(first, float(power.flat[0]))
    if op in ("Sqrt", "Reciprocal"):
        return raised(first, 0.5 if op == "Sqrt" else -1.0)
    if op == "Abs" and first.what == "x":  # of the same square, and another numerator
        return replace(first, layout=hash((first.layout, id(node))), source=node.outputs[0])
    if op == "Neg":
        return None if first.beta else replace(first, negative=not first.negative)
    if op in ("Sub", "Add") and len(known) == 2:
        other = known[1] if op == "Sub" else replace(known[1], negative=not known[1].negative)
        return difference(first, other)
    if op in ("Sub", "Add") and first.what == "shift":
        return _with_beta(scope, node, first)
    if op in _ADDS and first.what in ("square", *BY_ROW[1:]) and len(known) == 1:
        return with_limit(op, first, joined)
    return None


def _moved(scope: Scope, node: gs.Node, form: Form) -> Form:
    op = op_of(node)
    if op in QUANTISING or MOVES[op].kind in ("keeps", "casts", "drops"):
        return replace(form, source=node.outputs[0]) if form.what == "x" else form
    if form.what in BY_ROW or form.axes is not None:
        return replace(form, aligned=aligned_by(scope, node, form))
    layout = hash((form.layout, id(node)))
    return replace(form, layout=layout, source=node.outputs[0])


def aligned_by(scope: Scope, node: gs.Node, form: Form) -> bool:
    """Whether a movement of one number per row leaves each where its row is, or puts it there."""
    op, source, axes = op_of(node), form.source, form.axes
    if op == "Expand" and form.aligned:
        return True
    if MOVES[op].kind not in ("reshapes", "inserts"):
        return False
    if op == "Unsqueeze" and axes is not None and not form.aligned:
        given = node.attrs.get("axes")
        if given is None and len(node.inputs) > 1:
            value = small_value(scope, node.inputs[1])
            given = None if value is None else [int(v) for v in value.reshape(-1)]
        if given is not None and axes.rank:  # a scalar has no axes
            given = [axis % axes.rank for axis in given]
        return given is not None and frozenset(given) == axes.axes
    whole, told = (None if t is None else _sizes(scope, t) for t in (source, node.outputs[0]))
    if axes is None or axes.rank is None or whole is None or told is None:
        return False
    rows = tuple(1 if axis in axes.axes else size for axis, size in enumerate(whole))
    if len(whole) != axes.rank or len(told) > axes.rank:
        return False
    told = (*(1,) * (axes.rank - len(told)), *told)
    differ = [size for size, wanted in zip(told, rows, strict=True) if size != wanted]
    # One size that the file does not tell is what is left of all elements.
    open_size = op == "Reshape" and len(differ) == 1 and isinstance(differ[0], str)
    return not differ or open_size or told == whole


def _sizes(scope: Scope, tensor: gs.Tensor) -> Dims | None:
    """The sizes to which a Reshape brings a tensor, or those that the file tells."""
    node = tensor.inputs[0] if tensor.inputs else None
    if node is not None and op_of(node) == "Reshape" and len(node.inputs) > 1:
        told = sizes_in(scope, node.inputs[1])
        if told is not None and all(isinstance(size, str) or size > 0 for size in told):
            return told
    return dims(scope, tensor)


def _summed(scope: Scope, node: gs.Node, form: Form, joined: Joined | None = None) -> Form | None:
    op = op_of(node)
    axes = axes_of(scope, node)
    by = matrices(scope, node) if op in _BY_MATRIX else []
    if by and not adds_all(scope, node):
        return None
    kept = bool(node.attrs.get("keepdims", 1)) and op not in PRODUCTS
    kept = kept or (bool(by) and op != "Einsum")
    first_axes = axes is not None and axes.axes == frozenset(range(len(axes.axes)))
    leading = op not in PRODUCTS and first_axes  # what follows them lies as before
    form = replace(form, aligned=(kept or leading) and form.aligned)
    if form.axes is not None:  # a mean of means
        axes = None if axes is None else form.axes.and_then(axes)
        averaged = op in ("ReduceMean", "GlobalAveragePool", "AveragePool")
        known = form.what in ("mean", "total") and form.averaged == averaged
        return replace(form, axes=axes) if known and op in _SUMS else None
    averaged = op in ("ReduceMean", "GlobalAveragePool", "AveragePool")
    factors = [float(elements(scope, matrix)[0]) for matrix in by]
    form = times(form, math.prod(factors) * float(node.attrs.get("alpha", 1.0)))
    by_itself = op in PRODUCTS and len(summed(scope, node)) == 2
    squares = by_itself or op in ("ReduceSumSquare", "ReduceL2")
    if squares and form.what == "x":
        if op == "ReduceL2":
            return replace(form, what="root", axes=axes, averaged=False)
        total = raised(replace(form, axes=None), 2.0)
        return None if total is None else replace(total, what="total", axes=axes, averaged=False)
    if form.what == "x" and not form.centred:
        return replace(form, what="mean", axes=axes, averaged=averaged)
    if form.what == "square" and (joined is None or node.attrs.get("beta", 1.0) == 1):
        total = replace(form, what="total", axes=axes, averaged=averaged)
        return with_limit("Add", total, joined)  # a Gemm may add epsilon
    return None


def _product_of_two(
    scope: Scope, node: gs.Node, found: dict[int, Form], known: Sequence[Form]
) -> Form | None:
    """A row times itself as a column, or the input over its root as an Einsum without a sum."""
    if op_of(node) != "Einsum" or known[0] == known[1]:
        x = rows_by_themselves(scope, node) if op_of(node) != "Einsum" else node.inputs[0]
        return None if x is None else _summed(scope, node, found.get(id(x), known[0]))
    terms = einsum_terms(scope, node)
    above, below = known if known[0].what == "x" else known[::-1]
    if terms is None or (above.what, below.what) != ("x", "inverse") or terms[1] not in terms[0]:
        return None
    whole = over(above, below)  # whose letters are not compared with the axes
    return None if whole is None else replace(whole, by_ops=True)


def _multiplied(scope: Scope, node: gs.Node, forms: Sequence[Form | None]) -> Form | None:
    op, (one, other) = op_of(node), forms
    if one is not None and other is not None:
        return _product(node, one, other)
    form = one if one is not None else other
    assert form is not None
    constant = node.inputs[1] if one is not None else node.inputs[0]
    if not constant_made(scope, constant):
        return None
    values = small_value(scope, constant)
    shape = dims(scope, constant)
    single = element_count(shape) == 1 if shape is not None else values is not None
    if op == "Div" and one is None:
        form = raised(form, -1.0)
    if form is None:
        return None
    if values is not None and values.size == 1:
        value = float(values.reshape(-1)[0])
        divides = op == "Div" and one is not None
        return times(form, value if not divides else 1 / value if value else math.nan)
    if single or (shape is None and form.what in BY_ROW):  # a count, computed from a shape
        if op == "Div" and form.what in ("mean", "total") and not form.averaged:
            return replace(form, averaged=True)
        if form.what == "total" and form.averaged and not form.corrected:
            if op == "Mul" and form.times is None:
                return replace(form, times=constant)
            if op == "Div" and form.times is not None:
                return replace(form, times=None, corrected=True)
        return times(form, math.nan)
    row = form.what in ("x", *_PARTS) and form.gamma is None and op == "Mul"
    return replace(form, gamma=constant) if row else None


def _product(node: gs.Node, one: Form, other: Form) -> Form | None:
    if op_of(node) == "Mul":
        if node.inputs[0] is node.inputs[1]:
            return raised(one, 2.0)
        for above, below in ((one, other), (other, one)):
            if above.what in ("x", "mean") and below.what == "inverse":
                return over(above, below)
        same = one.what in ("x", "mean") and one == replace(other, source=one.source)
        if not same and one.what == other.what == "x" and one.centred != other.centred:
            centred, plain = (one, other) if one.centred else (other, one)
            same = centred == replace(
                plain,
                centred=True,
                source=centred.source,
                mean_axes=centred.mean_axes,
                mean_count=centred.mean_count,
            )
            one = replace(centred, by_ops=True)  # adds up to the same
        return raised(one, 2.0) if same else None
    if one.what in ("x", "mean") and other.what == "root":
        inverse = raised(other, -1.0)
        return None if inverse is None else over(one, inverse)
    return None


def _with_beta(scope: Scope, node: gs.Node, form: Form) -> Form | None:
    """Beta less the mean over the root."""
    beta = next((t for t in node.inputs if constant_made(scope, t)), None)
    if op_of(node) == "Sub" and node.inputs[0] is beta:
        form = replace(form, negative=not form.negative)
    elif op_of(node) == "Sub":
        return None
    return replace(form, beta=beta) if form.negative and form.beta is None else None


def _normalised(
    scope: Scope, node: gs.Node, forms: Sequence[Form | None], joined: Joined | None
) -> Form | None:
    """What an op makes that has the norm inside."""
    op, x = op_of(node), forms[0]
    if op == "BatchNormalization" and not node.attrs.get("training_mode"):
        return _batch_normalised(scope, node, forms, joined)
    if x is None or x.what != "x":
        return None
    axes, mean = axes_of(scope, node), op != "LpNormalization"
    factor = x.factor if op != "BatchNormalization" or _is_plain(scope, node) else math.nan
    whole = replace(x, what="quotient", axes=axes, mean_axes=axes if mean else None, factor=factor)
    return replace(whole, centred=mean, averaged=mean, joined=joined)


def _is_plain(scope: Scope, node: gs.Node) -> bool:
    """Whether a BatchNormalization has neither gamma nor beta."""
    return uniform(scope, node.inputs[1]) == 1 and uniform(scope, node.inputs[2]) == 0


def _batch_normalised(
    scope: Scope, node: gs.Node, forms: Sequence[Form | None], joined: Joined | None
) -> Form | None:
    """BatchNormalization of the input with its own statistics and neither gamma nor beta."""
    x, _, _, mean, variance = forms[:5]
    if x is None or mean is None or variance is None or joined is None:
        return None
    own = x.what == "x" and mean.what == "mean" and is_mean(mean)
    if (
        not own
        or not _is_plain(scope, node)
        or variance.what != "total"
        or joined.read.position != EPSILON
    ):
        return None
    root = raised(replace(variance, joined=variance.joined or joined), 0.5)
    inverse = None if root is None else raised(root, -1.0)
    if inverse is None or inverse.axes is None or mean.axes is None:
        return None
    others = [frozenset(range(axes.rank or 0)) - axes.axes for axes in (inverse.axes, mean.axes)]
    aligned = others == [frozenset([1])] * 2  # BatchNormalization has one number per channel
    centred = replace(x, centred=True, mean_axes=inverse.mean_axes or mean.axes)
    inverse = replace(inverse, mean_count=inverse.mean_count or count_of(mean))
    return over(centred, replace(inverse, aligned=aligned))


def uniform(scope: Scope, tensor: gs.Tensor) -> float | None:
    """The number that all elements of a tensor are, whatever its size; None where they differ."""
    for _ in range(8):
        value = small_value(scope, tensor)
        if value is None:
            value = stored_value(scope, tensor)
        if value is not None:
            flat = value.reshape(-1)
            return float(flat[0]) if value.size and (flat == flat[0]).all() else None
        if not tensor.inputs or not tensor.inputs[0].inputs:
            return None
        node = tensor.inputs[0]
        if op_of(node) == "ConstantOfShape":
            filled = node.attrs.get("value")
            fills = [0.0] if filled is None else filled.values.reshape(-1)
            return float(fills[0]) if len(fills) == 1 else None
        if op_of(node) not in MOVES:
            return None
        tensor = node.inputs[0]
    return None
