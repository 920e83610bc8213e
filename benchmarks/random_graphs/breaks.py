"""Rules of the proof broken on purpose, each as the attacked graphs of a kind would have it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from onnx import NodeProto
from onnx_graphsurgeon import Tensor

from benchmarks.random_graphs.broken import (
    Break,
    casts_in_norms,
    counts_by_a_shape,
    numbers_of_the_finder,
    scores_in_fp16,
    slices_backwards,
    sums_on_the_way,
    together,
)
from slanc_onnx.accelerator import Accelerator
from slanc_onnx.graph import Scope, dims
from slanc_onnx.norms import Norm, ReadModel, affine, deferred
from slanc_onnx.norms.forms import Form
from slanc_onnx.ops import ELEMENTWISE
from slanc_onnx.prove import Certificate, certificate, output_radius, proofs, sets, step_bounds
from slanc_onnx.prove.sets import Ellipsoids, Reach
from slanc_onnx.prove.trusted import (
    computed,
    constants,
    norm_rows,
    prover,
    table,
    values,
)
from slanc_onnx.prove.trusted.computed import computer
from slanc_onnx.prove.trusted.kinds import natural
from slanc_onnx.prove.trusted.rules import (
    attention,
    functions,
    joins,
    moves,
    products,
    reductions,
)
from slanc_onnx.prove.trusted.table import ANY, RULES, Call, Result, Rule
from slanc_onnx.prove.trusted.values import Constant, Operand, Value
from slanc_onnx.scale import decide
from slanc_onnx.weights import spectral_bound


def _with_rule(op: str, changed: Callable[[Rule], Rule]) -> AbstractContextManager[Any]:
    return patch.dict(RULES, {("", op): changed(RULES["", op])})


def _uncomposed(found: Mapping[str, Certificate], *_: Any) -> dict[str, Certificate]:
    return {n: replace(c, conditions=c.bound.conditions) for n, c in found.items()}


def composition() -> AbstractContextManager[Any]:
    """A norm is certified whatever becomes of the norms before it."""
    return patch.object(decide, "composed", _uncomposed)


def softmax_nan() -> AbstractContextManager[Any]:
    """A softmax gives shares, whatever its scores are."""

    def shares(call: Call) -> Result:
        made = attention.softmax(call)
        assert isinstance(made, Value)
        return replace(made, nan=None)

    return _with_rule("Softmax", lambda rule: replace(rule, apply=shares))


def _one_copy(reach: Reach, channels: int) -> Ellipsoids:
    each = np.full(channels, float(reach.each.max(initial=0.0)))
    return Ellipsoids(each, (np.full(channels, reach.length()),))


def repeated_channels() -> AbstractContextManager[Any]:
    """A row that holds a channel twice is as long as one that holds it once."""
    return together(
        patch.object(moves, "picked", lambda reach, index: _one_copy(reach, len(index))),
        patch.object(
            moves,
            "filled",
            lambda value, dims, axes: _one_copy(
                value.reach, math.prod(int(dims[axis]) for axis in axes)
            ),
        ),
    )


def shares_reshaped() -> AbstractContextManager[Any]:
    """Shares stay shares in another shape."""

    def kept(call: Call) -> Result:
        made, before = moves.reshape(call), call.inputs[0]
        if isinstance(made, Value) and isinstance(before, Value) and before.shares is not None:
            return replace(made, shares=made.rank - 1)
        return made

    return _with_rule("Reshape", lambda rule: replace(rule, apply=kept))


_READ = ("to", "value", "axis", "axes", "perm", "value_ints", "value_float", "value_int")


def constant_folding() -> AbstractContextManager[Any]:
    """Constants are computed without most attributes, and a clamp has no limits."""

    def careless(node: NodeProto, opsets: Mapping[str, int], *more: Any) -> Any:
        copy = NodeProto()
        copy.CopyFrom(node)
        del copy.attribute[:]
        copy.attribute.extend(a for a in node.attribute if a.name in _READ)
        if node.op_type == "Clip":
            copy.op_type = "Identity"
            del copy.input[1:]
            return lambda arrays: computer(copy, opsets, *more)(arrays[:1])
        return computer(copy, opsets, *more)

    return patch.object(prover, "computer", careless)


def zero_at_length_one() -> AbstractContextManager[Any]:
    """Of a choice only the first of the two counts."""

    def first(call: Call) -> Result:
        return joins.where(replace(call, inputs=(*call.inputs[:2], call.inputs[1])))

    return _with_rule("Where", lambda rule: replace(rule, apply=first))


def _reading(changed: Callable[[ReadModel], ReadModel]) -> AbstractContextManager[Any]:
    """The proofs of another reading of each model."""
    right = proofs
    return patch.object(
        decide, "proofs", lambda read, assumed, told: right(changed(read), assumed, told)
    )


def overridable() -> AbstractContextManager[Any]:
    """What a caller may give keeps the value that the file has."""

    def trusting(read: ReadModel) -> ReadModel:
        norms = [replace(norm, overridable_epsilon=None) for norm in read.norms]
        scopes = [replace(scope, overridable=frozenset()) for scope in read.scopes]
        names = set(read.scopes[0].initializers)
        specs = [spec for spec in read.specs if spec.name not in names]
        return replace(read, norms=norms, scopes=scopes, specs=specs)

    return _reading(trusting)


def width_of_gamma() -> AbstractContextManager[Any]:
    """One number may be a gamma, and a norm is as wide as its gamma."""
    sizes, right = dims, output_radius

    def wide(scope: Scope, tensor: Tensor) -> tuple[int | str, ...] | None:
        told = sizes(scope, tensor)
        return (2,) if told is not None and set(told) <= {1} else told

    def radius(norm: Norm, width: int, device: Accelerator) -> float:
        return right(norm, norm.width or width, device)

    return together(
        patch.object(affine, "dims", wide),
        patch.object(norm_rows, "output_radius", radius),
        norms_that_are_none(),
    )


def norms_that_are_none() -> AbstractContextManager[Any]:
    """A norm's width is what its input has, whatever it divides by."""
    return together(patch.object(norm_rows, "_check_width", lambda *_: None), counts_by_a_shape())


