"""Deferred divisions: norms of which products with weights are divided, instead of their row.

    (x / root) W = (x W) / root

FlashNorm (arXiv 2407.09577), section 2. A file may be written so, and `--merge division` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs

from slanc_onnx.graph import Scope, constant_made, dims, op_of
from slanc_onnx.norms.forms import Form, over, raised
from slanc_onnx.norms.norm import Deferred
from slanc_onnx.norms.region import Region
from slanc_onnx.norms.row_axes import RowAxes
from slanc_onnx.ops import tells_no_size

# Attributes of a Gemm that leave it a plain product.
_PLAIN = {"alpha": 1.0, "transA": 0}


@dataclass(frozen=True)
class DeferredDivision:
    """How a region divides products of its input, and not the input.

    Attributes:
        form: What the input over its root would be.
        first: What the first division makes.
        products: The products, in topological order, and what is made of them.
        apart: The nodes that multiply by a weight, and those that divide what they make, by id.
        width: How many elements of a row the weights multiply; None where the file does not tell.
    """

    form: Form
    first: gs.Tensor
    products: tuple[Deferred, ...]
    apart: frozenset[int]
    width: int | None = None


def deferred_division(
    scope: Scope, region: Region, forms: Mapping[int, Form]
) -> DeferredDivision | None:
    """The division of a region's products, where every exit is one; else None.

    Args:
        scope: The graph.
        region: The region.
        forms: What its tensors are, by id.
    """
    exits = [t for t in region.exits if not tells_no_size(op_of(t.inputs[0]))]
    form: Form | None = None
    found: list[Deferred] = []
    apart: set[int] = set()
    widths: set[int | None] = set()
    for tensor in exits:
        divides = tensor.inputs[0]
        one = _divided(scope, divides, forms)
        if one is None or (form is not None and replace(one[0], source=form.source) != form):
            return None
        form, product = form or one[0], one[1]
        found.append(Deferred(scope.index[id(product)], tensor.name))
        apart.update((id(product), id(divides)))
        widths.add(_width(scope, product))
    last = form is not None and form.axes is not None and form.axes.rows == RowAxes()
    if form is None or not last or not form.aligned:
        return None
    told = widths.pop() if len(widths) == 1 else None
    return DeferredDivision(form, exits[0], tuple(found), frozenset(apart), told)


def _divided(scope: Scope, node: gs.Node, forms: Mapping[int, Form]) -> tuple[Form, gs.Node] | None:
    """What the row over its root would be, and the product with a weight that a node divides."""
    op = op_of(node)
    if op not in ("Mul", "Div") or len(node.inputs) != 2:
        return None
    for product, root in (node.inputs, node.inputs[::-1]):
        below = forms.get(id(root))
        if below is None or not product.inputs or (op == "Div" and root is not node.inputs[1]):
            continue
        inverse = below if op == "Mul" else raised(below, -1.0)
        maker = product.inputs[0]
        row = _multiplied(scope, maker, forms)
        if inverse is None or inverse.what != "inverse" or row is None:
            continue
        whole = over(row, inverse)
        # A part of one is a row that is not centred over the root of one that is.
        if whole is not None and whole.what == "quotient" and whole.gamma is None:
            return whole, maker
    return None


def _multiplied(scope: Scope, node: gs.Node, forms: Mapping[int, Form]) -> Form | None:
    """The row that a node multiplies by a constant matrix; None where it does anything else."""
    if op_of(node) not in ("MatMul", "Gemm") or id(node) not in scope.index:
        return None
    if len([t for t in node.inputs if t.name]) != 2 or not constant_made(scope, node.inputs[1]):
        return None
    if any(node.attrs.get(name, plain) != plain for name, plain in _PLAIN.items()):
        return None
    form = forms.get(id(node.inputs[0]))
    return form if form is not None and form.what == "x" and form.factor == 1 else None


def _width(scope: Scope, product: gs.Node) -> int | None:
    """How many elements of a row a weight multiplies."""
    shape = dims(scope, product.inputs[1])
    if shape is None or len(shape) < 2:
        return None
    size = shape[-1 if product.attrs.get("transB") else -2]
    return size if isinstance(size, int) else None
