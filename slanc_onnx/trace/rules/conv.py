"""Rules for convolutions and for the diagonal maps that go with them."""

from __future__ import annotations

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.ops import CannotFollow, broadcast
from slanc_onnx.reasons import Unread
from slanc_onnx.trace.expression import Convolution, Expr, Known, Product, Sum, Weight
from slanc_onnx.trace.values import Const, Value, View, as_view, as_weight, combine, row
from slanc_onnx.trace.visit import Visit


def convolved(
    visit: Visit, view: View, weight: Value | None, bias: Value | None, channels_last: bool = False
) -> View:
    """The output of a convolution.

    Args:
        visit: The op, for its attributes.
        view: Its input, channels in axis 1.
        weight: The kernel, [out, in / groups, ...].
        bias: One number per output channel, or None.
        channels_last: Whether the channels of input and kernel lie in the last axis instead.
    """
    if len(view.shape) < 3 or (isinstance(weight, Weight) and len(weight.shape) < 3):
        raise CannotFollow(Unread.MISFIT, view.shape)
    if channels_last:
        first = View(view.expr, np.moveaxis(view.ids, -1, 1))
        made = convolved(visit, first, _channels_second(weight), bias)
        return View(made.expr, np.moveaxis(made.ids, 1, -1))
    if not isinstance(weight, Weight):
        raise CannotFollow(Unread.NOT_CONSTANT, "kernel")
    if len(weight.shape) != len(view.shape):
        raise CannotFollow(Unread.MISFIT, weight.shape, view.shape)
    kernel = weight.shape[2:]
    attributes = visit.attributes
    strides = attributes.get("strides") or [1] * len(kernel)
    dilations = attributes.get("dilations") or [1] * len(kernel)
    pads = attributes.get("pads") or [0] * (2 * len(kernel))
    same = str(attributes.get("auto_pad", "NOTSET")).startswith("SAME")
    if len(strides) != len(kernel) or len(dilations) != len(kernel) or len(pads) != 2 * len(kernel):
        raise CannotFollow(Unread.MISFIT, weight.shape)
    if min(strides) < 1 or min(weight.shape) < 1:
        raise CannotFollow(Unread.MISFIT, tuple(strides), weight.shape)
    spatial = []
    for i, size in enumerate(view.shape[2:]):
        padded = size + pads[i] + pads[i + len(kernel)] - dilations[i] * (kernel[i] - 1) - 1
        spatial.append(-(-size // strides[i]) if same else padded // strides[i] + 1)
    channels, taps = weight.shape[0], int(np.prod(kernel))
    whole = weight
    flat = Weight(
        weight.name,
        (channels, weight.shape[1], taps),
        lambda: whole.read().reshape(channels, -1, taps),
    )
    source = row(view, axis=1)
    groups = int(attributes.get("group", 1))
    if groups < 1 or channels % groups or source.channels != groups * weight.shape[1]:
        raise CannotFollow(Unread.MISFIT, groups, source.channels, channels)
    expr: Expr = Convolution(channels, source, flat, groups)
    if bias is not None:
        addend = as_view(bias).expr
        if addend.channels != channels:
            raise CannotFollow(Unread.MISFIT, addend.channels, channels)
        expr = Sum(channels, expr, addend)
    spatial = [max(1, size) for size in spatial]  # an open extent is traced at 1
    ids = np.arange(channels, dtype=np.int32).reshape(1, -1, *([1] * len(kernel)))
    return View(expr, broadcast(ids, (view.shape[0], channels, *spatial)))


def _channels_second(weight: Value | None) -> Value | None:
    """A kernel [out, height, width, in] as [out, in, height, width]."""
    if not isinstance(weight, Weight):
        return weight
    kernel, shape = weight, weight.shape
    turned = (shape[0], shape[-1], *shape[1:-1])
    return Weight(kernel.name, turned, lambda: np.moveaxis(kernel.read(), -1, 1))


def batch_norm(visit: Visit) -> list[Value]:
    """BatchNormalization with the statistics of training: a diagonal map of the channels."""
    x, gamma, beta, mean, variance = (visit.known(i) for i in range(5))
    parts = [v for v in (gamma, beta, mean, variance) if isinstance(v, (Const, Weight))]
    if len(parts) != 4:
        raise CannotFollow(Unread.NOT_CONSTANT, "statistics")
    epsilon = float(visit.attributes.get("epsilon", 1e-5))
    name = visit.node.inputs[1].name
    size = int(np.prod(parts[0].shape))

    def values(part: Const | Weight) -> Array:
        return as_weight(part).read().astype(np.float32).reshape(-1)

    def factor() -> Array:
        return np.asarray(values(parts[0]) / np.sqrt(values(parts[3]) + epsilon))

    def shift() -> Array:
        return np.asarray(values(parts[1]) - values(parts[2]) * factor())

    view = as_view(x)
    along = (-1, *([1] * (view.ids.ndim - 2)))
    ids = np.arange(size, dtype=np.int32).reshape(along)
    scaled_rows = combine(Product, view, View(Known(size, Weight(name, (size,), factor)), ids))
    return [combine(Sum, scaled_rows, View(Known(size, Weight(name, (size,), shift)), ids))]
