"""The weights behind constant tensors: which can be divided in place, and at what loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from slanc_onnx.accelerator import Format
from slanc_onnx.apply.fold.binades import Binades, Faint, binades_of, fades_somewhere
from slanc_onnx.graph import (
    FLOATS,
    Array,
    Flow,
    Reading,
    Tensor,
    Use,
    read_tensor,
    read_through,
)
from slanc_onnx.ops import BETWEEN

# Ops that a weight may pass, and the position of the input that it comes in by: if that is divided,
# so is the output. For a quantised weight it is the scale, not the integers.
CHAIN: dict[str, int] = {
    **{op: 0 for op, record in BETWEEN.items() if record.passes},
    "Neg": 0,
    "DequantizeLinear": 1,
}
CHUNK = 1 << 22  # elements of a weight that are checked at a time
HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Loss:
    """What a division takes from a weight.

    Attributes:
        elements: The number of finite elements that it does not divide exactly.
        relative: Frobenius norm of the error, over that of the weight; inf where one overflows.
    """

    elements: int = 0
    relative: float = 0.0


@dataclass(frozen=True, eq=False)
class Histogram:
    """The numbers of a 16-bit weight and how often each is there: all that its losses depend on.

    Attributes:
        values: The finite numbers that are there, each once, in the weight's own type.
        counts: How often.
    """

    values: Array
    counts: NDArray[np.uint64]

    def lost(self, exponent: int) -> Loss:
        """What dividing the weight by 2^exponent loses."""
        exact = self.values.astype(np.float64)
        back = np.ldexp(divided(self.values, exponent).astype(np.float64), exponent)
        wrong = back != exact
        count = int(self.counts[wrong].sum())
        if not count:
            return Loss()
        with np.errstate(over="ignore"):
            error = float(np.sum(self.counts[wrong] * (back[wrong] - exact[wrong]) ** 2))
            total = float(np.sum(self.counts * exact**2))
        return Loss(count, math.sqrt(error / total))


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a model; each is read once, one of 32 or 64 bits again where it may lose bits.

    Attributes:
        flow: The model's tensors.
        folder: Where the external data lies.
        accepted: The relative loss up to which a 16-bit weight is divided all the same.
        written: The format in which weights of 32 and 64 bits are written; None for their own.
        kept: The weights that are not divided where they fade in that format.
        losses: Known results of `loss`, by weight and exponent.
        zeros: Known results of `is_zero`.
        ranges: Known results of `range_of`.
        histograms: Known results of `histogram_of`, for weights of 16 bits.
        binades: Known results of `binades_of`, for weights that are written in another format.
        faints: Known results of `faint`, by weight and exponent.
        roots: Known results of `root`.
        readers: Known results of `uses`.
    """

    flow: Flow
    folder: Path | None
    accepted: float = 0.0
    written: Format | None = None
    kept: set[Tensor] = field(default_factory=set)
    losses: dict[tuple[Tensor, int], Loss] = field(default_factory=dict)
    zeros: dict[Tensor, bool] = field(default_factory=dict)
    ranges: dict[Tensor, tuple[float, float]] = field(default_factory=dict)
    histograms: dict[Tensor, Histogram] = field(default_factory=dict)
    binades: dict[Tensor, Binades] = field(default_factory=dict)
    faints: dict[tuple[Tensor, int], Faint] = field(default_factory=dict)
    roots: dict[Tensor, Tensor | None] = field(default_factory=dict)
    readers: dict[Tensor, tuple[Use | None, ...]] = field(default_factory=dict)

    def root(self, tensor: Tensor) -> Tensor | None:
        """The initializer or Constant to divide for a constant tensor; None where none can be."""
        if tensor not in self.roots:
            self.roots[tensor] = self._root(tensor)
        return self.roots[tensor]

    def _root(self, tensor: Tensor) -> Tensor | None:
        flow = self.flow
        while tensor not in flow.data:
            if tensor not in flow.constants or tensor not in flow.makers:
                return None
            if flow.element_type(tensor) not in FLOATS:  # FP8 may saturate
                return None
            path, index, _ = flow.makers[tensor]
            op = flow.op(path, index)
            source = flow.read(Use(path, index, CHAIN[op])) if op in CHAIN else None
            if source is None:
                return None
            tensor = source
        fits = flow.data[tensor].data_type in FLOATS and tensor not in flow.overridable
        return tensor if fits else None

    def uses(self, root: Tensor) -> tuple[Use | None, ...]:
        """Every read of a weight behind the ops that it passes; None for a read by any other op."""
        return read_through(root, self._uses, self.readers)

    def _uses(self, tensor: Tensor) -> Reading[Tensor, tuple[Use | None, ...]]:
        flow = self.flow
        found: list[Use | None] = []
        if any(
            tensor == flow.tensor(path, o.name)
            for path, scope in flow.scopes.items()
            for o in scope.proto.output
        ):
            found.append(None)
        for use in flow.uses.get(tensor, ()):
            node = flow.node(use.path, use.node)
            out = Tensor(use.path, node.output[0]) if node.output else None
            if out in flow.constants and out is not None:
                linked = CHAIN.get(flow.op(use.path, use.node)) == use.position
                linked = linked and flow.element_type(out) in FLOATS
                found += (yield out) if linked else [None]
            else:
                found.append(use)
        return tuple(found)

    def is_vector(self, tensor: Tensor) -> bool:
        """Whether a constant tensor has at most one dimension other than 1, as the file tells."""
        flow = self.flow
        shape: tuple[int, ...] | None = None
        if tensor in flow.data:
            shape = tuple(flow.data[tensor].dims)
        elif tensor in flow.makers:
            known = flow.scopes[tensor.path].tensors[tensor.name].shape
            if known is not None and all(isinstance(d, int) and d >= 0 for d in known):
                shape = tuple(known)
            elif (root := self.root(tensor)) is not None:
                shape = tuple(flow.data[root].dims)
        return shape is not None and math.prod(shape) == max(shape, default=1)

    def bytes(self, root: Tensor) -> int:
        """Size of a weight in bytes."""
        return int(self.elements(root) * self._dtype(root).itemsize)

    def elements(self, root: Tensor) -> int:
        """The number of elements of a weight."""
        return math.prod(self.flow.data[root].dims)

    def _dtype(self, root: Tensor) -> np.dtype[Any]:
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.flow.data[root].data_type))

    def read(self, root: Tensor) -> Array:
        """The values of a weight."""
        return read_tensor(self.flow.data[root], self.folder)

    def takes(self, root: Tensor, exponent: int) -> bool:
        """Whether a weight may be divided by 2^exponent, for what that loses."""
        loss = self.loss(root, exponent)
        if loss.elements:
            return self.is_half(root) and loss.relative <= self.accepted
        return root not in self.kept or not self.fades(root, exponent)

    def fades(self, root: Tensor, exponent: int) -> bool:
        """Whether dividing a weight by 2^exponent adds more to the error of writing it than one
        rounding of all its elements might; of any element of a vector, which scales channels."""
        form = self.narrowed(root)
        if form is None or not exponent:
            return False
        if self.is_vector(root):
            return fades_somewhere(self.read(root), exponent, form)
        return self.binades_of(root).added(exponent, form) > form.unit_roundoff

    def narrowed(self, root: Tensor) -> Format | None:
        """The format that a weight is written in where that holds fewer numbers than its own."""
        return None if self.is_half(root) else self.written

    def binades_of(self, root: Tensor) -> Binades:
        """How many elements of a weight lie in each binade."""
        if root not in self.binades:
            self.binades[root] = binades_of(self.read(root))
        return self.binades[root]

    def faint(self, root: Tensor, exponent: int) -> Faint:
        """The elements of a weight, divided by 2^exponent, that the written format does not hold
        in full."""
        form, key = self.narrowed(root), (root, exponent)
        if form is None:
            return Faint()
        if key not in self.faints:
            self.faints[key] = self.binades_of(root).faint(exponent, form)
        return self.faints[key]

    def overflows(self, root: Tensor, exponent: int) -> bool:
        """Whether an element of a weight, divided by 2^exponent, may leave the written format."""
        form = self.narrowed(root)
        return form is not None and self.binades_of(root).overflows(exponent, form)

    def is_half(self, root: Tensor) -> bool:
        """Whether a weight is stored in 16 bits."""
        return self.flow.data[root].data_type in HALF

    def loss(self, root: Tensor, exponent: int) -> Loss:
        """What dividing a weight by 2^exponent loses."""
        key = (root, exponent)
        if key not in self.losses:
            if self.is_half(root):
                self.losses[key] = self._histogram(root).lost(exponent)
            else:
                self.losses[key] = self._loss(root, exponent)
        return self.losses[key]

    def _loss(self, root: Tensor, exponent: int) -> Loss:
        is_float32 = self.flow.data[root].data_type == TensorProto.FLOAT
        if self.written is not None and is_float32:  # which takes one look at the weight, not two
            if self.binades_of(root).exact_in_float32(exponent):
                return Loss()
            return lost(self.read(root), exponent)
        if root not in self.ranges:
            self.ranges[root] = range_of(self.read(root))
        least, most = self.ranges[root]
        limits = ml_dtypes.finfo(self._dtype(root))  # type: ignore[no-untyped-call]
        normal = least >= math.ldexp(float(limits.smallest_normal), exponent)
        exact = normal and most <= math.ldexp(float(limits.max), min(exponent, 0))
        return Loss() if exact else lost(self.read(root), exponent)

    def _histogram(self, root: Tensor) -> Histogram:
        if root not in self.histograms:
            self.histograms[root] = histogram_of(self.read(root))
        return self.histograms[root]

    def is_zero(self, root: Tensor) -> bool:
        """Whether a weight is a vector of zeros, infinities and nan, which no division changes."""
        if root not in self.zeros:
            self.zeros[root] = False
            if self.is_vector(root):
                values = np.asarray(self.read(root)).astype(np.float64)
                self.zeros[root] = bool(np.all((values == 0) | ~np.isfinite(values)))
        return self.zeros[root]


