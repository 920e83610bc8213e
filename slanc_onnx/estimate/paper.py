"""The paper's scale: the Frobenius norm of the map from the norms that feed a norm to its input.

Equations 5, 8 and 10 of arXiv 2410.10553 are three readings of one rule: an activation F counts as
the identity (|F(z)| <= |z|), a gate as the spectral norm of its map, a softmax as the identity
(its rows are convex weights), additive constants as nothing. Terms from one source add as maps,
terms from different sources in quadrature. In a pre-LN network the residual is the input r of an
earlier norm, collinear with that norm's x:  r = (|r| / sqrt d) x,  with |r| as predicted there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from typing import assert_never

import numpy as np

from slanc_onnx.estimate.chain import Chain
from slanc_onnx.estimate.estimate import Estimate
from slanc_onnx.graph import Array, read_through
from slanc_onnx.norms import Norm
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.reasons import Decision, Reason, Unread
from slanc_onnx.trace import (
    Alternatives,
    Apply,
    Convolution,
    Embedding,
    Experts,
    Expr,
    Input,
    Join,
    Known,
    Linear,
    Mix,
    Normalised,
    Opaque,
    Pick,
    Pooled,
    Product,
    Reading,
    Select,
    Shares,
    Sum,
    Trace,
    constant_values,
    is_nonlinear,
    kind_of,
    value_range,
    walk,
)
from slanc_onnx.weights import read_once

EXACT_WIDTH = 1024  # wider sources are sampled with random signs instead of the identity
SIGNS, SEED = 96, 0
GRAM_WIDTH = 2048  # spectral norms of larger maps come from a Krylov space
VECTORS, STEPS = 8, 8  # of that space
TABLE_CHUNK = 8192
MOST_READ = 1 << 18  # parts of all maps together: a model of 60 layers takes some thousand
_SOURCES = (Normalised, Embedding, Input, Opaque)


@np.errstate(all="ignore")  # figures that are not finite get a reason
def paper_estimates(
    trace: Trace,
    norms: Sequence[Norm],
    progress: Progress = no_progress,
    executor: Executor | None = None,
) -> tuple[dict[str, Estimate], dict[str, Reason]]:
    """Estimates by norm name, and the reasons of the norms without one.

    Both figures of an estimate are the paper's s^2 = |M|_F^2.

    Args:
        trace: What lies between the norms.
        norms: In topological order.
        progress: Called with the share of the norms that are done.
        executor: Works on blocks of large matrices; None for this thread.
    """
    estimates: dict[str, Estimate] = {}
    reasons: dict[str, Reason] = {}
    residuals: dict[int, tuple[Normalised, float, float]] = {}
    parts = iter(range(MOST_READ))
    known = {
        e.norm: e
        for expr in trace.inputs.values()
        for e in walk(expr, lambda e: False)
        if isinstance(e, Normalised)
    }
    for i, norm in enumerate(norms):
        expr = trace.inputs.get(norm.name)
        if expr is None:
            reasons[norm.name] = trace.unread(norm.name)
            continue
        try:
            reading = _Isotropic(residuals, parts, executor)
            square = reading.expected_square(expr)
        except _Unreadable as error:
            reasons[norm.name] = error.reason
            continue
        except np.linalg.LinAlgError:  # of a map whose square is beyond FP64
            reasons[norm.name] = Reason(Decision.SQUARE_NOT_FINITE, (math.inf,))
            continue
        if not (math.isfinite(square) and square > 0):
            reasons[norm.name] = Reason(Decision.SQUARE_NOT_FINITE, (square,))
            continue
        spread = math.hypot(reading.error / square, reading.inherited)
        estimates[norm.name] = Estimate(square, square, square, "paper", error=spread)
        if norm.name in known:
            residuals.setdefault(expr.serial, (known[norm.name], math.sqrt(square), spread))
        progress("reading weights", (i + 1) / len(norms))
    return estimates, reasons


class _Unreadable(Exception):
    """An expression has no expected square; `reason` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def _sampling_error(images: Sequence[Array]) -> float:
    """Standard error of the sum of squares of sampled rows, which is SIGNS times their mean."""
    each = np.concatenate([np.sum(image.astype(np.float64) ** 2, axis=1) for image in images])
    return math.sqrt(len(each)) * float(np.std(each, ddof=1)) if len(each) > 1 else 0.0