def domain_of_functions() -> AbstractContextManager[Any]:
    """Roots and logarithms of any number are finite."""

    def of_positive(right: Callable[[Call], Result]) -> Callable[[Call], Result]:
        def careless(call: Call) -> Result:
            value = call.value()
            low, high = max(value.low, 2.0**-100), max(value.high, 1.0)
            return right(replace(call, inputs=(replace(value, low=low, high=high),)))

        return careless

    return together(
        _with_rule("Sqrt", lambda rule: replace(rule, apply=of_positive(functions.root))),
        _with_rule("Log", lambda rule: replace(rule, apply=of_positive(functions.logarithm))),
    )


def flatten_of_positions() -> AbstractContextManager[Any]:
    """A size that the file leaves open is 1."""

    def one(dim: int | str) -> int:
        return dim if isinstance(dim, int) else 1

    return together(patch.object(values, "size_of", one), patch.object(norm_rows, "size_of", one))


def fp32_range_between_norms() -> AbstractContextManager[Any]:
    """No number is too large for FP32."""
    return patch.object(table, "checked", lambda value, _: value)


def mix_rounding() -> AbstractContextManager[Any]:
    """Sums over positions are exact."""
    return together(
        *(patch.object(m, "mixed_over", lambda v, *_: v) for m in (products, attention, reductions))
    )


def cast_to_fp16() -> AbstractContextManager[Any]:
    """FP16 holds what FP32 holds."""
    largest = float(np.finfo(np.float32).max)
    return together(
        patch.object(values, "largest_of", lambda _: largest),
        patch.object(functions, "largest_of", lambda _: largest),
    )


def quantised() -> AbstractContextManager[Any]:
    """Numbers of eight bits are what they were before."""

    def same(call: Call) -> Result:
        return call.operand(0)

    rule = Rule(same, ("axis", "block_size", "saturate"), (ANY,), 1, False, True)
    return patch.dict(RULES, {("", op): rule for op in ("QuantizeLinear", "DequantizeLinear")})


def matrices_by_their_mean() -> AbstractContextManager[Any]:
    """A matrix stretches rows by its root mean square singular value."""
    right = spectral_bound

    def mean(matrix: Any) -> float:
        return right(matrix) / math.sqrt(min(matrix.shape))

    return patch.object(sets, "spectral_bound", mean)


def independent_addends() -> AbstractContextManager[Any]:
    """Rows that are added are at right angles."""
    right = sets.sum_of_ellipsoids

    def joined(terms: Sequence[Any]) -> float:
        return math.hypot(*(right([term]) for term in terms)) if terms else 0.0

    return patch.object(sets, "sum_of_ellipsoids", joined)


def exact_sums() -> AbstractContextManager[Any]:
    """The device adds without rounding."""
    return patch.object(step_bounds, "sum_error", lambda *_: 0.0)


def channels_that_broadcast() -> AbstractContextManager[Any]:
    """A number that repeats along a row is as long as it is once."""
    return patch.object(joins, "filled", lambda value, *_: value.reach)


def moved_nan_tests() -> AbstractContextManager[Any]:
    """Tests for nan that are moved are tests of the same elements."""
    return patch.object(table, "_IN_PLACE", ("IsNaN", "Trilu", "Pad"))


