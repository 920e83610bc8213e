"""Norms over groups of channels, several axes or the channels of an image, as exporters write them.

Fused ops that ONNX Runtime has no CPU kernel for are in test_group_norms_contrib.py.
"""

from slanc_onnx.norms.row_axes import RowAxes
from tests.spellings.row_norms import RowNorm


def written_layer(axes: str, affine: str = "o = Mul(n, g) y = Add(o, b)") -> str:
    """A LayerNorm over some axes, in elementary ops."""
    return (
        f"mu = ReduceMean<axes = [{axes}]>(x) c = Sub(x, mu) q = Mul(c, c) "
        f"m = ReduceMean<axes = [{axes}]>(q) v = Add(m, eps) s = Sqrt(v) n = Div(c, s) {affine}"
    )


def written_rms(axes: str, affine: str = "y = Mul(n, g)") -> str:
    """An RMSNorm over some axes, in elementary ops."""
    return (
        f"q = Mul(x, x) m = ReduceMean<axes = [{axes}]>(q) v = Add(m, eps) s = Sqrt(v) "
        f"n = Div(x, s) {affine}"
    )


_IMAGE, _LAST = (6, 3, 2), (3, 2, 4)
_ANY = "float[batch, 6, h, w]"
_GROUP = "y = GroupNormalization<num_groups = 2, epsilon = 1e-5>(x, g, b)"