class _Isotropic:
    """Reads an expression as a linear map, and applies it to rows at one of its sources.

    Attributes:
        residuals: By the serial of an earlier norm's input: that norm's x, the predicted length of
            the input, and the relative standard error of its square.
        parts: One for each part that may still be read, for all norms.
        executor: Works on blocks of large matrices; None for this thread.
        gates: By serial, the norms of the gates that were read, or why one has none.
        error: Standard error of the last `expected_square`, from sampled sources.
        inherited: Relative standard error that comes with residuals.
    """

    def __init__(
        self,
        residuals: dict[int, tuple[Normalised, float, float]],
        parts: Iterator[int],
        executor: Executor | None = None,
        gates: dict[int, float | Exception] | None = None,
    ) -> None:
        self.residuals, self.parts, self.executor = residuals, parts, executor
        self.gates: dict[int, float | Exception] = {} if gates is None else gates
        self.error, self.inherited = 0.0, 0.0
        self.source: Expr | None = None
        self.rows: Array = np.zeros((0, 0))
        self.cache: dict[Expr, Array | None] = {}

    def expected_square(self, expr: Expr) -> float:
        """E |row|^2: the sum of the squared Frobenius norms of the maps from all sources."""
        if isinstance(expr, Alternatives):  # heads: the mean over the groups
            parts = zip(expr.kinds, expr.shares, strict=True)
            return sum(share * self.expected_square(kind) for kind, share in parts)
        if isinstance(expr, Pooled):
            return expr.positions * self.expected_square(expr.x)
        total = 0.0
        self._read_gates(expr)
        for source in self._sources(expr):
            if isinstance(source, Opaque):
                here = Reason(Unread.NOTHING_SAID).at(source.op, source.tensor)
                raise _Unreadable(Reason(Unread.STOPPED, behind=here))
            images = self._images(expr, source)
            total += sum(float(np.sum(image.astype(np.float64) ** 2)) for image in images)
            if not isinstance(source, Embedding) and source.channels > EXACT_WIDTH:
                self.error = math.hypot(self.error, _sampling_error(images))
        return total

    def _read_gates(self, expr: Expr) -> None:
        """Read the gates in an expression, the inner ones first: each is read once, not once for
        every gate around it."""
        products = [e for e in self._walk(expr) if isinstance(e, Product)]
        for product in sorted(products, key=lambda e: e.serial):
            known = (constant_values(part) is not None for part in product.parts)
            if any(known) or any(value_range(part) is not None for part in product.parts):
                continue
            gate, _ = _gate_and_value(product)
            if gate.serial not in self.gates:
                try:
                    self.gates[gate.serial] = self._gate_norm(gate)
                except (_Unreadable, np.linalg.LinAlgError) as error:
                    self.gates[gate.serial] = error

    def _walk(self, expr: Expr) -> Iterator[Expr]:
        """The parts of an expression down to its sources."""
        return walk(expr, lambda e: isinstance(e, _SOURCES) or e.serial in self.residuals)

    def _sources(self, expr: Expr) -> list[Expr]:
        found: dict[int, Expr] = {}
        for e in self._walk(expr):
            if e.serial in self.residuals:
                x = self.residuals[e.serial][0]
                found[x.serial] = x
                self.inherited = math.hypot(self.inherited, self.residuals[e.serial][2])
            elif isinstance(e, _SOURCES):
                found[e.serial] = e
        return list(found.values())

    def _images(self, expr: Expr, source: Expr) -> list[Array]:
        """The images of unit rows at a source; their squares add up to the expectation."""
        images = (self._apply(expr, source, rows) for rows in _unit_rows(source))
        return [image for image in images if image is not None]

    def _apply(self, expr: Expr, source: Expr, rows: Array) -> Array | None:
        self.source, self.rows, self.cache = source, rows, {}
        return self.image(expr)

    def image(self, expr: Expr) -> Array | None:
        """The image of the current rows; None where it does not depend on their source."""
        return read_through(expr, self._image, self.cache)

    def _image(self, expr: Expr) -> Reading[Array | None]:
        """The image of an expression, with one number per row spread over its channels."""
        if next(self.parts, None) is None:
            raise _Unreadable(Reason(Decision.MAP_TOO_LONG, (MOST_READ,)))
        image = yield from self._read(expr)
        if image is None or image.shape[1] == expr.channels:
            return image
        return np.broadcast_to(image, (len(image), expr.channels))

    def _read(self, expr: Expr) -> Reading[Array | None]:
        if expr is self.source:
            return self.rows
        residual = self.residuals.get(expr.serial)
        if residual is not None:
            norm, length, _ = residual
            return self.rows * (length / math.sqrt(norm.channels)) if norm is self.source else None
        kind = kind_of(expr)
        match kind:
            case Known() | Shares() | Normalised() | Embedding() | Input() | Opaque():
                return None
            case Linear():
                x = yield kind.x
                return None if x is None else self._multiplied(x, kind)
            case Apply(function="ReduceSum"):
                raise _Unreadable(Reason(Decision.NOT_LINEAR, ("ReduceSum",)))
            case Mix() | Apply() | Pooled():
                return (yield kind.x)
            case Select():
                a = yield kind.a
                return a if a is not None else (yield kind.b)
            case Sum():
                a, b = (yield kind.a), (yield kind.b)
                return b if a is None else a if b is None else a + b
            case Product():
                return (yield from self._product(kind))
            case Pick():
                x = yield kind.x
                return None if x is None else x[:, kind.index]
            case Join():
                return (yield from self._join(kind))
            case Convolution():
                x = yield kind.x
                return None if x is None else self._convolution(kind, x)
            case Experts():
                x = yield kind.x
                stack = kind.weight.read().astype(np.float64)
                return None if x is None else np.sqrt(np.mean((x @ stack) ** 2, axis=0))
            case Alternatives():
                return (yield kind.kinds[int(np.argmax(kind.shares))])
            case _:
                assert_never(kind)

    def _multiplied(self, x: Array, expr: Linear) -> Array:
        """Rows times a weight, in FP64 where the source is exact, in FP32 where it is sampled."""
        rows = x.astype(self.rows.dtype, copy=False)
        product, _ = read_once(expr.weight.blocks(), rows, None, self.executor)
        assert product is not None
        return product

    def _product(self, expr: Product) -> Reading[Array | None]:
        for constant, other in ((expr.a, expr.b), (expr.b, expr.a)):
            values = constant_values(constant)
            if values is not None:  # gamma, a scalar
                image = yield other
                return None if image is None else image * values
        for factor, other in ((expr.a, expr.b), (expr.b, expr.a)):
            bounds = value_range(factor)
            if bounds is not None:  # an activation written out: z times a factor in [lo, hi]
                image = yield other
                return None if image is None else image * max(abs(bounds[0]), abs(bounds[1]))
        gate, value = _gate_and_value(expr)
        image = yield value
        if image is None:
            return None
        norm = self.gates[gate.serial]
        if isinstance(norm, Exception):
            raise norm
        return image * norm

    def _gate_norm(self, gate: Expr) -> float:
        """The spectral norm of a gate's map (equation 8); several sources add in quadrature."""
        inner = _Isotropic(self.residuals, self.parts, self.executor, self.gates)
        square = 0.0
        for source in inner._sources(gate):
            if isinstance(source, (Opaque, Embedding)):
                square += sum(float(np.sum(i**2)) for i in inner._images(gate, source))
                continue
            if source.channels > EXACT_WIDTH:
                square += self._spectral_norm_of_chain(gate, source) ** 2
                continue
            identity = np.eye(source.channels)
            image = inner._apply(gate, source, identity)
            square += 0.0 if image is None else spectral_norm(image) ** 2
        return math.sqrt(square)

    def _spectral_norm_of_chain(self, gate: Expr, source: Expr) -> float:
        """The spectral norm of the map from a wide source to a gate.

        It is read off the map's one matrix where the map is a chain, else off the identity's image.
        """
        chain = Chain.of(gate, source)
        if chain is not None:
            return spectral_norm(chain.matrix())
        inner = _Isotropic(self.residuals, self.parts, self.executor, self.gates)
        image = inner._apply(gate, source, np.eye(source.channels, dtype=np.float32))
        return 0.0 if image is None else spectral_norm(image)

    def _join(self, expr: Join) -> Reading[Array | None]:
        pieces = []
        for piece in expr.pieces:
            pieces.append((yield piece))
        if all(piece is None for piece in pieces):
            return None
        filled = [
            np.zeros((len(self.rows), e.channels)) if piece is None else piece
            for e, piece in zip(expr.pieces, pieces, strict=True)
        ]
        return np.concatenate(filled, axis=1)

    def _convolution(self, expr: Convolution, x: Array) -> Array:
        """The root of the summed squares of all taps, as taps read independent positions."""
        weight = np.asarray(expr.weight.read(), dtype=np.float64)
        grouped = x.reshape(len(x), expr.groups, -1)
        square = np.zeros((len(x), expr.channels))
        for tap in range(weight.shape[2]):
            kernel = weight[:, :, tap].reshape(expr.groups, -1, weight.shape[1])
            square += np.einsum("ngi,goi->ngo", grouped, kernel).reshape(len(x), -1) ** 2
        return np.sqrt(square)