def rounded_to_16_bits() -> AbstractContextManager[Any]:
    """What is rounded to 16 bits keeps within the interval that it had."""

    def kept(value: Value) -> Value:
        made = values.rounded(value)
        return replace(made, low=value.low, high=value.high, beyond=value.beyond)

    return patch.object(table, "rounded", kept)


def sums_that_cancel() -> AbstractContextManager[Any]:
    """Sums on the way are exact, and so is e to a small power less 1."""
    exact = {n: replace(r, off=lambda *_: 0.0) for n, r in ELEMENTWISE.items()}
    return together(
        patch.object(joins, "DEVICE_UNIT", 0.0),
        patch.object(functions, "ELEMENTWISE", exact),
    )


def odd_attributes() -> AbstractContextManager[Any]:
    """Attributes are numbers."""
    return patch.object(table, "_is_held", lambda *_: True)


def random_constants() -> AbstractContextManager[Any]:
    """What is random once is the same ever after."""
    return together(patch.object(constants, "_RANDOM", ()), constants_of_two_runtimes())


def numbers_that_may_be_negative() -> AbstractContextManager[Any]:
    """Whole numbers that are joined to sizes are sizes."""
    right = constants._entries

    def sizes(operand: Operand, fresh: Callable[[], str]) -> list[int | str]:
        mark = constants._ANY
        return [e if isinstance(e, int) else e.removeprefix(mark) for e in right(operand, fresh)]

    return patch.object(constants, "_entries", sizes)


def constants_of_two_runtimes() -> AbstractContextManager[Any]:
    """ONNX's evaluator computes what every runtime does."""
    return patch.object(computed, "agreed", lambda *_: True)


def masks_of_data() -> AbstractContextManager[Any]:
    """Whatever hides positions is a mask, if one has to do with it."""
    return together(
        patch.object(values.Facts, "deciders", property(lambda facts: facts.origin)),
        patch.object(joins, "_hidden", _origins),
    )


def _origins(parts: Sequence[Value], _: Value) -> frozenset[str]:
    return frozenset().union(*(part.facts.origin for part in parts))


def whole_numbers() -> AbstractContextManager[Any]:
    """FP64 holds the ends of all whole numbers."""

    def within(kind: int, low: float, high: float) -> tuple[float, float]:
        least, most = natural(kind)
        return (low, high) if least <= low <= high <= most else (least, most)

    return together(patch.object(joins, "whole", within), patch.object(values, "whole", within))


def any_row_divided() -> AbstractContextManager[Any]:
    """What is divided behind a product is the product of the row that the root is of."""

    def whole(_: Form, inverse: Form) -> Form:
        return replace(inverse, what="quotient", gamma=None)

    return patch.object(deferred, "over", whole)


def products_that_fit() -> AbstractContextManager[Any]:
    """A product of a row that is not divided yet fits like one of a row that is."""
    return patch.object(certificate, "check_product", lambda *_: None)


# By the kind of graphs that is to show it.
BREAKS: Mapping[str, tuple[Break, ...]] = {
    "cast_to_fp16": (cast_to_fp16,),
    "channels_that_broadcast": (channels_that_broadcast,),
    "composition": (composition,),
    "constant_folding": (constant_folding,),
    "constants_of_two_runtimes": (constants_of_two_runtimes,),
    "counts_by_a_shape": (counts_by_a_shape,),
    "deferred_divisions": (any_row_divided, products_that_fit),
    "domain_of_functions": (domain_of_functions,),
    "flatten_of_positions": (flatten_of_positions,),
    "fp32_range_between_norms": (fp32_range_between_norms,),
    "if_overridable_condition": (overridable,),
    "mix_rounding": (mix_rounding,),
    "moved_nan_tests": (moved_nan_tests,),
    "norms_that_are_none": (norms_that_are_none, casts_in_norms),
    "numbers_of_the_finder": (numbers_of_the_finder,),
    "numbers_that_may_be_negative": (numbers_that_may_be_negative, whole_numbers),
    "odd_attributes": (odd_attributes,),
    "overridable_epsilon": (overridable,),
    "plain": (matrices_by_their_mean, independent_addends, exact_sums),
    "quantised": (quantised,),
    "random_constants": (random_constants,),
    "repeated_channels": (repeated_channels,),
    "rounded_to_16_bits": (rounded_to_16_bits,),
    "scalar_gamma_width": (width_of_gamma,),
    "scores_in_fp16": (scores_in_fp16,),
    "shares_reshaped": (shares_reshaped,),
    "slices_backwards": (slices_backwards,),
    "sums_on_the_way": (sums_on_the_way,),
    "sums_that_cancel": (sums_that_cancel,),
    "softmax_nan": (softmax_nan, masks_of_data),
    "zero_at_length_one": (zero_at_length_one,),
}

__all__ = ["BREAKS", "Break", "Constant"]
