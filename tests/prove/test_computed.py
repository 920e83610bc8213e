"""Constants by ONNX's evaluator and by ONNX Runtime: the same bits, and neither without an end."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.trusted import computed
from slanc_onnx.prove.trusted.agreed import AGREED, RIGHT_SINCE_1_23
from slanc_onnx.prove.trusted.computed import computer, evaluated, of_one_node, run
from slanc_onnx.reasons import Unread
from slanc_onnx.run import CannotRun
from tests.versions import ONNX, needs_onnx

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
    if op in RIGHT_SINCE_1_23 - AGREED:
        pytest.skip(f"onnx {onnx.__version__} makes something else, and is not believed alone")
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
    with pytest.raises(CannotRun, match=r"float8|No corresponding Numpy type"):
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
    monkeypatch.setattr(computed, "SECONDS", 200.0)  # which a busy machine does not come to
    large = np.zeros((1 << 10, 50_000), np.int8)
    node = helper.make_node("DequantizeLinear", ["in0", "in1"], ["out"])
    started = time.monotonic()
    with pytest.raises(NoBound):
        computer(node, {"": 13}, True)([large, STEPS[0]])
    assert time.monotonic() - started < computed.SECONDS


IMAGE = RANDOM.uniform(1, 2, (1, 1, 80, 80)).astype(np.float32)  # of which sums do not cancel
KERNEL = RANDOM.uniform(1, 2, (1, 1, 5, 5)).astype(np.float32)


def convolved(image: Array) -> Array:
    windows = np.lib.stride_tricks.sliding_window_view(image.astype(np.float64), (5, 5), (2, 3))
    return np.asarray(np.einsum("nchwij,ocij->nohw", windows, KERNEL))


@pytest.mark.parametrize(("size", "by"), [(80, ["run"]), (12, ["evaluated", "run"])])
def test_loops_of_the_evaluator_are_for_what_is_small(
    size: int, by: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It walks each window in Python: an image of 400 x 400 with a kernel of 65 x 65 took 40 s."""

    asked: list[str] = []
    for name in ("evaluated", "run"):
        monkeypatch.setattr(computed, name, _noted(asked, name, getattr(computed, name)))
    image = IMAGE[..., :size, :size]
    node = helper.make_node("Conv", ["in0", "in1"], ["out"])
    (made,) = computer(node, {"": 22}, made=(size - 4) ** 2)([image, KERNEL])
    np.testing.assert_allclose(made, convolved(image), rtol=1e-5, atol=1e-5)
    assert asked == by


def _noted(names: list[str], name: str, right: Callable[..., Any]) -> Callable[..., Any]:
    def noting(*given: Any) -> Any:
        names.append(name)
        return right(*given)

    return noting


def test_large_outputs_of_small_inputs_are_not_made_in_loops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = helper.make_node("ConvTranspose", ["in0", "in1"], ["out"], strides=[99, 99])
    image = IMAGE[..., :9, :9]
    with monkeypatch.context() as patched:
        patched.setattr(computed, "run", lambda *_: ["by ONNX Runtime"])
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


