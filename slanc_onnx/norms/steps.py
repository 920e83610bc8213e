"""Whether a region's ops are the steps of a norm one by one, as `accelerator.Step` has them.

What comes to the same may overflow on the way where these do not: gamma inside the reciprocal, the
reciprocal of the mean square before its root, squares that are divided before they are added. So
the ops that are steps are listed, and any other is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_graphsurgeon as gs

from slanc_onnx.graph import op_of
from slanc_onnx.norms.averages import PRODUCTS
from slanc_onnx.norms.forms import Form, What
from slanc_onnx.ops import MOVES

_ADDS_UP = ("ReduceMean", "ReduceSum", "GlobalAveragePool", "AveragePool", *PRODUCTS)
_COUNTS = ("Div", "Mul")  # a sum by the number of its addends
# By what is read, in any order, and what comes of it: the ops that do that in one step.
_STEPS: Mapping[tuple[tuple[What, ...], What], tuple[str, ...]] = {
    (("x",), "mean"): _ADDS_UP,
    (("mean",), "mean"): _COUNTS,
    (("mean", "x"), "x"): ("Sub", "Add"),
    (("x",), "square"): ("Mul", "Pow"),
    (("mean",), "square"): ("Mul", "Pow"),
    (("x",), "total"): ("ReduceSumSquare", *PRODUCTS),
    (("square",), "total"): _ADDS_UP,
    (("square", "total"), "total"): ("Sub", "Add"),
    (("total",), "total"): (*_COUNTS, "Add", "Relu", "Abs"),
    (("total",), "root"): ("Sqrt", "Pow"),
    (("total",), "inverse"): ("Pow",),
    (("root",), "root"): ("Add",),
    (("root",), "inverse"): ("Reciprocal", "Div", "Pow"),
    (("inverse", "x"), "quotient"): ("Mul",),
    (("root", "x"), "quotient"): ("Div",),
}


def are_steps(nodes: Sequence[gs.Node], forms: Mapping[int, Form]) -> bool:
    """Whether every node is one step of a norm, or moves what one gives.

    Args:
        nodes: Those of a norm.
        forms: What their tensors are, by id.
    """
    return all(_is_step(node, forms) for node in nodes)


def _is_step(node: gs.Node, forms: Mapping[int, Form]) -> bool:
    made = forms.get(id(node.outputs[0]))
    read = [form for t in node.inputs if (form := forms.get(id(t))) is not None]
    if made is None or not read or made.gamma is not None:
        return False
    op, first = op_of(node), read[0]
    if op in MOVES or op == "Neg":
        return made.what == first.what
    whats: tuple[What, ...] = tuple(sorted({form.what for form in read}))
    return op in _STEPS.get((whats, made.what), ()) and _counts_once(op, made, first)


def _counts_once(op: str, made: Form, read: Form) -> bool:
    """Whether a sum is divided by its count once, after all adds, and nothing else by a number."""
    summed = op in _ADDS_UP or op == "ReduceSumSquare"
    if op in _COUNTS and made.what == read.what:
        return not read.averaged and read.factor == 1
    if summed:
        return read.axes is None and made.factor == 1
    if made.what in ("root", "inverse") and read.what == "total":
        return read.averaged or read.factor != 1
    return made.factor == 1 or made.what in ("mean", "square", "total")
