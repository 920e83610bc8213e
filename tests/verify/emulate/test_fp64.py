"""What computes in FP64 is rounded behind every op, as a device with FP16 alone computes it."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.verify.emulate import Emulated, Everything, emulate
from tests.models.float64_twins import WITHOUT, in_fp64
from tests.models.float_graphs import BODIES, CONSTANTS, FUNCTIONS, PLAIN
from tests.models.float_kinds import Kind
from tests.models.float_ops import FUSED, ISLANDS, MIXED
from tests.oracles.unoptimised import Values, run

ALL = [*PLAIN, *CONSTANTS, *BODIES, *FUNCTIONS, *ISLANDS, *FUSED, *MIXED]
# ONNX Runtime takes the emulation of an optional in neither type.
KINDS = [kind for kind in ALL if kind.name not in WITHOUT | {"optional"}]


def emulated(model: onnx.ModelProto, *kept: str, watch: bool = True) -> Emulated:
    how = Everything(watch=watch, kept=frozenset(kept))
    return emulate(model, [], Accelerator(), everything=how)


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]>\n{text}')


def left(shown: Emulated, **feeds: NDArray[np.generic]) -> dict[str, float]:
    """The largest number that left FP16, by tensor."""
    found = run(shown.model, **feeds)
    sizes = {one.tensor: float(found[one.output].max()) for one in shown.watched}
    return {name: size for name, size in sizes.items() if size}


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_model_in_fp64_is_rounded_to_what_the_one_in_fp32_is(kind: Kind) -> None:
    wide = in_fp64(kind)
    expected = run(emulated(kind.model).model, **kind.feeds)
    got = run(emulated(wide.model).model, **wide.feeds)
    for name, value in run(wide.model, **wide.feeds).items():
        if value.dtype == np.float64:
            assert got[name].dtype == np.float64
            np.testing.assert_array_equal(got[name].astype(np.float32), expected[name])


X = np.random.default_rng(0).normal(size=(3, 8))


def half(x: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float64)


def test_each_op_behind_the_other_is_rounded_as_numpy_rounds() -> None:
    model = parsed(
        "m (double[3, 8] x) => (double[3, 8] y) <double third = {0.3333333333333333}> "
        "{ a = Mul(x, third) b = Exp(a) c = Sub(b, x) y = Mul(c, c) }"
    )
    got = run(emulated(model).model, x=X)["y"]
    x = half(X)
    c = half(half(np.exp(half(x * half(np.array(1 / 3))))) - x)
    np.testing.assert_array_equal(got, half(c * c))
    assert (got != run(model, x=X)["y"]).any()


def test_a_sum_is_rounded_in_the_order_of_the_device() -> None:
    model = parsed(
        "m (double[3, 8] x) => (double[3] y) <int64[1] ax = {1}> "
        "{ y = ReduceSum<keepdims = 0>(x, ax) }"
    )
    total = np.zeros(3)
    for column in half(X).T:
        total = half(total + column)
    np.testing.assert_array_equal(run(emulated(model).model, x=X)["y"], total)


def test_what_leaves_fp16_on_the_way_through_fp64_is_seen() -> None:
    island = parsed(
        "m (float[2] x) => (float[2] y) { d = Cast<to = 11>(x) e = Mul(d, d) f = Sqrt(e) "
        "y = Cast<to = 1>(f) }"
    )
    x = np.array([3.0, 300.0], np.float32)
    assert run(island, x=x)["y"].tolist() == [3.0, 300.0]
    assert run(emulated(island).model, x=x)["y"].tolist() == [3.0, np.inf]
    assert left(emulated(island), x=x) == {"e": 90000.0}


def test_so_is_what_fp32_does_not_hold() -> None:
    model = parsed("m (double[3] x) => (double[3] y) { e = Exp(x) y = Sub(e, x) }")
    x = np.array([0.0, 100.0, np.inf])
    assert left(emulated(model), x=x) == {"e": float(np.finfo(np.float32).max)}


def test_so_is_an_input_in_fp64() -> None:
    model = parsed("m (double[2] x) => (float[2] y) { f = Cast<to = 1>(x) y = Neg(f) }")
    x = np.array([1e5, 1 / 3])
    got = run(emulated(model).model, x=x)["y"]
    np.testing.assert_array_equal(got, -half(x))
    assert left(emulated(model), x=x) == {"x": 1e5}


def test_a_constant_in_fp64_is_rounded_and_held_to_the_largest_number() -> None:
    model = parsed(
        "m (double[2] x) => (double[2] y, double[2] z) <double[2] low = {-1e300, 0.1}, "
        "double least = {-1e300}> { y = Add(x, low) z = Max(x, least) }"
    )
    got = run(emulated(model).model, x=np.array([1.0, 1.0]))
    expected = [-65504.0 + 1.0, 1.0 + half(np.array(0.1))]
    np.testing.assert_array_equal(got["y"], half(np.array(expected)))
    np.testing.assert_array_equal(got["z"], [1.0, 1.0])


KEPT = (
    "m (int64[3] i) => (int64[3] k, float[3] y) <double half = {0.5}> { [f] f = Cast<to = 11>(i) "
    "[g] g = Mul(f, half) [k] k = Cast<to = 7>(g) c = Cast<to = 1>(g) y = Neg(c) }"
)


def test_what_is_kept_in_fp64_is_as_it_is_for_what_is_kept_and_rounded_for_others() -> None:
    i = np.array([6002, 6006, 12])
    got: Values = run(emulated(parsed(KEPT), "f", "g", "k").model, i=i)
    np.testing.assert_array_equal(got["k"], [3001, 3003, 6])
    np.testing.assert_array_equal(got["y"], [-3000.0, -3004.0, -6.0])  # ties to even


def test_the_other_types_that_an_op_reads_and_makes_stay() -> None:
    model = parsed(
        "m (double[2, 4] x, int64[1] n) => (double[2, 2] v, int64[2, 2] i, bool[2, 4] b, "
        "double[2, 4] p) <double limit = {0.1}, int64 two = {2}> "
        "{ v, i = TopK(x, n) b = Less(x, limit) p = Pow(x, two) }"
    )
    x, n = X[:2, :4], np.array([2])
    got, exact = run(emulated(model).model, x=x, n=n), run(model, x=half(x), n=n)
    for name in ("v", "i", "b"):
        np.testing.assert_array_equal(got[name], exact[name])
    np.testing.assert_array_equal(got["p"], half(exact["p"]))