F = np.float32
ROWS = np.arange(24, dtype=F).reshape(2, 3, 4) - 9
ODD = np.array([-300.2, -3.7, -2.5, -0.5, 0, 0.5, 1.5, 2.5, 7, 300.7], F)
LIMITS = (F(-1), F(2))
# (op, its inputs, its attributes, opset), of each op that is said to agree.
AGREE: list[tuple[str, list[Any], dict[str, Any], int]] = [
    *((op, [ODD], {}, 21) for op in ("Abs", "Ceil", "Cos", "Erf", "Floor", "IsNaN", "Neg")),
    *((op, [ODD], {}, 21) for op in ("Identity", "Relu", "Round", "Sigmoid", "Sign", "Sin")),
    *((op, [ODD], {}, 21) for op in ("NonZero", "Shape", "Size", "Softplus", "Softsign", "Tanh")),
    *((op, [np.abs(ODD) / 9 + 1], {}, 13) for op in ("Exp", "Log", "Reciprocal", "Sqrt")),
    *((op, [ODD / 9], {"alpha": -2.0}, 12) for op in ("Celu", "Elu", "LeakyRelu", "Selu")),
    ("HardSigmoid", [ODD], {"alpha": -2.0, "beta": 3.0}, 21),
    *(("Gelu", [ODD], {"approximate": how}, 20) for how in ("none", "tanh")),
    *((op, [ROWS, ROWS[0] + 0.5], {}, 13) for op in ("Add", "Div", "Max", "Min", "Mul", "Sub")),
    *((op, [ROWS > 0, ROWS > 5], {}, 13) for op in ("And", "Or", "Xor")),
    *((op, [ROWS, ROWS[:1]], {}, 13) for op in ("Equal", "Greater", "GreaterOrEqual", "Less")),
    ("LessOrEqual", [ROWS, ROWS[:1]], {}, 16),
    ("Not", [ROWS > 0], {}, 13),
    ("Sum", [ROWS, ROWS, ROWS[0]], {}, 13),
    ("Where", [ROWS > 0, ROWS, F(7)], {}, 13),
    *(("Cast", [ODD * 1e3], {"to": to}, 13) for to in (TensorProto.UINT8, TensorProto.INT8)),
    *(("Cast", [ODD * 1e9], {"to": to}, 13) for to in (TensorProto.INT32, TensorProto.BOOL)),
    ("CastLike", [ODD, np.int64(1)], {}, 15),
    *(("Clip", given, {}, 13) for given in ([ODD, *LIMITS], [ODD, *LIMITS[::-1]], [ODD, F(1)])),
    ("Clip", [ODD], {"min": -1.0, "max": 2.0}, 9),
    ("Concat", [ROWS, ROWS], {"axis": -2}, 13),
    ("ConstantOfShape", [np.array([2, 3])], {}, 13),
    *(
        ("CumSum", [ROWS, np.int64(-1)], {"exclusive": one, "reverse": two}, 14)
        for one in (0, 1)
        for two in (0, 1)
    ),
    ("Expand", [ROWS[:, :1], np.array([1, 3, 1])], {}, 13),
    ("Flatten", [ROWS], {"axis": -1}, 13),
    ("GatherElements", [ROWS, np.array([[[-1, -2, 0, 1]]] * 2)], {"axis": 1}, 13),
    ("GatherND", [ROWS, np.array([[[0]], [[2]]])], {"batch_dims": 1}, 13),
    ("Gemm", [ROWS[0], np.ones((4, 2), F), np.array([1, 2], F)], {"alpha": 2.0, "beta": 3.0}, 13),
    ("MatMul", [ROWS, np.ones(4, F)], {}, 13),
    ("Mod", [ODD, ODD[::-1] + 1], {"fmod": 1}, 13),
    ("OneHot", [np.array([0, -1, 5]), np.int64(3), np.array([2, 7], F)], {"axis": 0}, 11),
    *(
        ("Pad", [ROWS, np.array([0, 1, 0, 0, 0, 2]), F(9)], {"mode": mode}, 19)
        for mode in ("constant", "edge", "reflect", "wrap")
    ),
    ("Pad", [ROWS, np.array([1, 2]), F(9), np.array([-1])], {}, 19),
    *((op, [ROWS], {"axes": [-1, 0], "keepdims": 0}, 11) for op in ("ReduceMean", "ReduceSum")),
    *((op, [ROWS], {}, 11) for op in ("ReduceMax", "ReduceMin", "ReduceProd")),
    *(
        (op, [ROWS, np.zeros(0, np.int64)], {"noop_with_empty_axes": 1}, 18)
        for op in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd")
    ),
    ("ScatterElements", [ROWS, np.zeros((1, 1, 4), np.int64), ROWS[:1, :1]], {"axis": 1}, 13),
    *(
        ("ScatterND", [ROWS, np.array([[0, -1], [0, -1]]), ROWS[:, 0]], {"reduction": how}, 18)
        for how in ("none", "add", "mul", "max")
    ),
    ("Slice", [ROWS], {"starts": [-2], "ends": [100], "axes": [1]}, 9),
    ("Split", [ROWS], {"axis": 1, "split": [1, 2]}, 11),
    ("Squeeze", [ROWS[:1]], {}, 13),
    ("Tile", [ROWS, np.array([1, 2, 1])], {}, 13),
    *(("TopK", [ODD, np.array([3])], {"largest": largest}, 11) for largest in (0, 1)),
    *(("Trilu", [ROWS, np.int64(k)], {"upper": upper}, 14) for k in (-5, 1) for upper in (0, 1)),
    ("Unsqueeze", [ROWS], {"axes": [0, -1]}, 11),
]


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "opset"), AGREE, ids=[f"{c[0]}-{c[3]}" for c in AGREE]
)
def test_the_evaluator_agrees_with_onnx_runtime(
    op: str, inputs: list[Any], attributes: dict[str, Any], opset: int
) -> None:
    """Odd attributes and old versions of the ops whose constants the evaluator alone computes."""
    if op in RIGHT_SINCE_1_23 - AGREED:
        pytest.skip(f"onnx {onnx.__version__} makes something else, and is not believed alone")
    if op == "Gelu":
        needs_onnx(1, 23, for_what="an evaluator of Gelu whose input is a constant")
    model = model_of(op, inputs, attributes, opset)
    if op in ("Split", "TopK"):
        model.graph.node[0].output.append("second")
        model.graph.output.add(name="second")
    for one, other in zip(evaluated(model), run(model, apart=False), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        largest = float(np.abs(one.astype(np.float64)).max(initial=0.0))
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6 * largest)


