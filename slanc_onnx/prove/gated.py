"""Gated MLPs between a norm's output and a norm that reads nothing else, as in sandwich norms.

They are read off the nodes themselves: a product with a stored matrix keeps each row where it is,
elementwise ops combine a row with itself, and any other node ends the reading. So two products with
one tensor belong to the same rows, at whatever batch and length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.graph import Array, Scope, op_of
from slanc_onnx.norms import Norm
from slanc_onnx.ops import ELEMENTWISE
from slanc_onnx.prove.certificate import Proof
from slanc_onnx.prove.joint import MOST_NEURONS, GatedMlp, joint_bound
from slanc_onnx.prove.sets import Ellipsoids, ball, constant, total
from slanc_onnx.prove.step_bounds import output_radius, rounding_of

Ends = tuple[float, float]
Tensors = Mapping[str, gs.Tensor]
DEEPEST = 10  # nodes between the products; a tree of them can be large
# Functions whose values have two finite ends.
_LIMITED = ("Sigmoid", "HardSigmoid", "Tanh", "Erf")
# Functions f with f(t) / t between 0 and 1, and no attribute that changes that.
_SHARES = ("Relu", "Gelu", "FastGelu", "HardSwish", "Mish")


@dataclass(frozen=True, eq=False)
class _Factors:
    """An elementwise product: of the rows of a tensor times matrices, and of a number.

    Attributes:
        matrices: Of shape [channels, neurons].
        ends: The least and the largest number.
        x: The tensor; "" without matrices.
    """

    matrices: tuple[Array, ...]
    ends: Ends
    x: str = ""


def with_joint_bounds(
    proofs: Mapping[str, Proof],
    main: Scope,
    norms: Sequence[Norm],
    device: Accelerator,
) -> dict[str, Proof]:
    """The premises with a tighter bound for each norm that reads one gated MLP of a norm's output.

    Args:
        proofs: By norm name.
        main: The main graph.
        norms: Its norms.
        device: Whose arithmetic the norms are in.
    """
    sources = {norm.output: norm for norm in norms if _is_plain(norm)}
    found, tensors = dict(proofs), main.graph.tensors()
    for norm in norms:
        proof = proofs.get(norm.name)
        if proof is None or proof.bound.length is None or not _is_plain(norm):
            continue
        source = _source(main, norm, tensors, sources)
        length = None if source is None else _joint(source, tensors, main, device)
        if length is not None and length < proof.bound.length:
            bound = replace(proof.bound, length=length, loose=False)
            found[norm.name] = replace(proof, bound=bound)
    return found


def _is_plain(norm: Norm) -> bool:
    """Whether it normalises rows of the last axis of one tensor of FP32, and gives such."""
    alone = norm.residual is None and not norm.form.startswith("Skip") and not norm.silu
    single = norm.element_type == norm.output_type == TensorProto.FLOAT
    last = norm.axes.last_axis and norm.channels is None
    return alone and single and last and norm.is_row_norm and not norm.path


def _source(
    main: Scope, norm: Norm, tensors: Tensors, sources: Mapping[str, Norm]
) -> tuple[Norm, GatedMlp] | None:
    """The gated MLP that a norm reads, and the norm before it; None where it reads none."""
    mlp = gated_mlp(main, tensors.get(norm.input))
    if mlp is None or mlp[0] not in sources or mlp[1].down.shape[1] != norm.width:
        return None
    return sources[mlp[0]], mlp[1]


def _joint(
    source: tuple[Norm, GatedMlp], tensors: Tensors, main: Scope, device: Accelerator
) -> float | None:
    """The joint bound of an MLP of a norm's output; None where there is none."""
    norm, mlp = source
    within = _outputs(main, norm, tensors, device)
    if within is None or within.channels != len(mlp.gate):
        return None
    length = joint_bound(mlp, within)
    return length if math.isfinite(length) else None


