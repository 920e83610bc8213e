"""The division: deferred to what products make of a norm's row, as they are linear in it.

    (x / root) W = (x W) / root

FlashNorm (arXiv 2407.09577), section 2: the root and the product need not wait for each other. The
product of a row that is not divided is larger: it has to fit. A norm of rows commutes with what
moves rows whole: where that stands between it and all products, the norm is put behind it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from slanc_onnx.accelerator import OF_16_BITS, Accelerator
from slanc_onnx.apply.merge.changes import (
    Asked,
    Changes,
    Decomposition,
    Division,
    Moved,
    Part,
    ProductSize,
)
from slanc_onnx.apply.merge.held import Held, changed_parts
from slanc_onnx.apply.merge.readers import Reader, graph_outputs, read_by, readers_of
from slanc_onnx.graph import NodeAt, Tensor, Use
from slanc_onnx.norms import Deferred, Norm
from slanc_onnx.ops import FUSED
from slanc_onnx.prove import Affine, certify, holds_products, keeps_root
from slanc_onnx.reasons import Reason, Unmerged
from slanc_onnx.scale import ScaledNorm

_PRODUCTS = ("MatMul", "Gemm")
# Fused ops that are written out, with the sum of a residual if they add one.
_WRITTEN_OUT = (
    *("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"),
    *("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"),
)
# What moves rows whole; it changes none of their elements.
_MOVES = (
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity"),
    *("Gather", "Slice"),
)
# How a norm is spelled that can be written anew somewhere else.
_SPELLED = [
    Counter(["ReduceMean", "Add", "Sqrt", *square, *division])
    for square in (["Mul"], ["Pow"])
    for division in (["Div"], ["Reciprocal", "Mul"])
]
# What a decomposed norm may not do with its root: it has to broadcast to any product.
_SPREADS = ("Expand", "Reshape", "Tile", "Transpose", "ConstantOfShape")


def defer_divisions(
    held: Held,
    norms: Sequence[Norm],
    decided: Mapping[str, ScaledNorm],
    asked: Asked,
    changes: Changes,
    mean_free: Collection[str],
) -> tuple[dict[str, Part], dict[str, ProductSize]]:
    """Defer the divisions of norms to the products that read them, where all of it can be.

    Args:
        held: The constants of the folded model.
        norms: Its norms.
        decided: How large their rows are, by name; none that is not known.
        asked: What the user left out, and the format that products have to fit.
        changes: What is merged so far; takes the changes.
        mean_free: The names of the norms that lose their mean.

    Returns:
        What became of each division, and how large its product is.
    """
    found, sizes = dict[str, Part](), dict[str, ProductSize]()
    for norm in norms:
        if norm.deferred:
            found[norm.name] = Part("before")
            continue
        why = Reason(Unmerged.LEFT_OUT) if norm.name in asked.excluded else None
        why = why or _obstacle(held, norm, changes, norm.name in mean_free)
        products = _products(held, norm) if why is None else why
        if isinstance(products, Reason):
            found[norm.name] = Part("left", products)
            continue
        readers, moved = products
        row = decided.get(norm.name)
        if _rewritten(norm, moved):
            why = _unwritable(held, norm, moved, changes, asked.device)
            row = None if row is None else replace(row, norm=_with_wide_root(row.norm))
        size = None if why is not None else _size(held, readers, row, asked.device, changes)
        if size is None:
            found[norm.name] = Part("left", why or Reason(Unmerged.SIZE_UNKNOWN))
            continue
        sizes[norm.name] = size
        why = size.reason or _defer(held, norm, readers, moved, changes)
        found[norm.name] = Part("merged") if why is None else Part("left", why)
    return found, sizes


def _obstacle(held: Held, norm: Norm, changes: Changes, mean_free: bool) -> Reason | None:
    """Why a norm has to divide its row itself."""
    if held.flow.tensor(norm.path, norm.input) in held.flow.constants:
        return Reason(Unmerged.NO_DATA)
    if norm.skip_reason is not None:
        return Reason(Unmerged.NOT_READ, behind=norm.skip_reason)
    if norm.kind == "layer" and not mean_free:
        return Reason(Unmerged.KEEPS_MEAN)
    if norm.kind not in ("rms", "layer") or not norm.axes.last_axis or norm.by_ops or norm.silu:
        return Reason(Unmerged.ROWS)
    if norm.element_type != norm.output_type:  # the row cannot stand for the output
        return Reason(Unmerged.TWO_TYPES)
    if norm.form == "decomposed":
        if Tensor(norm.path, norm.normalised) in graph_outputs(held.flow):
            return Reason(Unmerged.OUTPUT)
        end = changes.skipped.get(Tensor(norm.path, norm.output), norm.output)
        return None if end == norm.normalised else Reason(Unmerged.GAMMA_STAYS)
    if norm.form not in _WRITTEN_OUT:
        return Reason(Unmerged.GAMMA_INSIDE)
    form, at = FUSED[norm.form], NodeAt(norm.path, norm.nodes[-1])
    gamma = held.vector(held.flow.tensor(norm.path, norm.gamma)) if norm.gamma else None
    plain = norm.gamma is None or (gamma is not None and bool(np.all(gamma == 1)))
    if not plain and Use(*at, form.gamma) not in changes.ones:
        return Reason(Unmerged.GAMMA_STAYS)
    if norm.beta is not None and Use(*at, form.beta) not in changes.dropped:
        return Reason(Unmerged.GAMMA_STAYS)
    outputs = enumerate(held.flow.node(*at).output)
    more = (Tensor(norm.path, name) for place, name in outputs if place not in (0, norm.residual))
    read = any(held.flow.uses.get(tensor) or tensor in held.flow.pinned for tensor in more)
    return Reason(Unmerged.OUTPUT) if read else None


def _products(held: Held, norm: Norm) -> tuple[list[Reader], Moved | None] | Reason:
    """The products that read a norm's row, and what moves it before; why not all readers are."""
    width, ends = norm.width, set[str]()
    if width is None:
        return Reason(Unmerged.ROWS)
    readers, why = readers_of(held, Tensor(norm.path, norm.output), -1, width)
    if why is not None:
        return why
    for reader in readers:
        plain = reader.op in _PRODUCTS and reader.factor == 1 and reader.bias_factor == 1
        matrix = len(held.flow.data[reader.weight].dims) == 2
        if not plain or not matrix or reader.at.path != norm.path:
            return read_by(held.flow, Use(*reader.at, 0), Unmerged.OTHER_PRODUCT)
        ends.add(held.flow.node(*reader.at).input[0])
    if len(ends) > 1:
        return Reason(Unmerged.MOVED_APART)
    (end,) = ends
    moved = None if end == norm.output else _moved(held, norm, end)
    if isinstance(moved, Reason):
        return moved
    for reader in readers:
        made = Tensor(norm.path, held.flow.node(*reader.at).output[0])
        if held.flow.element_type(made) != norm.output_type:
            return read_by(held.flow, Use(*reader.at, 0), Unmerged.OTHER_PRODUCT)
    return readers, moved


