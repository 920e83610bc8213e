"""Products of quantised operands: what is read is what the integers stand for.

The truth is NumPy's dequantisation in float64, and a run where ONNX Runtime has a kernel.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx.trace.expression import Known, Linear, Normalised, walk
from tests.models.small_graphs import (
    GAMMA,
    D,
    Matrix,
    Weights,
    between,
    exact,
    frobenius,
    normal,
    paper,
    read,
)
from tests.oracles.shown_rows import estimated, extremes, shown, sums, within_a_factor, x_rows
from tests.spellings.attention import shape
from tests.versions import needs_onnx_runtime

N = 12
X_STEP, Y_STEP = 0.06, 0.5  # of 8 bits that hold all elements of x, and of the products
X: Weights = {
    "x_step": np.array(X_STEP, np.float32),
    "x_zero": np.array(128, np.uint8),
    "y_step": np.array(Y_STEP, np.float32),
    "y_zero": np.array(128, np.uint8),
}
BIAS = normal(9, N, spread=3.0)


@dataclass(frozen=True)
class Quantised:
    """A float array as integers, each standing for (integer - zero) * step."""

    integers: NDArray[np.generic]
    step: NDArray[np.float32]
    zero: NDArray[np.generic]

    @property
    def real(self) -> Matrix:
        return (exact(self.integers) - exact(self.zero)) * exact(self.step)

    def as_weights(self, name: str = "w") -> Weights:
        """The three initializers, in as many axes as the ops want: none, or one."""
        step, zero = (
            a.reshape(-1) if a.size > 1 else a.reshape(()) for a in (self.step, self.zero)
        )
        return {name: self.integers, f"{name}_step": step, f"{name}_zero": zero}


def quantised(values: NDArray[np.float32], dtype: type, per: int | None = None) -> Quantised:
    """Rounded to 8 bits, all with one step and zero point, or those of axis `per` with their own.

    The steps differ by up to a factor of 4, so that an axis cannot be mistaken for another.
    """
    over = tuple(a for a in range(values.ndim) if a != per)
    spread = (
        np.abs(values).max(axis=over, keepdims=True) if per is not None else np.abs(values).max()
    )
    size = values.shape[per] if per is not None else 1
    uneven = np.linspace(1, 4, size).reshape(np.shape(spread)) if per is not None else 1
    step = np.asarray(spread * uneven / 120, np.float32)
    middle = 128 if dtype is np.uint8 else 0
    zero: NDArray[np.generic] = (middle + np.arange(size) % 7).astype(dtype).reshape(step.shape)
    return Quantised((np.rint(values / step) + zero).astype(dtype), step, zero)


@dataclass(frozen=True)
class Product:
    """Nodes from `x` to `total`, and what `total` is in real numbers.

    Attributes:
        nodes: The nodes.
        weights: Their initializers.
        matrix: What the rows of x are multiplied with.
        bias: What is added.
        runs: Whether ONNX Runtime's CPU provider takes it.
        rounds: Whether the products are rounded to steps of `Y_STEP`.
    """

    nodes: str
    weights: Weights
    matrix: Matrix
    bias: Matrix = field(default_factory=lambda: np.zeros(1))
    runs: bool = True
    rounds: bool = False


def integer(dtype: type, per: int | None, scales: str) -> Product:
    """As quantize_dynamic writes it."""
    w = quantised(normal(5, D, N), dtype, per)
    nodes = f"""
        q, q_step, q_zero = DynamicQuantizeLinear(x)
        i = MatMulInteger(q, w, q_zero, w_zero) f = Cast<to = 1>(i)
        {scales} total = Add(s, bias)"""
    return Product(nodes, {**w.as_weights(), "bias": BIAS}, w.real, exact(BIAS))


ONE_SCALE = "both = Mul(q_step, w_step) s = Mul(f, both)"
TWO_SCALES = "once = Mul(f, q_step) s = Mul(w_step, once)"


def to_float(per: int | None, bias: bool) -> Product:
    w = quantised(normal(5, D, N), np.uint8, per)
    nodes = f"""
        q, q_step, q_zero = DynamicQuantizeLinear(x)
        total = com.microsoft.MatMulIntegerToFloat
            (q, w, q_step, w_step, q_zero, w_zero{", bias" if bias else ""})"""
    given = {**w.as_weights(), **({"bias": BIAS} if bias else {})}
    return Product(nodes, given, w.real, exact(BIAS) if bias else np.zeros(1))


def dynamic(per: int | None, bias: bool) -> Product:
    w = quantised(normal(5, D, N), np.int8, per)
    nodes = f"""
        total = com.microsoft.DynamicQuantizeMatMul
            (x, w, w_step, w_zero{", bias" if bias else ""})"""
    given = {**w.as_weights(), **({"bias": BIAS} if bias else {})}
    return Product(nodes, given, w.real, exact(BIAS) if bias else np.zeros(1))


QUANTISE = "q = QuantizeLinear(x, x_step, x_zero)"
DEQUANTISE = "total = DequantizeLinear(p, y_step, y_zero)"
Y = "y_step, y_zero"


def q_linear(dtype: type, per: int | None) -> Product:
    w = quantised(normal(5, D, N), dtype, per)
    nodes = f"""{QUANTISE}
        p = QLinearMatMul(q, x_step, x_zero, w, w_step, w_zero, {Y}) {DEQUANTISE}"""
    return Product(nodes, {**w.as_weights(), **X}, w.real, rounds=True)


def q_gemm(per: int | None, transposed: bool, width: int = N) -> Product:
    """A row of W of [N, K] is a column of the matrix. The bias is in units of both steps."""
    turned = normal(5, D, width).T.copy() if transposed else normal(5, D, width)
    axis = None if per is None else (0 if transposed else 1)
    w = quantised(turned, np.int8, axis)
    unit = np.float64(np.float32(X_STEP)) * exact(w.step).reshape(-1)
    bias = np.rint(exact(BIAS[:width]) / unit).astype(np.int32)
    nodes = f"""{QUANTISE} flat = Reshape(q, two_d)
        p_flat = com.microsoft.QGemm<transB = {int(transposed)}>
            (flat, x_step, x_zero, w, w_step, w_zero, bias, {Y})
        p = Reshape(p_flat, three_d) {DEQUANTISE}"""
    shapes = {"two_d": shape(-1, D), "three_d": shape(-1, 1, width)}
    real = w.real.T if transposed else w.real
    given = {**w.as_weights(), **X, **shapes, "bias": bias}
    return Product(nodes, given, real, exact(bias) * unit, rounds=True)


def convolution(op: str, per: int | None) -> Product:
    """Over the channels of one position: a matrix."""
    w = quantised(normal(5, N, D, 1), np.uint8, per)
    if op == "ConvInteger":
        nodes = """t = Transpose<perm = [0, 2, 1]>(x) q, q_step, q_zero = DynamicQuantizeLinear(t)
            i = ConvInteger(q, w, q_zero, w_zero) f = Cast<to = 1>(i) once = Mul(f, q_step)
            c = Mul(once, wide) total = Transpose<perm = [0, 2, 1]>(c)"""
        wide = w.step.reshape(-1, 1) if per is not None else w.step.reshape(1)
        given = {**w.as_weights(), "wide": wide}
        return Product(nodes, given, w.real[:, :, 0].T, runs=per is None)
    unit = np.float64(np.float32(X_STEP)) * exact(w.step).reshape(-1)
    bias = np.rint(exact(BIAS) / unit).astype(np.int32)
    nodes = f"""t = Transpose<perm = [0, 2, 1]>(x) q = QuantizeLinear(t, x_step, x_zero)
        p = QLinearConv(q, x_step, x_zero, w, w_step, w_zero, {Y}, bias)
        d = DequantizeLinear(p, {Y}) total = Transpose<perm = [0, 2, 1]>(d)"""
    given = {**w.as_weights(), **X, "bias": bias}
    return Product(nodes, given, w.real[:, :, 0].T, exact(bias) * unit, rounds=True)


PRODUCTS = {
    "MatMulInteger, uint8": integer(np.uint8, None, ONE_SCALE),
    "MatMulInteger, int8, scaled twice": integer(np.int8, None, TWO_SCALES),
    "MatMulInteger, per column": integer(np.uint8, 1, ONE_SCALE),
    "MatMulInteger, per column, scaled twice": integer(np.int8, 1, TWO_SCALES),
    "MatMulIntegerToFloat": to_float(None, False),
    "MatMulIntegerToFloat, per column, bias": to_float(1, True),
    "DynamicQuantizeMatMul": dynamic(None, True),
    "DynamicQuantizeMatMul, per column": dynamic(1, False),
    "QLinearMatMul, uint8": q_linear(np.uint8, None),
    "QLinearMatMul, int8, per column": q_linear(np.int8, 1),
    "QGemm": q_gemm(None, False),
    "QGemm, per column": q_gemm(1, False),
    "QGemm, transB": q_gemm(None, True),
    "QGemm, transB, per column": q_gemm(1, True),
    "QGemm, transB, per column of a square": q_gemm(1, True, D),
    "QLinearConv": convolution("QLinearConv", None),
    "QLinearConv, per channel": convolution("QLinearConv", 0),
    "ConvInteger": convolution("ConvInteger", None),
    "ConvInteger, per channel": convolution("ConvInteger", 0),
}
each_product = pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)


def model_of(product: Product) -> onnx.ModelProto:
    width = product.matrix.shape[1]
    return between(product.nodes, {**product.weights, "gamma_of_last": np.ones(width, np.float32)})


@each_product
def test_what_is_read_is_what_the_integers_stand_for(product: Product) -> None:
    """The rows differ from NumPy's by FP32 alone: no activation is rounded."""
    model = model_of(product)
    truth = sums(x_rows() @ product.matrix + product.bias)
    assert extremes(estimated(model)) == pytest.approx([truth.min(), truth.max()], rel=1e-4)
    assert paper(model)["last"] == pytest.approx(
        frobenius(np.diag(exact(GAMMA)) @ product.matrix), rel=1e-6
    )