GROUP_NORMS = [
    RowNorm(
        "GroupNormalization, one scale per group",
        "group",
        RowAxes(groups=2),
        None,
        _ANY,
        _IMAGE,
        lambda n, c, h, w: (n, c // 3),
        _GROUP,
        (2,),
        lambda n, c, h, w: c // 3,
        opset=18,
    ),
    RowNorm(
        "GroupNormalization, one scale per channel",
        "group",
        RowAxes(groups=2),
        None,
        _ANY,
        _IMAGE,
        lambda n, c, h, w: (n, c // 3),
        _GROUP,
        (6,),
        lambda n, c, h, w: c,
        opset=21,
    ),
    RowNorm(
        "GroupNormalization of a sequence, epsilon left out",
        "group",
        RowAxes(groups=3),
        None,
        "float[batch, 6, length]",
        (6, 5),
        lambda n, c, p: (n, c // 2),
        "y = GroupNormalization<num_groups = 3>(x, g, b)",
        (6,),
        lambda n, c, p: c,
        opset=21,
    ),
    RowNorm(
        "InstanceNormalization",
        "group",
        RowAxes(groups=0),
        None,
        _ANY,
        _IMAGE,
        lambda n, c, h, w: (n, c),
        "y = InstanceNormalization<epsilon = 1e-5>(x, g, b)",
        (6,),
        lambda n, c, h, w: c,
    ),
    RowNorm(
        "InstanceNormalization of a sequence, epsilon left out",
        "group",
        RowAxes(groups=0),
        None,
        "float[batch, 6, 5]",
        (6, 5),
        lambda n, c, p: (n, c),
        "y = InstanceNormalization(x, g, b)",
        (6,),
        lambda n, c, p: c,
    ),
]

LAST_AXES = [
    RowNorm(
        "LayerNormalization, axis = -2",
        "layer",
        RowAxes((-2, -1)),
        8,
        "float[batch, 3, 2, 4]",
        _LAST,
        lambda n, i, j, k: (n, i),
        "y = LayerNormalization<axis = -2>(x, g, b)",
        (2, 4),
        lambda n, i, j, k: 4 * j + k,
    ),
    RowNorm(
        "LayerNormalization, axis = -2, sizes known from gamma, rank unknown",
        "layer",
        RowAxes((-2, -1)),
        8,
        "float[]",
        _LAST,
        lambda n, i, j, k: (n, i),
        "y = LayerNormalization<axis = -2>(x, g, b)",
        (2, 4),
        lambda n, i, j, k: 4 * j + k,
    ),
    RowNorm(
        "LayerNormalization, axis = 2 of four",
        "layer",
        RowAxes((-2, -1)),
        8,
        "float[batch, rows, p, q]",
        _LAST,
        lambda n, i, j, k: (n, i),
        "y = LayerNormalization<axis = 2>(x, g)",
        (2, 4),
        lambda n, i, j, k: 4 * j + k,
        beta=False,
    ),
    RowNorm(
        "LayerNormalization, axis = 1: all of a sample",
        "layer",
        RowAxes((-3, -2, -1)),
        24,
        "float[batch, 3, 2, 4]",
        _LAST,
        lambda n, *at: n,
        "y = LayerNormalization<axis = 1>(x, g, b)",
        _LAST,
        lambda n, i, j, k: 8 * i + 4 * j + k,
    ),
    RowNorm(
        "LayerNormalization, axis = -2, one gamma for all columns",
        "layer",
        RowAxes((-2, -1)),
        8,
        "float[batch, 3, 2, 4]",
        _LAST,
        lambda n, i, j, k: (n, i),
        "y = LayerNormalization<axis = -2>(x, g, b)",
        (1, 4),
        lambda n, i, j, k: k,
    ),
    RowNorm(
        "LayerNormalization of the last axis, one gamma for all of it",
        "layer",
        RowAxes(),
        4,
        "float[batch, 3, 2, 4]",
        _LAST,
        lambda n, i, j, k: (n, i, j),
        "y = LayerNormalization<axis = -1>(x, g, b)",
        (1,),
    ),
    RowNorm(
        "RMSNormalization, axis = 2 of four",
        "rms",
        RowAxes((-2, -1)),
        8,
        "float[batch, 3, 2, 4]",
        _LAST,
        lambda n, i, j, k: (n, i),
        "y = RMSNormalization<axis = 2>(x, g)",
        (2, 4),
        lambda n, i, j, k: 4 * j + k,
        opset=23,
        beta=False,
    ),
    RowNorm(
        "written out",
        "rms",
        RowAxes((-2, -1)),
        8,
        "float[batch, rows, p, q]",
        _LAST,
        lambda n, i, j, k: (n, i),
        written_rms("-2, -1"),
        (2, 4),
        lambda n, i, j, k: 4 * j + k,
        beta=False,
    ),
    RowNorm(
        "written out, axes counted from the front and out of order",
        "rms",
        RowAxes((-2, -1)),
        8,
        "float[batch, rows, 2, 4]",
        _LAST,
        lambda n, i, j, k: (n, i),
        written_rms("3, 2"),
        (2, 4),
        lambda n, i, j, k: 4 * j + k,
        beta=False,
    ),
    RowNorm(
        "written out, all of a sample, a gamma per channel",
        "layer",
        RowAxes((-3, -2, -1)),
        None,
        _ANY,
        _IMAGE,
        lambda n, *at: n,
        written_layer("1, 2, 3"),
        (6, 1, 1),
        lambda n, c, h, w: c,
    ),
    RowNorm(
        "written out, no gamma, sizes unknown",
        "rms",
        RowAxes((-2, -1)),
        None,
        "float[batch, rows, p, q]",
        _LAST,
        lambda n, i, j, k: (n, i),
        written_rms("-2, -1", "y = Identity(n)"),
        gamma=False,
        beta=False,
    ),
]

CHANNELS_FIRST = [
    RowNorm(
        "over the channels of an image",
        "layer",
        RowAxes((1,)),
        6,
        _ANY,
        _IMAGE,
        lambda n, c, h, w: (n, h, w),
        written_layer("1"),
        (6, 1, 1),
        lambda n, c, h, w: c,
    ),
    RowNorm(
        "over the channels of an image, rank unknown",
        "layer",
        RowAxes((1,)),
        6,
        "float[]",
        _IMAGE,
        lambda n, c, h, w: (n, h, w),
        written_layer("1"),
        (6, 1, 1),
        lambda n, c, h, w: c,
    ),
    RowNorm(
        "over the channels of a sequence, gamma with a batch axis",
        "layer",
        RowAxes((1,)),
        6,
        "float[batch, 6, length]",
        (6, 5),
        lambda n, c, p: (n, p),
        written_layer("-2"),
        (1, 6, 1),
        lambda n, c, p: c,
    ),
    RowNorm(
        "over the channels of an image, no gamma, size unknown",
        "layer",
        RowAxes((1,)),
        None,
        "float[batch, c, h, w]",
        _IMAGE,
        lambda n, c, h, w: (n, h, w),
        written_layer("1", "y = Identity(n)"),
        gamma=False,
        beta=False,
    ),
    RowNorm(
        "over the channels of an image",
        "rms",
        RowAxes((1,)),
        6,
        _ANY,
        _IMAGE,
        lambda n, c, h, w: (n, h, w),
        written_rms("1"),
        (6, 1, 1),
        lambda n, c, h, w: c,
        beta=False,
    ),
]

_GROUPS_LAST = (2, 3, 2, 3)  # height, width, groups, channels of a group
WRITTEN_GROUPS = [
    RowNorm(
        "groups in an axis of their own, no gamma",
        "layer",
        RowAxes((1, 2, 4), 5),
        None,
        "float[batch, h, w, 2, 3]",
        _GROUPS_LAST,
        lambda n, h, w, g, c: (n, g),
        written_layer("1, 2, 4", "y = Identity(n)"),
        gamma=False,
        beta=False,
    ),
    RowNorm(
        "groups in an axis of their own, gamma of five axes",
        "layer",
        RowAxes((1, 2, 4), 5),
        None,
        "float[batch, h, w, 2, 3]",
        _GROUPS_LAST,
        lambda n, h, w, g, c: (n, g),
        written_layer("1, 2, 4"),
        (1, 1, 1, 2, 3),
        lambda n, h, w, g, c: 3 * g + c,
    ),
    RowNorm(
        "groups in an axis of their own, as Keras folds gamma and beta",
        "layer",
        RowAxes((1, 2, 4), 5),
        None,
        "float[batch, h, w, 2, 3]",
        _GROUPS_LAST,
        lambda n, h, w, g, c: (n, g),
        "mu = ReduceMean<axes = [1, 2, 4]>(x) c = Sub(x, mu) q = Mul(c, c) "
        "m = ReduceMean<axes = [1, 2, 4]>(q) v = Add(m, eps) s = Sqrt(v) r = Reciprocal(s) "
        "k = Mul(r, g) l = Neg(mu) j = Mul(l, k) t = Add(j, b) o = Mul(x, k) y = Add(o, t)",
        (1, 1, 1, 2, 3),
        lambda n, h, w, g, c: 3 * g + c,
    ),
    RowNorm(
        "each channel of an image whose channels are last",
        "layer",
        RowAxes((1, 2), 4),
        None,
        "float[batch, h, w, 6]",
        (5, 2, 6),
        lambda n, h, w, c: (n, c),
        written_layer("1, 2"),
        (6,),
        lambda n, h, w, c: c,
    ),
]

ROW_NORMS = [*GROUP_NORMS, *LAST_AXES, *CHANNELS_FIRST, *WRITTEN_GROUPS]
