"""Rounding by ONNX nodes gives the numbers of ml_dtypes' casts, on every opset."""

from itertools import product

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from slanc_onnx import SlancError
from slanc_onnx.accelerator import FORMATS, Format
from slanc_onnx.run.emit import Emitter
from slanc_onnx.verify.emulate.rounding import round_to
from tests.oracles.unoptimised import run

NARROW = [name for name in FORMATS if name != "float32"]
Floats = NDArray[np.float32]


def rounded(x: Floats, name: str, opset: int, flush: bool = False) -> Floats:
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "one", info[:1], info[1:]
    )
    version = [helper.make_opsetid("", opset)]
    emitter = Emitter(helper.make_model(graph, opset_imports=version, ir_version=5))
    emitter.place((), 0)
    emitter.finish([round_to(emitter, "x", Format.named(name), flush)], keep_outputs=False)
    (y,) = run(emitter.model, x=x).values()
    return np.asarray(y, np.float32)


def truth(x: Floats, name: str) -> Floats:
    """ml_dtypes' cast; where that has to make nan of a large number, infinity."""
    with np.errstate(all="ignore"):
        y = x.astype(np.dtype(name)).astype(np.float32)
    return np.where(np.isnan(y) & ~np.isnan(x), np.copysign(np.float32(np.inf), x), y)


def all_of(name: str) -> Floats:
    """Every number of a format of 8 or 16 bits, with infinities and nan."""
    dtype = np.dtype(name)
    unsigned = np.uint8 if dtype.itemsize == 1 else np.uint16
    with np.errstate(all="ignore"):  # nan
        return np.arange(1 << 8 * dtype.itemsize).astype(unsigned).view(dtype).astype(np.float32)


def wide() -> Floats:
    """Every BF16 number, the ties between them, and what lies next to all of those in FP32."""
    bits = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    near = (bits + np.uint32(add) for add in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF))
    return np.concatenate([part.view(np.float32) for part in near])


@pytest.mark.parametrize(("name", "opset"), list(product(NARROW, (10, 13, 17))))
def test_every_fp16_and_bf16_number_is_rounded_as_ml_dtypes_does(name: str, opset: int) -> None:
    for x in (all_of("float16"), wide()):
        actual, expected = rounded(x, name, opset), truth(x, name)
        assert np.array_equal(actual, expected, equal_nan=True)


@pytest.mark.parametrize(("name", "opset"), list(product(NARROW, (10, 17))))
def test_subnormal_results_are_flushed_after_rounding(name: str, opset: int) -> None:
    x = all_of("float16")
    expected = truth(x, name)
    limits = ml_dtypes.finfo(np.dtype(name))  # type: ignore[no-untyped-call]
    expected[np.abs(expected) < np.float32(limits.smallest_normal)] = 0
    assert np.array_equal(rounded(x, name, opset, flush=True), expected, equal_nan=True)


def test_fp32_is_left_alone() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]> main (float[2] x) => (float[2] y) { y = Abs(x) }""")
    assert round_to(Emitter(model), "x", Format.named("float32"), True) == "x"


@pytest.mark.parametrize("name", NARROW)
def test_the_limits_are_those_of_all_numbers_there_are(name: str) -> None:
    values = all_of(name)
    positive = np.unique(values[np.isfinite(values) & (values > 0)]).astype(np.float64)
    form = Format.named(name)
    assert (form.smallest_subnormal, form.largest) == (positive[0], positive[-1])
    above_one = positive[positive > 1][0]
    assert form.unit_roundoff == (above_one - 1) / 2
    # Below the smallest normal number the distances are all the same; from there on they double.
    ratios = np.diff(positive)
    assert form.smallest_normal == positive[np.flatnonzero(ratios > ratios[0])[0]] / 2


def test_the_limits_of_fp16() -> None:
    assert Format.named("float16") == Format("float16", 65504.0, 2.0**-14, 2.0**-24, 2.0**-11)


def test_an_unknown_format_is_named_with_the_known_ones() -> None:
    with pytest.raises(SlancError, match=r"'float9' is not known\. Known are: float16, bfloat16"):
        Format.named("float9")


@given(st.floats(0, 2.0**16), st.sampled_from(NARROW))
def test_one_number_is_rounded_from_float64_at_once(value: float, name: str) -> None:
    form = Format.named(name)
    table = all_of(name)
    table = table[np.isfinite(table)].astype(np.float64)
    nearest = form.nearest(value)
    assert nearest in table
    assert abs(nearest - value) == np.abs(table - value).min()


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [
        ("float8_e4m3fn", 17.0, 16.0),
        ("float8_e4m3fn", 19.0, 20.0),
        ("float8_e4m3fn", 1e9, 448.0),
        ("float8_e4m3fn", 2.0**-10, 0.0),
        ("float8_e4m3fn", 3 * 2.0**-10, 2.0**-8),
        ("float16", 1e300, 65504.0),
        ("float32", 0.1, float(np.float32(0.1))),
    ],
)
def test_ties_go_to_even_and_nothing_to_infinity(name: str, value: float, nearest: float) -> None:
    assert Format.named(name).nearest(value) == nearest