def test_every_op_that_is_said_to_agree_is_asked() -> None:
    asked = {case[0] for case in (*BOTH, *AGREE)}
    assert asked | {"Constant"} >= AGREED


IMAGE_OF_16 = np.arange(16, dtype=F).reshape(1, 1, 4, 4)
PER_CHANNEL = np.array([1, 2, 3], F)
ALIGNED = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
WIDER = np.array([1, 1, 1.7, 0.6], F)
FAR = np.random.default_rng(0).normal(size=64).astype(F) * F(1e8)
CANCELS = np.random.default_rng(0).permutation(np.concatenate([FAR, -FAR, np.ones(1, F)]))
BACKWARDS = [np.array([n]) for n in (-9, -(2**40), 2, -1)]
# Of these the two made different numbers: each with what is right by ONNX's text, or None.
DIFFERENT: dict[str, tuple[str, list[Any], dict[str, Any], int]] = {
    "Softmax before 13": ("Softmax", [ROWS], {"axis": 1}, 11),
    "LogSoftmax before 13": ("LogSoftmax", [ROWS], {"axis": 1}, 11),
    "Resize": ("Resize", [IMAGE_OF_16, np.zeros(0, F), WIDER], ALIGNED, 19),
    "BatchNormalization before 14": (
        "BatchNormalization",
        [ROWS, PER_CHANNEL, PER_CHANNEL, PER_CHANNEL, PER_CHANNEL * 4],
        {},
        9,
    ),
    "GlobalMaxPool": ("GlobalMaxPool", [ROWS], {}, 13),
    "LRN": ("LRN", [ROWS[None]], {"size": 3}, 13),
    "QuantizeLinear beyond int32": ("QuantizeLinear", [ODD * F(1e9), F(1)], {}, 13),
    "sums that cancel": ("ReduceSum", [CANCELS], {"axes": [0]}, 11),
    "axes that are added in no order": ("Unsqueeze", [ROWS], {"axes": [1, 0, -1]}, 11),
    "a slice backwards from before the first": ("Slice", [ROWS, *BACKWARDS], {}, 13),
    "places of a number without axes": ("NonZero", [F(1)], {}, 13),
    "Sigmoid far below zero": ("Sigmoid", [np.array([-47, 1], F)], {}, 13),
    "Celu of a large alpha": ("Celu", [ODD], {"alpha": 1e38}, 12),
    "functions in FP16": ("Sin", [np.array([300, 1], np.float16)], {}, 13),
    "a limit of what is infinite": ("Clip", [np.array([-np.inf, 1], F)], {}, 13),
    "Pow of whole numbers": ("Pow", [np.array([2, 10], np.int32)] * 2, {}, 13),
    "Range by fractions": ("Range", [F(0), F(1), F(1e-5)], {}, 13),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_the_two_do_not_agree_on_is_unknown(name: str) -> None:
    """ONNX Runtime alone is not believed either: another runtime may do as the evaluator does."""
    op, inputs, attributes, opset = DIFFERENT[name]
    node = helper.make_node(op, [f"in{i}" for i in range(len(inputs))], ["out"], **attributes)
    since = {"Resize": (1, 22), "places of a number without axes": (1, 23)}
    if {**since, "Celu of a large alpha": (1, 23)}.get(name, (1,)) > ONNX:
        pytest.skip(f"the evaluator of onnx {onnx.__version__} makes what ONNX Runtime does")
    with pytest.raises(NoBound) as caught:
        computer(node, {"": opset})([np.asarray(array) for array in inputs])
    assert caught.value.reason.kind == Unread.COMPUTED_TWICE


def test_what_both_compute_alike_is_taken() -> None:
    node = helper.make_node("Softmax", ["in0"], ["out"], axis=-1)
    (made,) = computer(node, {"": 13})([ROWS])
    exact = np.exp(ROWS.astype(np.float64) - ROWS.max(axis=-1, keepdims=True))
    np.testing.assert_allclose(made, exact / exact.sum(axis=-1, keepdims=True), rtol=1e-5)