def _moved(held: Held, norm: Norm, end: str) -> Moved | Reason:
    """What moves a norm's rows to a tensor; the node that does anything else with them."""
    flow, name, last = held.flow, end, None
    while name != norm.output:
        at = NodeAt(*flow.makers[Tensor(norm.path, name)][:2])
        if flow.op(*at) not in _MOVES:
            return read_by(flow, Use(*at, 0))
        last, name = last or at, flow.node(*at).input[0]
    assert last is not None
    return Moved(end, last)


def _rewritten(norm: Norm, moved: Moved | None) -> bool:
    """Whether a norm is written out anew where its division is deferred."""
    return norm.form != "decomposed" or moved is not None


def _unwritable(
    held: Held, norm: Norm, moved: Moved | None, changes: Changes, device: Accelerator
) -> Reason | None:
    """Why a norm cannot be written out anew."""
    if norm.form == "decomposed" and moved is not None:
        left = (i for i in norm.nodes if NodeAt(norm.path, i) not in changes.removed)
        spelled = Counter(held.flow.op(norm.path, index) for index in left) in _SPELLED
        plain = norm.epsilon_power == 2 and norm.overridable_epsilon is None and not norm.unbiased
        if not spelled or not plain:
            return read_by(held.flow, Use(*moved.at, 0), Unmerged.OTHER_PRODUCT)
    narrow = OF_16_BITS.get(norm.element_type)
    if narrow is not None and len(norm.addends) > 2:
        return Reason(Unmerged.SUM_OF_THREE)
    kept = narrow is None or keeps_root(norm, 1.0, narrow, device)
    return None if kept else Reason(Unmerged.ROOT_FADES)