def test_the_matrix_is_that_of_the_integers_and_its_scale_a_factor() -> None:
    product = PRODUCTS["MatMulInteger, per column"]
    traced, _ = read(model_of(product))
    parts = list(walk(traced.inputs["last"], lambda e: isinstance(e, Normalised)))
    (matrix,) = [e.weight for e in parts if isinstance(e, Linear)]
    zero = exact(product.weights["w_zero"])
    np.testing.assert_array_equal(matrix.read(), exact(product.weights["w"]) - zero)
    assert "w_step" in [e.weight.name for e in parts if isinstance(e, Known)]


@pytest.mark.parametrize(
    "product",
    [p for p in PRODUCTS.values() if p.runs],
    ids=[t for t, p in PRODUCTS.items() if p.runs],
)
def test_a_run_shows_the_rows_that_were_read_to_8_bits(product: Product) -> None:
    """Rounding x moves an element by up to half a step, and rounding the products by half of one.

    So the length of a row is off by at most half a step times the columns' sums of absolute
    weights. Where the step is that of the data, it is a 255th of the range of x, and the zero point
    is rounded too, which costs another half.
    """
    if product is PRODUCTS["QLinearConv, per channel"]:
        needs_onnx_runtime(1, 27, for_what="a zero point per channel")
    model = model_of(product)
    x, matrix = x_rows(), product.matrix
    off = X_STEP / 2 if product.rounds else (x.max() - x.min()) / 255
    off *= float(np.linalg.norm(np.abs(matrix).sum(axis=0)))
    if product.rounds:
        off += Y_STEP / 2 * matrix.shape[1] ** 0.5
    rows = np.sqrt(sums(shown(model)))
    assert off < 0.25 * rows.max()  # or nothing would be told
    smallest, largest = np.sqrt(extremes(estimated(model)))
    assert abs(smallest - rows.min()) <= off
    assert abs(largest - rows.max()) <= off