def divided(values: Array, exponent: int) -> Array:
    """Values / 2^exponent in their own element type, rounded where they are not exact."""
    if values.dtype in (np.float32, np.float64):
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(np.ldexp(values, -exponent))
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(np.ldexp(values.astype(np.float32), -exponent).astype(values.dtype))


def histogram_of(values: Array) -> Histogram:
    """The finite numbers of a weight of 16 bits, and how often each is there."""
    flat = values.reshape(-1).view(np.uint16)
    counts = np.zeros(1 << 16, np.uint64)
    for start in range(0, flat.size, CHUNK):
        counts += np.bincount(flat[start : start + CHUNK], minlength=1 << 16).astype(np.uint64)
    numbers = np.arange(1 << 16, dtype=np.uint16).view(values.dtype)
    there = np.flatnonzero((counts > 0) & np.isfinite(numbers.astype(np.float32)))
    return Histogram(numbers[there], counts[there])


def range_of(values: Array) -> tuple[float, float]:
    """The smallest and the largest absolute value that is finite and not 0; (inf, 0) for none."""
    least, most = math.inf, 0.0
    flat = values.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        part = np.abs(flat[start : start + CHUNK])
        if part.dtype.itemsize < 4:
            part = part.astype(np.float32)
        part = part[(part > 0) & np.isfinite(part)]
        if part.size:
            least, most = min(least, float(part.min())), max(most, float(part.max()))
    return least, most


def lost(values: Array, exponent: int) -> Loss:
    """What dividing the finite values by 2^exponent loses, in their own element type."""
    count, flat = 0, values.reshape(-1)
    error = total = 0.0
    for start in range(0, flat.size, CHUNK):
        part = flat[start : start + CHUNK]
        exact = part.astype(np.float64)
        finite = np.isfinite(exact)
        exact = exact[finite]
        back = np.ldexp(divided(part[finite], exponent).astype(np.float64), exponent)
        count += int(np.count_nonzero(back != exact))
        with np.errstate(over="ignore"):
            error += float(np.sum((back - exact) ** 2))
            total += float(np.sum(exact**2))
    return Loss(count, math.sqrt(error / total) if count else 0.0)