def _with_wide_root(norm: Norm) -> Norm:
    """A norm as it is written out, with its root in FP32 at least."""
    narrow = norm.element_type in OF_16_BITS
    return replace(norm, element_type=TensorProto.FLOAT) if narrow else norm


def _size(
    held: Held,
    readers: Sequence[Reader],
    decided: ScaledNorm | None,
    device: Accelerator,
    changes: Changes,
) -> ProductSize | None:
    """How large the products of a row get that is not divided by its root; None if unknown.

    An element is at most the length of the row times that of a column (Cauchy and Schwarz). What
    else a certificate asks of products and of what they are divided to, its own check tells.
    """
    if decided is None:
        return None
    scale = decided.divisor
    column = max(_longest_column(held, reader, changes) for reader in readers)
    estimate, certificate = decided.estimate, decided.certificate
    predicted = None if estimate is None else math.sqrt(estimate.upper) / scale * column
    certified = refused = None
    if certificate is not None and certificate.certified and certificate.bound.length is not None:
        certified = certificate.bound.length / scale * column
        norm = replace(decided.norm, kind="rms", one_pass=False, deferred=(Deferred(0, ""),))
        found = certify(norm, certificate.bound, scale, device, Affine(product=column))
        refused = found.reason
    if predicted is None and certified is None:
        return None
    form = holds_products(decided.norm, device)
    return ProductSize(predicted, certified, form.largest, str(form), refused)


def _longest_column(held: Held, reader: Reader, changes: Changes) -> float:
    """The greatest L2 norm of a column of a weight, with what is merged into it."""
    steps = changes.steps.get(reader.weight, ())
    squares: list[np.ndarray] = []
    for part in changed_parts(held.read(reader.weight), steps):
        squares.append(np.einsum("ij,ij->" + ("j" if reader.axis == 0 else "i"), part, part))
    whole = np.sum(squares, axis=0) if reader.axis == 0 else np.concatenate(squares)
    return math.sqrt(float(whole.max(initial=0.0)))


def _defer(
    held: Held, norm: Norm, readers: Sequence[Reader], moved: Moved | None, changes: Changes
) -> Reason | None:
    """Note the changes; why they cannot be made."""
    at, op = NodeAt(norm.path, norm.nodes[-1]), "Div"
    root: str | None = None
    if norm.form == "decomposed":
        found = _dividing(held, norm, changes)
        if found is None:
            return Reason(Unmerged.ROOT_SPREADS)
        at, row, root, op = found
        changes.skipped[Tensor(norm.path, norm.normalised)] = row
        changes.removed.add(at)
    if _rewritten(norm, moved):
        op, root = "Div", None
        changes.ops.pop(at, None)
        changes.betas.pop(at, None)
        given = norm.name, norm.epsilon or 0.0, norm.element_type
        changes.decomposed[at] = Decomposition(*given, None, None, True, moved)
    changes.names.pop(at, None)
    products = sorted({reader.at for reader in readers})
    for one in products:
        name = norm.name if one == products[0] else None
        changes.divided[one] = Division(op, root, at, name, one == products[-1])
    return None


def _dividing(held: Held, norm: Norm, changes: Changes) -> tuple[NodeAt, str, str, str] | None:
    """The node that divides the row, the row, its root, and the op; None for no known way."""
    flow, path = held.flow, norm.path
    if any(flow.op(path, index) in _SPREADS for index in norm.nodes):
        return None
    made = flow.makers.get(Tensor(path, norm.normalised))
    if made is None:
        return None
    at = NodeAt(*made[:2])
    node, op = flow.node(*at), flow.op(*at)
    if op not in ("Mul", "Div") or len(node.input) != 2:
        return None
    rows = {place.position for place in norm.places if place.node == at.node}
    rows |= {i for i, name in enumerate(node.input) if Tensor(path, name) in changes.skipped}
    if len(rows) != 1 or (op == "Div" and rows != {0}):
        return None
    (row,) = rows
    return at, node.input[row], node.input[1 - row], op
