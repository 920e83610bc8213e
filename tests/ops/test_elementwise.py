"""Every record of an elementwise function, against ONNX Runtime and swept over attributes."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from slanc_onnx.ops.elementwise import ELEMENTWISE, Parameter, apply_function
from tests.versions import needs_onnx_runtime

CONTRIB = {"BiasGelu", "FastGelu", "QuickGelu"}
AS_INPUTS = {"Clip", "Pow", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
# Values of numeric attributes and scalar inputs: what exporters write, and what breaks a rule.
GRID: dict[str, tuple[float, ...]] = {
    "alpha": (0.01, 0.2, 0.5, 1.0, 1.67, 2.5, -0.5, -2.0),
    "beta": (0.5, 0.0, 2.0, -1.0),
    "gamma": (1.05, 0.3, -2.0),
    "exponent": (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, -0.5, -1.0, -2.0),
    "min": (-math.inf, -1.0, 0.0, 0.5, 5.0),
    "max": (math.inf, 6.0, 0.0, -0.5),
    "limit": (0.0, -1.5, 3.0),
}
TINY, SUBNORMAL, HUGE = 1.2e-38, 1e-40, 3e38
SIZES = (
    0.0,
    SUBNORMAL,
    TINY,
    1e-20,
    1e-3,
    0.1,
    0.5,
    1.0,
    1.5,
    2.0,
    3.0,
    6.0,
    20.0,
    100.0,
    1e20,
    HUGE,
)
POINTS = np.array([sign * size for sign in (-1.0, 1.0) for size in SIZES], np.float32)
ERF_ERROR = 1.5e-7  # of the approximation that stands for erf, also inside Gelu
INFINITE = np.array([-math.inf, math.inf], np.float32)


def settings(name: str) -> Iterator[tuple[Parameter, ...]]:
    """Combinations of the record's attributes over the grid."""
    attributes = ELEMENTWISE[name].attributes
    if "approximate" in attributes:
        yield from [("none",), ("tanh",)]
        return
    yield from itertools.product(*(GRID[key] for key in attributes))


def by_onnx_runtime(name: str, x: np.ndarray, parameters: tuple[Parameter, ...]) -> np.ndarray:
    """The op itself, on ONNX Runtime."""
    record = ELEMENTWISE[name]
    inputs, given = ["x"], dict(zip(record.attributes, parameters, strict=True))
    constants = []
    if name in AS_INPUTS:
        for key, value in given.items():
            inputs.append(key)
            constants.append(helper.make_tensor(key, TensorProto.FLOAT, [], [float(value)]))
        given = {}
    if name == "BiasGelu":
        inputs.append("bias")
        constants.append(helper.make_tensor("bias", TensorProto.FLOAT, [len(x)], np.zeros(len(x))))
    domain = "com.microsoft" if name in CONTRIB else ""
    node = helper.make_node(name, inputs, ["y"], domain=domain)
    node.attribute.extend(helper.make_attribute(key, value) for key, value in given.items())
    kind = TensorProto.BOOL if name in AS_INPUTS - {"Clip", "Pow"} else TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [len(x)])],
        [helper.make_tensor_value_info("y", kind, [len(x)])],
        constants,
    )
    opsets = [helper.make_opsetid("", 24 if name == "Swish" else 20)]
    opsets.append(helper.make_opsetid("com.microsoft", 1))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0], np.float32)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_arithmetic_is_that_of_onnx_runtime(name: str) -> None:
    if name == "Swish":
        needs_onnx_runtime(1, 24, for_what="opset 24")
    for parameters in settings(name):
        try:
            expected = by_onnx_runtime(name, POINTS, parameters)
        except Exception as error:  # as ONNX Runtime's build has it
            if "NOT_IMPLEMENTED" in str(error) or "is not a registered" in str(error):
                pytest.skip(f"ONNX Runtime does not have {name}: {str(error)[:80]}")
            raise
        found = apply_function(name, POINTS, parameters)
        np.testing.assert_allclose(
            found, expected, rtol=2e-6, atol=1e-6, err_msg=f"{name}{parameters}", equal_nan=True
        )


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_no_value_is_above_slope_range_or_growth(name: str) -> None:
    record = ELEMENTWISE[name]
    dense = np.concatenate([POINTS, np.linspace(-8, 8, 4001, dtype=np.float32)]).astype(np.float64)
    for parameters in settings(name):
        inside = {
            "real": dense == dense,
            "not negative": dense >= 0,
            "positive": dense > 0,
            "not zero": dense != 0,
        }[record.domain(*parameters)]
        z = dense[inside]
        with np.errstate(all="ignore"):
            value = np.asarray(record.arithmetic(z, *parameters), np.float64)
        assert not np.isnan(value).any(), f"{name}{parameters} at {z[np.isnan(value)][:3]}"
        told = f"{name}{parameters}"
        slope = record.slope(*parameters)
        if slope is not None:
            assert (np.abs(value) <= slope * np.abs(z) * (1 + 1e-6) + ERF_ERROR).all(), told
        low, high = record.range(*parameters)
        assert ((value >= low - 1e-6) & (value <= high + 1e-6)).all(), told
        if record.growth is not None:
            with np.errstate(all="ignore"):
                limit = record.growth(np.abs(z), *parameters)
            assert (np.abs(value) <= limit * (1 + 1e-6)).all(), told
        with np.errstate(all="ignore"):
            at_zero = record.arithmetic(np.zeros(1, np.float32), *parameters)[0]
        assert slope is None or at_zero == 0, told


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_outside_of_the_domain_is_no_finite_number(name: str) -> None:
    record = ELEMENTWISE[name]
    for parameters in settings(name):
        domain = record.domain(*parameters)
        outside = {
            "real": [],
            "not negative": [-2.0, -1e-30],
            "positive": [-2.0, -1e-30, 0.0],
            "not zero": [0.0],
        }[domain]
        for z in outside:
            found = apply_function(name, np.array([z], np.float32), parameters)
            assert not np.isfinite(found).any(), f"{name}{parameters} at {z}"


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_degree_says_what_a_factor_becomes(name: str) -> None:
    record = ELEMENTWISE[name]
    z = np.linspace(0.1, 3, 50).astype(np.float32)
    for parameters in settings(name):
        degree = record.degree(*parameters)
        if degree is None:
            continue
        signed = record.domain(*parameters) in ("real", "not zero")
        x = np.concatenate([-z, z]) if signed else z
        before, after = (apply_function(name, np.float32(c) * x, parameters) for c in (1, 4))
        np.testing.assert_allclose(after, before * 4.0**degree, rtol=1e-5, err_msg=name)


def test_functions_of_degree_one_keep_a_common_factor() -> None:
    named = {n for n, f in ELEMENTWISE.items() if f.degree(*f.attributes.values()) == 1}
    assert named == {"Relu", "LeakyRelu", "Neg", "Abs", "Clip", "Pow"}  # by their defaults
    assert ELEMENTWISE["Clip"].degree(0.0, math.inf) == 1
    assert ELEMENTWISE["Clip"].degree(0.0, 6.0) is None


def test_infinities_become_what_the_range_says() -> None:
    for name, record in ELEMENTWISE.items():
        defaults = tuple(record.attributes.values())
        value = apply_function(name, INFINITE, defaults)
        low, high = record.range(*defaults)
        known = value[~np.isnan(value)]
        assert ((known >= low) & (known <= high)).all(), name


def test_the_records_of_todays_table_are_all_known_ops() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas()} | CONTRIB
    assert set(ELEMENTWISE) <= known