def _outputs(main: Scope, norm: Norm, tensors: Tensors, device: Accelerator) -> Ellipsoids | None:
    """The set of a norm's outputs, gamma and beta included; None where one is not stored."""
    if norm.width is None:
        return None
    affine: list[Array] = []
    for name, absent in ((norm.gamma, 1.0), (norm.beta, 0.0)):
        if name is None:
            affine.append(np.full(norm.width, absent))
            continue
        values = _stored(main, tensors.get(name))
        if values is None or values.size != norm.width:
            return None
        affine.append(values.reshape(-1))
    rounding = rounding_of(device, "affine")
    grow = rounding.grow**2
    rows = ball(norm.width, output_radius(norm, norm.width, device) * grow).scaled(affine[0])
    parts = [rows, constant(affine[1] * grow)] if norm.beta is not None else [rows]
    moved = (grow - 1) * float(np.linalg.norm(affine[1])) * grow
    off = moved + 2 * grow * math.sqrt(norm.width) * rounding.eta
    whole = total(parts)
    return Ellipsoids(whole.each + off, whole.terms, whole.slack + off)


def gated_mlp(main: Scope, tensor: gs.Tensor | None) -> tuple[str, GatedMlp] | None:
    """The tensor that a gated MLP reads and the MLP that makes a tensor; None where none does."""
    node = _maker(tensor)
    if node is None or op_of(node) != "MatMul":
        return None
    down = _stored(main, node.inputs[1])
    inner = _factors(main, node.inputs[0], DEEPEST) if down is not None and down.ndim == 2 else None
    if inner is None or down is None or len(inner.matrices) != 2:
        return None
    gate, up = inner.matrices
    if gate.shape != up.shape or gate.shape[1] != len(down) or len(down) > MOST_NEURONS:
        return None
    if not all(np.isfinite(matrix).all() for matrix in (gate, up, down)):
        return None
    return inner.x, GatedMlp(gate, up, down, inner.ends)


def _factors(main: Scope, tensor: gs.Tensor, depth: int) -> _Factors | None:
    """A tensor as a product; None where it is none of a kind that is known here."""
    number = _stored(main, tensor)
    if number is not None:
        if number.size != 1 or not np.isfinite(number).all():
            return None
        value = float(number.reshape(-1)[0])
        return _Factors((), (value, value))
    node = _maker(tensor)
    if node is None or not depth:
        return None
    op = op_of(node)
    if op in _LIMITED and not node.attrs:
        return _Factors((), ELEMENTWISE[op].range())
    if op == "MatMul":
        matrix = _stored(main, node.inputs[1])
        if matrix is None or matrix.ndim != 2:
            return None
        return _Factors((matrix,), (1.0, 1.0), node.inputs[0].name)
    if op in _SHARES and len(node.inputs) == 1:
        inner = _factors(main, node.inputs[0], depth - 1)
        plain = inner is not None and len(inner.matrices) == 1 and inner.ends == (1.0, 1.0)
        return replace(inner, ends=(0.0, 1.0)) if inner is not None and plain else None
    if op in ("Mul", "Add", "Div") and len(node.inputs) == 2:
        parts = [_factors(main, part, depth - 1) for part in node.inputs]
        if parts[0] is not None and parts[1] is not None:
            return _joined(op, parts[0], parts[1])
    return None


def _joined(op: str, a: _Factors, b: _Factors) -> _Factors | None:
    """A product, or a sum or a quotient of numbers."""
    if op == "Add":
        if a.matrices or b.matrices:
            return None
        return _Factors((), (a.ends[0] + b.ends[0], a.ends[1] + b.ends[1]))
    if op == "Div":
        if b.matrices or b.ends[0] != b.ends[1] or b.ends[0] == 0:
            return None
        b = _Factors((), (1 / b.ends[0], 1 / b.ends[0]))
    if a.x and b.x and a.x != b.x:
        return None
    ends = [one * other for one in a.ends for other in b.ends]
    return _Factors((*a.matrices, *b.matrices), (min(ends), max(ends)), a.x or b.x)


def _maker(tensor: gs.Tensor | None) -> gs.Node | None:
    return tensor.inputs[0] if tensor is not None and len(tensor.inputs) == 1 else None


def _stored(main: Scope, tensor: gs.Tensor | None) -> Array | None:
    """The numbers of a constant of FP32 that no caller replaces; None for any other tensor."""
    if tensor is None or tensor.name in main.overridable:
        return None
    proto = main.initializers.get(tensor.name)
    if proto is None or proto.data_type != TensorProto.FLOAT:
        return None
    values = main.read(tensor)
    return None if values is None else np.asarray(values, dtype=np.float64)
