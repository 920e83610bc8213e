"""The norms that are regions, whatever their spelling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_graphsurgeon as gs
from onnx import TensorProto

from slanc_onnx.graph import (
    Bodies,
    Scope,
    constant_made,
    element_type,
    op_of,
)
from slanc_onnx.norms.affine import next_constant, row_width
from slanc_onnx.norms.constants import scalar_of, stored_value
from slanc_onnx.norms.deferred import DeferredDivision, deferred_division
from slanc_onnx.norms.described import describe, quotient, uniform
from slanc_onnx.norms.forms import BY_ROW, Form
from slanc_onnx.norms.norm import Limit, Norm, Place
from slanc_onnx.norms.reads import Read, leaks, places, with_known_scale
from slanc_onnx.norms.region import Joined, Region
from slanc_onnx.norms.regions import region_of
from slanc_onnx.norms.root_axes import axes_of
from slanc_onnx.norms.row_axes import RowAxes
from slanc_onnx.norms.steps import are_steps
from slanc_onnx.norms.sums import candidates
from slanc_onnx.norms.suspects import (
    Suspect,
    called_norms,
    quantised_sums,
    root_divides,
    sums_between_graphs,
    suspect,
)
from slanc_onnx.ops import ATTRIBUTES, QUANTISING, Kind
from slanc_onnx.reasons import Reason, Unscalable, Untaken

# Ops that do not broadcast a constant of one element: it keeps its shape.
_SHAPED = (*QUANTISING, "Conv", "ConvTranspose", "BatchNormalization", "MatMulNBits")
_WIDEST = 2.0**31  # elements of a row that a factor may stand for


def region_norms(
    scope: Scope, claimed: set[int], bodies: Bodies
) -> tuple[list[tuple[int, Norm]], list[tuple[int, Suspect]]]:
    """The norms of one graph that are regions, and the suspects, each with its place in the order.

    Args:
        scope: The graph.
        claimed: Nodes that belong to norms already, by index.
        bodies: The graphs of the model.
    """
    nodes = scope.sorted_nodes
    order = {id(node): place for place, node in enumerate(nodes)}
    regions: list[Region] = []
    suspects: list[tuple[int, Suspect]] = []
    for root, source in candidates(scope, nodes):
        if scope.index[id(root)] in claimed or _is_constant(scope, source):
            continue
        found = region_of(scope, order, root, source)
        if isinstance(found, Region):
            _add(regions, found)
        elif (where := root_divides(bodies, root)) is not None:
            why = found if where == "here" else Reason(Untaken.IN_ANOTHER_GRAPH)
            suspects.append((order[id(root)], suspect(scope, root, why)))
    norms = [(order[id(r.ends[0])], _best_norm(scope, r)) for r in regions]
    others = [*called_norms(scope), *quantised_sums(scope, bodies)]
    others += sums_between_graphs(scope, bodies)
    suspects += [(order[id(node)], one) for node, one in others]
    return norms, suspects


def _is_constant(scope: Scope, tensor: gs.Tensor) -> bool:
    """Whether a parameter is normalised, and not what data makes."""
    return constant_made(scope, tensor)


def _add(regions: list[Region], found: Region) -> None:
    """Add a region, or replace a part of it by the whole."""
    for place, other in enumerate(regions):
        same = {id(t) for t in other.exits} & {id(t) for t in found.exits}
        nodes = [{id(n) for n in region.nodes} for region in (other, found)]
        if same and (other.x is found.x or nodes[0] <= nodes[1] or nodes[1] <= nodes[0]):
            if len(nodes[1]) > len(nodes[0]):
                regions[place] = found
            return
    regions.append(found)


def _best_norm(scope: Scope, region: Region) -> Norm:
    """A region as a norm, or that of its centred input where only that is scaled, or known."""
    norms = [_norm_of(scope, r) for r in (region, region.nearer) if r is not None]

    def unread(norm: Norm) -> tuple[bool, bool]:
        return norm.skip_reason is not None, norm.by_ops and not norm.deferred

    return min(norms, key=unread)


def _norm_of(scope: Scope, region: Region) -> Norm:
    """A region as a norm."""
    forms = describe(scope, region)
    normalised, own, extra, products = _divided(scope, region, forms)
    source, axes, found = _rows(scope, region, forms, own)
    late = _after(scope, normalised, axes, None if products else own)
    gamma = (own.gamma if own is not None else None) or late[0]
    width = row_width(scope, source, gamma, axes)
    width = products.width if width is None and products is not None else width
    summed = own or _last_sum(region, forms)
    kind, unbiased, counted = _kind(region, summed, own, width)
    width = width or _counted_width(own)
    factor = None
    if own is not None and kind == "l2" and not own.averaged and products is None:
        factor = _times_root_of_width(scope, normalised, width)
    if factor is not None:
        kind, extra, counted = "rms", [factor], True
        normalised = factor.outputs[0]
        late = _after(scope, normalised, axes, own)
        gamma = (own.gamma if own is not None else None) or late[0]
    nodes = tuple({id(n): n for n in (*region.nodes, *extra)}.values())
    joined, limits = _constants(scope, region, own)
    value = _value(scope, joined) if joined is not None else 0.0
    read = region.reads[0].tensor
    like = source if joined is None or joined.read.position < 0 else joined.read.tensor
    known = own is not None and axes is not None and _is_plain(own, joined, width)
    exits = [*region.exits, *(t for node in extra for t in node.outputs)]
    obstacle = None if axes is not None else Reason(Unscalable.AXES_UNKNOWN)
    more = not known or found != "whole" or not counted or _does_more(region, limits)
    products = None if more else products
    apart = frozenset() if products is None else products.apart
    norm = Norm(
        name=normalised.inputs[0].name,
        kind=kind,
        form="decomposed",
        path=scope.path,
        input=source.name,
        normalised=normalised.name,
        output=late[2].name if known else normalised.name,
        width=width,
        element_type=element_type(scope, read, like),
        output_type=element_type(scope, late[2] if known else normalised, read, like),
        epsilon=value,
        epsilon_place=None if joined is None else _place(scope, joined, like),
        epsilon_power=2 if joined is None else int(joined.degree),
        gamma=gamma.name if gamma is not None and known else None,
        beta=late[1].name if late[1] is not None and known else None,
        places=places(scope, list(region.reads), like),
        nodes=tuple(sorted(scope.index[id(n)] for n in nodes)),
        limits=limits,
        other_steps=not are_steps([n for n in nodes if id(n) not in apart], forms),
        by_ops=more or products is not None,
        deferred=() if products is None else products.products,
        unbiased=unbiased,
        one_pass=summed is not None and summed.one_pass,
        axes=axes or RowAxes(),
        overridable_epsilon=_overridden(scope, joined),
        skip_reason=obstacle or leaks(scope, region.nodes, extra, exits),
    )
    return with_known_scale(scope, norm)


def _is_plain(own: Form, joined: Joined | None, width: int | None) -> bool:
    """Whether a quotient is the input over its root, number by number."""
    counts = own.mean_count in (None, width) and not math.isnan(own.factor)
    return own.aligned and not own.by_ops and own.joined is joined and counts


def _divided(
    scope: Scope, region: Region, forms: dict[int, Form]
) -> tuple[gs.Tensor, Form | None, list[gs.Node], DeferredDivision | None]:
    """The first exit, the input over its root, nodes between them, and products that are divided.

    No form where that is nowhere, as a tensor or as what products would be of.
    """
    divided = quotient(scope, region, forms)
    if divided is not None:
        return *divided, None
    products = deferred_division(scope, region, forms)
    if products is None:
        return region.exits[0], None, [], None
    return products.first, products.form, [], products


def _rows(
    scope: Scope, region: Region, forms: dict[int, Form], own: Form | None
) -> tuple[gs.Tensor, RowAxes | None, str]:
    """The tensor whose rows are normalised, how they lie, and whether that is all of the region."""
    if own is not None and own.source is not None and own.axes is not None:
        numerator = _numerator_layout(region, forms, own)
        return own.source, own.axes.rows, "whole" if numerator else "part"
    form = forms.get(id(region.root.outputs[0]))
    if form is not None and form.source is not None and form.axes is not None:
        return form.source, form.axes.rows, "part"
    axes = axes_of(scope, region.root)
    return region.x, None if axes is None else axes.rows, "part"


def _numerator_layout(region: Region, forms: dict[int, Form], own: Form) -> bool:
    """Whether the output lies as the rows do."""
    form = forms.get(id(own.source))
    return form is not None and form.layout == own.layout


def _kind(
    region: Region, form: Form | None, own: Form | None, width: int | None
) -> tuple[Kind, bool, bool]:
    """The kind, whether the mean square divides by the width less one, and whether that is all.

    What decides is the mean square over the sum of squares, as the output has it: 1 / width for a
    norm, 1 for an L2 normalisation.
    """
    if form is None:
        plain_kind: Kind = "rms" if op_of(region.root) == "ReduceMean" else "l2"
        return "layer" if region.nearer is not None else plain_kind, False, False
    centred = form.centred or form.one_pass
    mean: Kind = "layer" if centred else "rms"
    share = form.factor
    if own is not None and share:
        square = share * share  # no power, which raises where this is infinite
        share = form.unit / square if square else math.inf
    if form.averaged and (form.corrected or math.isclose(share, 1, rel_tol=2e-3)):
        return mean, form.corrected, True
    counts: dict[float, bool] = {}
    if width:  # a row of none is refused later
        counts = {float(width): False}
        if width > 1 + (not centred):  # else by one: an L2 normalisation
            counts[width - 1.0] = True
    elif not form.averaged and 1 / _WIDEST < share < 0.75:
        counts = {float(round(1 / share)): False}
    for count, unbiased in counts.items():
        wanted = (width or 1) / count if form.averaged else 1 / count
        if math.isclose(share, wanted, rel_tol=1e-4 if unbiased else 2e-3):
            return mean, unbiased, True
    plain = not form.averaged and math.isclose(share, 1, rel_tol=2e-3)
    known = plain and not centred
    return ("layer" if centred else "rms" if form.averaged else "l2"), False, known


def _last_sum(region: Region, forms: dict[int, Form]) -> Form | None:
    """The form of the last sum of squares of a region, or of what is made of it row by row."""
    made = [forms.get(id(node.outputs[0])) for node in region.nodes]
    sums = [form for form in made if form is not None and form.what in BY_ROW[1:]]
    return sums[-1] if sums else None


def _counted_width(own: Form | None) -> int | None:
    """The width by which a sum of squares was divided; None where an op or a shape counts.

    Where nothing else tells the width, a row of any other is no row of this norm.
    """
    if own is None or own.averaged or not own.factor:
        return None
    square = own.factor * own.factor
    share = own.unit / square if square else math.inf
    return round(1 / share) if 1 / _WIDEST < share < 0.75 else None


def _times_root_of_width(scope: Scope, tensor: gs.Tensor, width: int | None) -> gs.Node | None:
    """The node that multiplies an L2 normalised value by the root of the width; None for none."""
    readers = tensor.outputs
    if len(readers) != 1 or id(readers[0]) not in scope.index:
        return None
    node = readers[0]
    if op_of(node) not in ("Mul", "Div") or (op_of(node) == "Div" and node.inputs[1] is tensor):
        return None
    other = node.inputs[1] if node.inputs[0] is tensor else node.inputs[0]
    value = scalar_of(scope, other)
    if op_of(node) == "Div" and value:
        value = 1 / value
    if value is None or not 1.4 <= value < _WIDEST**0.5:
        return None
    count = width if width is not None else round(value**2)
    return node if math.isclose(value**2, count, rel_tol=2e-3) else None


def _after(
    scope: Scope, normalised: gs.Tensor, axes: RowAxes | None, own: Form | None
) -> tuple[gs.Tensor | None, gs.Tensor | None, gs.Tensor]:
    """Gamma and beta that follow, and the tensor after them."""
    if axes is None or own is None or own.beta is not None:
        return None, None if own is None else own.beta, normalised
    gamma, end = None, normalised
    if own.gamma is None:
        end, gamma = next_constant(scope, end, "Mul", axes)
    end, beta = next_constant(scope, end, "Add", axes)
    return gamma, beta, end


def _constants(
    scope: Scope, region: Region, own: Form | None
) -> tuple[Joined | None, tuple[Limit, ...]]:
    """Epsilon, and the other constants to divide."""
    joined = list(region.joined)
    first = own.joined if own is not None else None
    if own is None:  # the first that may be one
        free = (j for j in joined if not _keeps_shape(j))
        first = next((j for j in free if j.degree in (1, 2) and _value(scope, j)), None)
    if first is not None and (_value(scope, first) is None or _keeps_shape(first)):
        first = None  # an epsilon per channel
    return first, tuple(_limit(scope, j, region.x) for j in joined if j is not first)


def _limit(scope: Scope, joined: Joined, like: gs.Tensor) -> Limit:
    place, power = _place(scope, joined, like), int(joined.degree)
    if _overridden(scope, joined) is not None:
        return Limit(place, power, None)
    if _keeps_shape(joined):
        held = stored_value(scope, joined.read.tensor)
        if held is None:
            return Limit(place, power, None)
        return Limit(place, power, tuple(float(v) for v in held.reshape(-1)), held.shape)
    value = _value(scope, joined)
    return Limit(place, power, None if value is None else (value,))


def _keeps_shape(joined: Joined) -> bool:
    return joined.read.position >= 0 and op_of(joined.read.node) in _SHAPED


def _does_more(region: Region, limits: Sequence[Limit]) -> bool:
    """Whether a region computes more than a norm: limits, or a rounding to integers."""
    # Another limit may leave the output longer than a norm's is.
    return bool(limits) or any(op_of(node) in QUANTISING for node in region.nodes)


def _place(scope: Scope, joined: Joined, like: gs.Tensor) -> Place:
    node, position = joined.read.node, joined.read.position
    if position in ATTRIBUTES:
        return Place(scope.index[id(node)], position, TensorProto.FLOAT)
    return places(scope, [Read(node, position)], like)[0]


def _value(scope: Scope, joined: Joined) -> float | None:
    """The one number that a constant is; None where its elements differ."""
    node, position = joined.read.node, joined.read.position
    if position in ATTRIBUTES:
        return float(node.attrs.get(ATTRIBUTES[position], 1e-5))
    value = scalar_of(scope, node.inputs[position])
    return value if value is not None else uniform(scope, node.inputs[position])


def _overridden(scope: Scope, joined: Joined | None) -> str | None:
    if joined is None or joined.read.position in ATTRIBUTES:
        return None
    return scope.overridden(joined.read.tensor)