VALUES = quantised(normal(7, 1, D, spread=2.0), np.uint8)
ELEMENTWISE = {
    "QLinearAdd of two activations": (
        f"""h = MatMul(x, w) r = QuantizeLinear(h, y_step, y_zero)
        p = com.microsoft.QLinearAdd(q, x_step, x_zero, r, {Y}, {Y})""",
        lambda x, w: x + x @ w,
    ),
    "QLinearAdd of a constant": (
        f"p = com.microsoft.QLinearAdd(q, x_step, x_zero, v, v_step, v_zero, {Y})",
        lambda x, w: x + VALUES.real,
    ),
    "QLinearMul by a constant": (
        f"p = com.microsoft.QLinearMul(q, x_step, x_zero, v, v_step, v_zero, {Y})",
        lambda x, w: x * VALUES.real,
    ),
    "QLinearMul by a constant that comes first": (
        f"p = com.microsoft.QLinearMul(v, v_step, v_zero, q, x_step, x_zero, {Y})",
        lambda x, w: x * VALUES.real,
    ),
    "QLinearMul of two activations": (
        f"""h = MatMul(x, w) r = QuantizeLinear(h, y_step, y_zero)
        p = com.microsoft.QLinearMul(q, x_step, x_zero, r, {Y}, {Y})""",
        lambda x, w: x * (x @ w),
    ),
}


@pytest.mark.parametrize(("nodes", "truth"), ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_elementwise_ops_on_quantised_operands(
    nodes: str, truth: Callable[[Matrix, Matrix], Matrix]
) -> None:
    w = normal(6, D, D, spread=0.5)
    weights = {**X, **VALUES.as_weights("v"), "w": w, "y_step": np.array(0.25, np.float32)}
    model = between(f"{QUANTISE} {nodes} {DEQUANTISE}", weights)
    rows = truth(x_rows(), exact(w))
    found = estimated(model)
    assert extremes(found) == pytest.approx([sums(rows).min(), sums(rows).max()], rel=1e-4)
    # Operands are off by half a step of at most 1/4 and at most 20 in size, the result by 1/8.
    assert sums(shown(model)).max() == pytest.approx(found.seen, rel=0.1)


def test_a_softmax_times_quantised_values_mixes_their_rows() -> None:
    """With one token the mix is the row itself; among several it is no longer than the longest."""
    nodes = f"""
        t = Transpose<perm = [0, 2, 1]>(x) scores = MatMul(x, t) shares = Softmax<axis = -1>(scores)
        s = QuantizeLinear(shares, s_step, s_zero) {QUANTISE}
        p = QLinearMatMul(s, s_step, s_zero, q, x_step, x_zero, x_step, x_zero)
        total = DequantizeLinear(p, x_step, x_zero)"""
    steps: Weights = {"s_step": np.array(1 / 255, np.float32), "s_zero": np.array(0, np.uint8)}
    model = between(nodes, {**X, **steps})
    found = estimated(model)
    assert found.seen == pytest.approx(sums(x_rows()).max(), rel=1e-4)
    assert sums(shown(model)).max() == pytest.approx(found.seen, rel=0.05)
    ids = np.random.default_rng(3).integers(0, 11, (16, 8))
    assert within_a_factor(found, sums(shown(model, ids=ids)))
