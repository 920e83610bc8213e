"""Rules for matrix products: a row times a weight, a convex mix of rows, experts."""

from __future__ import annotations

import numpy as np

from slanc_onnx.trace.movement import CannotFollow, broadcast
from slanc_onnx.trace.rules.experts import multiplied
from slanc_onnx.trace.values import ExpertWeights, Unknown, Value, View
from slanc_onnx.trace.visit import Visit, is_shares, linear, matrix, mixed, mixed_by_head, scaled


def matmul(visit: Visit) -> list[Value]:
    if any(isinstance(v, ExpertWeights) for v in visit.inputs):
        return [multiplied(visit.value(0), visit.value(1))]
    b = visit.known(1)
    unknown = isinstance(visit.value(0), Unknown) and not isinstance(b, View) and len(b.shape) > 1
    a = visit.rows(0, b.shape[-2]) if unknown else visit.known(0)
    attributes = visit.attributes
    alpha = float(attributes.get("alpha", 1.0))
    if isinstance(a, View) and not isinstance(b, View):
        weight = matrix(b, bool(attributes.get("transB", 0)))
        if weight is None or attributes.get("transA", 0):
            raise CannotFollow("multiplies with a vector")
        return [scaled(linear(a, weight), alpha)]
    if isinstance(b, View) and attributes.get("transB", 0):
        b = View(b.expr, np.swapaxes(b.ids, -1, -2))
    if isinstance(b, View) and not isinstance(a, View):
        weight = matrix(a, not attributes.get("transA", 0))
        if weight is None:
            raise CannotFollow("multiplies with a vector")
        turned = linear(View(b.expr, np.swapaxes(b.ids, -1, -2)), weight)
        return [scaled(View(turned.expr, np.swapaxes(turned.ids, -1, -2)), alpha)]
    if isinstance(a, View) and isinstance(b, View) and not attributes.get("transA", 0):
        if is_shares(a.expr):
            shape = broadcast(a.shape[:-2], b.shape[:-2])
            spread = View(b.expr, np.broadcast_to(b.ids, (*shape, *b.shape[-2:])))
            return [scaled(mixed(spread, a.shape[-2]), alpha)]
        raise CannotFollow("multiplies two activations")
    raise CannotFollow("multiplies two constants")


def einsum(visit: Visit) -> list[Value]:
    """A product with a weight matrix, or a convex mix of rows."""
    equation = str(visit.attributes["equation"]).replace(" ", "")
    terms, _, result = equation.partition("->")
    letters = terms.split(",")
    if len(letters) != 2 or not result or "." in equation:
        raise CannotFollow(f"sums over {equation}")
    a, b = visit.known(0), visit.known(1)
    if isinstance(b, View) and not isinstance(a, View):
        a, b, letters = b, a, letters[::-1]
    if not isinstance(a, View):
        raise CannotFollow("multiplies two constants")
    first, second = letters
    summed = [c for c in first if c in second and c not in result]
    if not isinstance(b, View):
        flat = len(second) == 2 and len(summed) == 1 and first[-1] == summed[0]
        weight = matrix(b, transposed=second[-1] == summed[0]) if flat else None
        if weight is None or result != first[:-1] + second.replace(summed[0], ""):
            raise CannotFollow(f"sums over {equation}")
        return [linear(a, weight)]
    if is_shares(b.expr):
        a, b, first, second = b, a, second, first
    if not is_shares(a.expr):
        raise CannotFollow("multiplies two activations")
    sizes = {**dict(zip(first, a.shape, strict=True)), **dict(zip(second, b.shape, strict=True))}
    kept = b.ids[tuple(0 if c in summed else slice(None) for c in second)]
    order = [c for c in second if c not in summed]
    if any(c not in result for c in order):
        raise CannotFollow(f"sums over {equation}")
    batch = [c for c in result if c in order and c in first]
    free = [c for c in result if c in order and c not in first]
    ids = kept.transpose([order.index(c) for c in batch + free])
    rows = mixed_by_head(View(b.expr, ids), len(batch))
    ids = rows.ids.transpose([(batch + free).index(c) for c in result if c in order])
    wide = ids.reshape([sizes[c] if c in order else 1 for c in result])
    return [View(rows.expr, np.broadcast_to(wide, [sizes[c] for c in result]))]
