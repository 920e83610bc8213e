"""Find the norms that are written out as a sequence of ops."""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from slanc_onnx.graph import (
    SEE_THROUGH,
    Scope,
    constant_made,
    dims,
    element_count,
    element_type,
    is_quantised,
    last_dim,
    op_of,
)
from slanc_onnx.norms.norm import Norm
from slanc_onnx.norms.pattern import Match
from slanc_onnx.norms.reads import leaks, places, with_known_scale
from slanc_onnx.norms.row_axes import RowAxes
from slanc_onnx.norms.spellings import DECOMPOSED, REDUCTIONS, Decomposed, reduced_axes
from slanc_onnx.reasons import Reason, Unscalable

_ENDS = {"Div", "Mul", "Add", "Sub"}


def decomposed_norm(scope: Scope, node: gs.Node) -> Norm | None:
    """The decomposed norm whose normalised value a node makes; None for any other node."""
    if op_of(node) not in _ENDS or not node.outputs:
        return None
    for form in DECOMPOSED:
        for match in form.pattern.of(node.outputs[0], Match(scope)):
            norm = _from_match(scope, node, form, match)
            if norm is not None:
                return norm
    return None


def _from_match(scope: Scope, node: gs.Node, form: Decomposed, match: Match) -> Norm | None:
    reads = match.places("x")
    axes = _axes(scope, match)
    if axes is None or not all(id(n) in scope.index for n in match.nodes):
        return None  # or partly in a graph around this one
    epsilon = next(iter(match.places("epsilon")), None)
    gamma, beta = match.tensor("gamma"), match.tensor("beta")
    output = node.outputs[0]
    if op_of(node) in ("Div", "Mul") and beta is None:
        late_gamma, beta, output = _affine(scope, output, axes)
        gamma = gamma or late_gamma
    width = row_size(scope, gamma, axes)
    pooled = any(op_of(n) == "GlobalAveragePool" for n in match.nodes)
    if not _is_over_rows(scope, axes, reads[0].tensor, gamma, pooled):
        return None
    width = width or next((w for u in reads if (w := along(scope, u.tensor, axes))), None)
    divisors = [*match.values("count"), *(1 / n for n in match.values("inverse count") if n)]
    if not all(math.isfinite(divisor) and divisor > 0.5 for divisor in divisors):
        return None  # a row has an element at least
    counts = [round(divisor) for divisor in divisors]
    width = width or max(counts, default=None)
    if width is not None and not {width, width - 1}.issuperset(counts):
        return None  # not a mean over the row
    correction = [*match.places("n"), *match.places("n - 1")]
    if not all(constant_made(scope, use.tensor) for use in correction):
        return None  # the variance is multiplied by data
    if form.factor is not None and not _has_factor(match, width, form.factor):
        return None  # an L2 normalisation, not a norm
    like = reads[0].tensor if epsilon is None else epsilon.tensor
    nodes = tuple({id(n): n for n in match.nodes}.values())
    obstacle = None if form.obstacle is None else Reason(form.obstacle)
    norm = Norm(
        name=node.name,
        kind=form.kind,
        form="decomposed",
        path=scope.path,
        input=reads[0].tensor.name,
        normalised=node.outputs[0].name,
        output=output.name,
        width=width,
        element_type=element_type(scope, reads[0].tensor, like),
        output_type=element_type(scope, output, reads[0].tensor, like),
        epsilon=0.0 if epsilon is None else match.value("epsilon"),
        epsilon_place=None if epsilon is None else places(scope, [epsilon], like)[0],
        epsilon_power=form.power,
        gamma=None if gamma is None else gamma.name,
        beta=None if beta is None else beta.name,
        places=places(scope, reads, like),
        nodes=tuple(sorted(scope.index[id(n)] for n in nodes)),
        unbiased=bool(correction) or any(count != width for count in counts),
        one_pass=form.one_pass,
        axes=axes,
        overridable_epsilon=None if epsilon is None else scope.overridden(epsilon.tensor),
        skip_reason=obstacle or _quantised(match) or leaks(scope, nodes, [node]),
    )
    return with_known_scale(scope, norm)


def _has_factor(match: Match, width: int | None, power: float) -> bool:
    """Whether a match has the factor width^power, by which an L2 norm is a root mean square."""
    factor, divisor = match.value("factor"), match.value("divisor")
    if factor is None and divisor is None:
        return True  # a spelling with a mean instead
    value = factor if factor is not None else 1 / divisor if divisor else 0.0
    return width is not None and math.isclose(value, width**power, rel_tol=1e-3)


