"""Constants by ONNX's evaluator and by ONNX Runtime: the same bits, and neither without an end."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.trusted import computed
from slanc_onnx.prove.trusted.computed import computer, evaluated, of_one_node, run
from slanc_onnx.run import CannotRun

Array = NDArray[Any]
RANDOM = np.random.default_rng(3)
W = RANDOM.normal(size=(4, 6)).astype(np.float32)
BYTES = RANDOM.integers(-128, 128, (4, 6)).astype(np.int8)
STEPS = RANDOM.uniform(0.001, 0.1, 6).astype(np.float32)
ZEROS = RANDOM.integers(-128, 128, 6).astype(np.int8)
WHOLE = np.array([2, 3, 4], np.int64)

# (op, its inputs, its attributes): what moves or rounds, but calls no function of the C library.
BOTH: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("DequantizeLinear", [BYTES, STEPS[0], ZEROS[0]], {}),
    ("DequantizeLinear", [BYTES, STEPS, ZEROS], {"axis": -1}),
    ("DequantizeLinear", [BYTES, STEPS[:4]], {"axis": 0}),
    ("DequantizeLinear", [BYTES, np.outer(STEPS[:2], STEPS)], {"axis": 0, "block_size": 2}),
    ("QuantizeLinear", [W, STEPS, ZEROS], {"axis": 1}),
    ("Cast", [W * 100], {"to": TensorProto.FLOAT16}),
    ("Cast", [BYTES], {"to": TensorProto.FLOAT}),
    ("Gather", [W, np.array([-1, 0])], {"axis": 1}),
    ("Reshape", [W, WHOLE[::2] * 0 + [3, 8]], {}),
    ("Transpose", [BYTES], {"perm": [1, 0]}),
    ("Slice", [W, *(np.array([n]) for n in (-1, -99, 1, -2))], {}),
    ("Pad", [WHOLE, np.array([1, 2]), np.array(7)], {}),
    ("Div", [WHOLE * [-1, 1, 1] + 1, np.array(2)], {}),
    ("Mod", [-WHOLE, np.array(3)], {}),
    ("Clip", [W, np.float32(-0.5), np.float32(0.5)], {}),
    ("ReduceSum", [WHOLE, np.zeros(0, np.int64)], {"noop_with_empty_axes": 1}),
]


def model_of(
    op: str, inputs: list[Any], attributes: Mapping[str, Any], opset: int = 21
) -> onnx.ModelProto:
    names = [f"in{i}" for i in range(len(inputs))]
    node = helper.make_node(op, names, ["out"], **attributes)
    return of_one_node(node, [np.asarray(array) for array in inputs], {"": opset})


@pytest.mark.parametrize(("op", "inputs", "attributes"), BOTH, ids=[case[0] for case in BOTH])
def test_where_both_can_they_agree_bit_for_bit(
    op: str, inputs: list[Any], attributes: dict[str, Any]
) -> None:
    model = model_of(op, inputs, attributes)
    (one,), (other,) = evaluated(model), run(model, apart=False)
    assert one.dtype == other.dtype and one.shape == other.shape
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("opset", [10, 13, 18])
def test_old_versions_are_computed_by_onnx_runtime(opset: int) -> None:
    """The evaluator has DequantizeLinear from opset 19 on."""
    model = model_of("DequantizeLinear", [BYTES, STEPS[0]], {}, opset)
    with pytest.raises(RuntimeError, match="No implementation"):
        evaluated(model)
    node = model.graph.node[0]
    for apart in (False, True):
        (made,) = computer(node, {"": opset}, apart)([BYTES, STEPS[0]])
        np.testing.assert_array_equal(made, BYTES.astype(np.float32) * STEPS[0])


def test_types_that_numpy_lacks_are_not_taken_for_bytes() -> None:
    """ONNX Runtime gives FP8 as uint8."""
    model = model_of("Cast", [W], {"to": TensorProto.FLOAT8E4M3FN})
    with pytest.raises(CannotRun, match="float8"):
        run(model, apart=False)


def test_a_node_that_neither_computes_is_unknown() -> None:
    node = helper.make_node("DequantizeLinear", ["in0", "in1"], ["out"], axis=1)
    with pytest.raises(NoBound):
        computer(node, {"": 13})([BYTES, STEPS[:5]])
    with pytest.raises(NoBound):
        computer(helper.make_node("Odd", ["in0"], ["out"], domain="some.where"), {"": 13})([W])


def test_what_is_too_large_is_not_begun() -> None:
    node = helper.make_node("Neg", ["in0"], ["out"])
    with pytest.raises(NoBound):
        computer(node, {"": 13})([np.broadcast_to(np.float32(1), (1 << 14, 1 << 14))])


def test_onnx_runtime_may_need_only_so_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 MB of numbers, where a process may take 50 MB."""
    monkeypatch.setattr(computed, "MEMORY", 50_000_000)
    large = np.zeros((1 << 10, 50_000), np.int8)
    node = helper.make_node("DequantizeLinear", ["in0", "in1"], ["out"])
    started = time.monotonic()
    with pytest.raises(NoBound):
        computer(node, {"": 13}, True)([large, STEPS[0]])
    assert time.monotonic() - started < computed.SECONDS


IMAGE = RANDOM.normal(size=(1, 1, 80, 80)).astype(np.float32)
KERNEL = RANDOM.normal(size=(1, 1, 5, 5)).astype(np.float32)


def convolved(image: Array) -> Array:
    windows = np.lib.stride_tricks.sliding_window_view(image.astype(np.float64), (5, 5), (2, 3))
    return np.asarray(np.einsum("nchwij,ocij->nohw", windows, KERNEL))


@pytest.mark.parametrize(("size", "by"), [(80, "run"), (12, "evaluated")])
def test_loops_of_the_evaluator_are_for_what_is_small(
    size: int, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It walks each window in Python: an image of 400 x 400 with a kernel of 65 x 65 took 40 s."""

    def fails(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(computed, "evaluated" if by == "run" else "run", fails)
    image = IMAGE[..., :size, :size]
    node = helper.make_node("Conv", ["in0", "in1"], ["out"])
    (made,) = computer(node, {"": 22}, made=(size - 4) ** 2)([image, KERNEL])
    np.testing.assert_allclose(made, convolved(image), rtol=1e-5, atol=1e-5)


def test_large_outputs_of_small_inputs_are_not_made_in_loops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = helper.make_node("ConvTranspose", ["in0", "in1"], ["out"], strides=[99, 99])
    image = IMAGE[..., :9, :9]
    monkeypatch.setattr(computed, "run", lambda *_: ["by ONNX Runtime"])
    assert computer(node, {"": 22}, made=800**2)([image, KERNEL]) == ["by ONNX Runtime"]
    (made,) = computer(node, {"": 22}, made=25)([image[..., :1, :1], KERNEL])
    np.testing.assert_array_equal(made, image[..., :1, :1] * KERNEL)


def test_a_proof_has_so_many_seconds_for_constants() -> None:
    node = helper.make_node("Neg", ["in0"], ["out"])
    spent = computed.Spent()
    computer(node, {"": 13}, spent=spent)([W])
    assert 0 < spent.seconds < computed.SECONDS_OF_ALL
    spent.seconds = computed.SECONDS_OF_ALL + 1
    with pytest.raises(NoBound):
        computer(node, {"": 13}, spent=spent)([W])