def _gate_and_value(product: Product) -> tuple[Expr, Expr]:
    """The factor that gates, and the one that is gated."""
    return (product.a, product.b) if is_nonlinear(product.a) else (product.b, product.a)


def _unit_rows(source: Expr) -> list[Array]:
    """Rows at a source whose images' squares add up to E |image|^2.

    They are the identity, random signs for a wide source, or a whole table.
    """
    if isinstance(source, Embedding):
        count = source.table.shape[0]
        starts = range(0, count, TABLE_CHUNK)
        return [
            source.table.rows(np.arange(s, min(s + TABLE_CHUNK, count))).astype(np.float64)
            / math.sqrt(count)
            for s in starts
        ]
    width = source.channels
    if width <= EXACT_WIDTH:
        return [np.eye(width)]
    signs = np.random.default_rng(SEED).choice((-1.0, 1.0), size=(SIGNS, width))
    return [(signs / math.sqrt(SIGNS)).astype(np.float32)]


def spectral_norm(matrix: Array) -> float:
    """The largest singular value, from the smaller Gram matrix in FP64.

    For a large matrix it is approximated from below by a projection onto the block Krylov space of
    `VECTORS` random vectors and `STEPS` steps, in the precision of the matrix (Musco
    and Musco, "Randomized block Krylov methods for stronger and faster approximate singular value
    decomposition", 2015, algorithm 2).
    """
    if not np.isfinite(matrix).all():
        return math.inf
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    if matrix.shape[0] <= GRAM_WIDTH:
        matrix = matrix.astype(np.float64)
        return math.sqrt(max(float(np.linalg.eigvalsh(matrix @ matrix.T)[-1]), 0.0))
    rng = np.random.default_rng(SEED)
    start = rng.standard_normal((matrix.shape[0], min(VECTORS, matrix.shape[0])))
    vectors, _ = np.linalg.qr(start.astype(matrix.dtype))
    space = [vectors]
    for _ in range(STEPS):
        vectors, _ = np.linalg.qr(matrix @ (vectors.T @ matrix).T)
        space.append(vectors)
    basis, _ = np.linalg.qr(np.concatenate(space, axis=1).astype(np.float64))
    projected = basis.T.astype(matrix.dtype) @ matrix
    return float(np.linalg.norm(projected.astype(np.float64), 2))