def _axes(scope: Scope, match: Match) -> RowAxes | None:
    """The axes over which all of the norm's reductions run; None where they differ."""
    found = {reduced_axes(scope, n) for n in match.nodes if op_of(n) in REDUCTIONS}
    return found.pop() if len(found) == 1 else None if found else RowAxes()


def _is_over_rows(
    scope: Scope, axes: RowAxes, source: gs.Tensor, gamma: gs.Tensor | None, pooled: bool
) -> bool:
    """Whether a norm runs over features, not over positions of a sequence.

    Features lie in a last axis, in axis 1 of an image or where gamma lies along axis 1, in several
    last axes with a gamma of their shape, and in groups that a Reshape cuts out.
    """
    if axes.last_axis and not pooled:
        return True
    shape = dims(scope, gamma) if gamma is not None else None
    rank = None if source.shape is None else len(source.shape)
    if axes.last_axis:  # a pooling runs over the last axis alone where there are three
        return rank == 3 or (shape is not None and len(shape) == 3)
    if axes.axes == (1,):
        if shape is not None:
            return len([d for d in shape if d != 1]) == 1 and len(shape) > 1 and shape[-1] == 1
        return rank is not None and rank >= 4
    if shape is not None and len(shape) == axes.trailing:
        return True
    inside = axes.trailing is None or (rank is not None and axes.trailing < rank)
    return rank is not None and rank >= 4 and inside and 0 not in axes.axes


def along(scope: Scope, source: gs.Tensor, axes: RowAxes) -> int | None:
    """The number of elements of a row, where the input's shape tells it."""
    if axes.last_axis:
        return last_dim(scope, source)
    shape = source.shape or ()
    if axes.axes[0] >= len(shape) or -axes.axes[0] > len(shape):
        return None
    return element_count(
        tuple(
            d if isinstance(d, int) and d >= 0 else str(d)
            for d in (shape[axis] for axis in axes.axes)
        )
    )


def row_size(scope: Scope, constant: gs.Tensor | None, axes: RowAxes) -> int | None:
    """The number of elements of a row, where gamma or beta tells it."""
    if constant is None:
        return None
    if axes.last_axis:
        return last_dim(scope, constant)
    shape = dims(scope, constant) or ()
    whole = axes.axes == (1,) or (len(shape) == axes.trailing and 1 not in shape)
    return element_count(shape) if shape and whole else None


def _quantised(match: Match) -> Reason | None:
    """Why a norm cannot be scaled if an inner value is rounded to integers; else None."""
    own = {
        id(place.node.inputs[place.position])
        for name in ("x", "gamma", "beta", "epsilon")
        for place in match.places(name)
    }
    for node in match.nodes:
        for tensor in node.inputs:
            if id(tensor) not in own and is_quantised(tensor):
                return Reason(Unscalable.QUANTISED, (tensor.name,))
    return None


def _affine(
    scope: Scope, normalised: gs.Tensor, axes: RowAxes
) -> tuple[gs.Tensor | None, gs.Tensor | None, gs.Tensor]:
    """Gamma and beta that follow a normalised value, and the tensor after them."""
    tensor, found = normalised, []
    for op in ("Mul", "Add"):
        end, operand = next_constant(scope, tensor, op, axes)
        found.append(operand)
        tensor = end if operand is not None else tensor
    return found[0], found[1], tensor


def next_constant(
    scope: Scope, tensor: gs.Tensor, op: str, axes: RowAxes
) -> tuple[gs.Tensor, gs.Tensor | None]:
    """Follow the only reader through casts to an `op` whose other operand is a constant row."""
    end = tensor
    while len(end.outputs) == 1 and op_of(end.outputs[0]) in SEE_THROUGH:
        end = end.outputs[0].outputs[0]
    if len(end.outputs) != 1 or op_of(end.outputs[0]) != op:
        return tensor, None
    node = end.outputs[0]
    other = node.inputs[1] if node.inputs[0] is end else node.inputs[0]
    sizes = dims(scope, other) or (0,)
    size = sizes[-1] if axes.last_axis else element_count(sizes)
    if isinstance(size, int) and size > 1 and constant_made(scope, other):
        return node.outputs[0], other
    return tensor, None
