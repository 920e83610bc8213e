"""Schemas: what ops take and give, held against what ONNX Runtime loads."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from slanc_onnx.ops.schemas import runs, signature
from tests.oracles.unoptimised import Values, run

OPSETS = {"": 18, "com.microsoft": 1, "ai.onnx.ml": 3}
HALF, BRAIN, FULL = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT


def takes(op: str, position: int, element_type: int, opset: int = 18, domain: str = "") -> bool:
    """Whether an op takes an element type as an input."""
    node = helper.make_node(op, ["a", "b", "c"], ["y"], domain=domain)
    known = signature(node, {**OPSETS, "": opset})
    assert known is not None
    formal = known.input(position)
    assert formal is not None
    return formal.takes(element_type)


@pytest.mark.parametrize(
    "op, position, opset, half, brain",
    [
        ("MatMul", 0, 18, True, True),
        ("MatMul", 0, 12, True, False),  # before BF16
        ("CumSum", 0, 11, False, False),
        ("CumSum", 0, 14, True, True),
        ("Range", 0, 11, False, False),
        ("Resize", 0, 18, True, True),
        ("Resize", 2, 18, False, False),  # scales are FP32
        ("QuantizeLinear", 0, 13, False, False),
        ("QuantizeLinear", 0, 19, True, True),
        ("NonMaxSuppression", 0, 18, False, False),
        ("DynamicQuantizeLinear", 0, 18, False, False),
        ("Max", 3, 18, True, True),  # of any number of inputs
        ("Cos", 0, 18, True, False),
        ("SequenceInsert", 0, 18, True, False),
    ],
)
def test_inputs_of_onnx(op: str, position: int, opset: int, half: bool, brain: bool) -> None:
    assert takes(op, position, HALF, opset) == half
    assert takes(op, position, BRAIN, opset) == brain
    assert takes(op, position, FULL, opset)


def test_ops_of_onnx_runtime_and_of_classical_models_are_known_too() -> None:
    assert takes("Gelu", 0, HALF, domain="com.microsoft")
    assert takes("QAttention", 3, HALF, domain="com.microsoft")  # the scale of the input
    assert not takes("DynamicQuantizeMatMul", 0, HALF, domain="com.microsoft")
    assert not takes("Normalizer", 0, HALF, domain="ai.onnx.ml")


def test_outputs_have_types_of_their_own() -> None:
    node = helper.make_node("SkipLayerNormalization", [], [], domain="com.microsoft")
    known = signature(node, OPSETS)
    assert known is not None
    outputs = [known.output(position) for position in range(5)]
    assert [o.takes(HALF) if o else None for o in outputs] == [True, False, False, True, None]


def test_an_op_that_nobody_knows_has_no_signature() -> None:
    assert signature(helper.make_node("Foo", [], [], domain="acme"), OPSETS) is None
    assert signature(helper.make_node("Foo", [], []), OPSETS) is None
    of_later = helper.make_node("RMSNormalization", [], [])  # opset 23
    assert signature(of_later, {"": 12}) is None
    assert signature(of_later, {"": 23}) is not None


def test_a_domain_whose_version_the_file_does_not_tell_is_taken_at_its_newest() -> None:
    node = helper.make_node("Gelu", [], [], domain="com.microsoft")
    assert signature(node, {"": 18}) is not None


RUNS = [
    ("RandomNormal", {"shape": [2]}, [], "dtype"),
    ("RandomUniform", {"shape": [2]}, [], "dtype"),
    ("EyeLike", {}, [TensorProto.INT64], "dtype"),
    ("HannWindow", {}, [], "output_datatype"),
    ("ConstantOfShape", {}, [], ""),
    ("MeanVarianceNormalization", {"axes": [0]}, [HALF], ""),
    ("Selu", {}, [HALF], ""),
    ("HardSigmoid", {"alpha": 0.5}, [HALF], ""),
    ("ThresholdedRelu", {}, [HALF], ""),
    ("Mish", {}, [HALF], ""),
    ("HardSwish", {}, [HALF], ""),
    ("Elu", {}, [HALF], ""),
    ("Relu", {}, [HALF], ""),
]


@pytest.mark.parametrize("op, attributes, inputs, told", RUNS, ids=lambda value: str(value))
def test_what_has_no_kernel_is_what_onnx_runtime_does_not_load(
    op: str, attributes: dict[str, Any], inputs: list[int], told: str
) -> None:
    attributes = {**attributes, **({told: HALF} if told else {})}
    names = ["x" for _ in inputs]
    if op == "HannWindow":
        names = ["size"]
    if op == "ConstantOfShape":
        names = ["shape"]
        attributes["value"] = helper.make_tensor("", HALF, [1], [1.0])
    node = helper.make_node(op, names, ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "m",
        [helper.make_tensor_value_info("x", inputs[0], [2, 2])] if inputs else [],
        [helper.make_tensor_value_info("y", HALF, None)],
        [
            helper.make_tensor("size", TensorProto.INT64, [], [4]),
            helper.make_tensor("shape", TensorProto.INT64, [1], [4]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    dtype = np.float16 if inputs == [HALF] else np.int64
    feeds = {"x": np.ones((2, 2), dtype)} if inputs else {}
    try:
        run(model, **feeds)
        loads = True
    except Exception:
        loads = False
    known = signature(node, OPSETS)
    formal = None if known is None else known.output(0)
    assert formal is not None
    assert runs(node, OPSETS, formal.variable, HALF, casts=inputs == [HALF]) == loads


@pytest.mark.parametrize("reduction", [None, "none", "add", "mul", "max"])
@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
def test_kernels_that_do_not_keep_what_they_say(op: str, reduction: str | None) -> None:
    attributes = {} if reduction is None else {"reduction": reduction}
    node = helper.make_node(op, ["x", "i", "u"], ["y"], **attributes)
    index = "int64[1, 2]" if op == "ScatterElements" else "int64[1, 1]"
    text = f"m (float16[2, 2] x, {index} i, float16[1, 2] u) => (float16[2, 2] y) {{ }}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]>\n{text}')
    model.graph.node.append(node)
    feeds: Values = {
        "x": np.ones((2, 2), np.float16),
        "i": np.zeros((1, 2 if op == "ScatterElements" else 1), np.int64),
        "u": np.ones((1, 2), np.float16),
    }
    try:
        run(model, **feeds)
        does = True
    except Exception:
        does = False
    assert runs(node, OPSETS, "T", HALF, casts=True) == does
