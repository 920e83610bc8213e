"""What shape inference is told of fused ops is what ONNX Runtime makes of them."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slanc_onnx.graph import read_graph
from slanc_onnx.graph.contrib import CONTRIB
from slanc_onnx.graph.stand_ins import stand_ins
from tests.oracles.unoptimised import run

# Op -> the shapes of its inputs ("i" before those of whole numbers), its outputs, its attributes.
CASES: dict[str, tuple[tuple[tuple[int, ...] | str, ...], int, dict[str, Any]]] = {
    "BiasGelu": (((2, 3, 8), (8,)), 1, {}),
    "EmbedLayerNormalization": (
        ("ids", "", (9, 8), (5, 8), "", (8,), (8,)),
        3,
        {"epsilon": 1e-5},
    ),
    "FastGelu": (((2, 3, 8), (8,)), 1, {}),
    "Gelu": (((2, 3, 8),), 1, {}),
    "QuickGelu": (((2, 3, 8),), 1, {"alpha": 1.7}),
    "SimplifiedLayerNormalization": (((2, 3, 8), (8,)), 1, {"axis": -1}),
    "SkipLayerNormalization": (((2, 3, 8), (2, 3, 8), (8,)), 4, {}),
    "SkipSimplifiedLayerNormalization": (((2, 3, 8), (1, 3, 8), (8,)), 4, {}),
}
NO_KERNEL = {"GroupNorm", "SkipGroupNorm"}  # for a CPU


def domain_of(op: str) -> str:
    return "" if op == "SimplifiedLayerNormalization" else "com.microsoft"


def model_of(op: str, opset: int = 17, *, behind: str = "Identity") -> onnx.ModelProto:
    """The op between graph inputs of open batch, and an op that onnx knows behind each output."""
    shapes, count, attributes = CASES[op]
    told, names, weights = [], [], []
    for place, shape in enumerate(shapes):
        name = f"in{place}" if shape else ""
        names.append(name)
        if shape == "ids":
            told.append(helper.make_tensor_value_info(name, TensorProto.INT32, ["b", 3]))
        elif shape and len(shape) == 3:
            sizes = ["b" if size == 2 else size for size in shape]
            told.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
        elif shape:
            assert not isinstance(shape, str)
            values = np.random.default_rng(place).standard_normal(shape).astype(np.float32)
            weights.append(numpy_helper.from_array(values, name))
    wanted = set(CONTRIB[op].stand_in.outputs)  # type: ignore[union-attr]
    made = [f"out{place}" if place in wanted or place == 1 else "" for place in range(count)]
    nodes = [helper.make_node(op, names, made, domain=domain_of(op), **attributes)]
    ends = []
    for name in (f"out{place}" for place in sorted(wanted)):
        nodes.append(helper.make_node(behind, [name], [f"{name}_end"]))
        ends.append(helper.make_empty_tensor_value_info(f"{name}_end"))
    graph = helper.make_graph(nodes, "g", told, ends, weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, ir_version=8, opset_imports=opsets)


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("op", sorted(CASES))
def test_shapes_and_types_are_those_of_onnx_runtime(op: str, opset: int) -> None:
    model = model_of(op, opset)
    feed = {
        info.name: np.zeros((2, 3), np.int32)
        if info.type.tensor_type.elem_type == TensorProto.INT32
        else np.ones(
            [2 if d.dim_param else d.dim_value for d in info.type.tensor_type.shape.dim], np.float32
        )
        for info in model.graph.input
    }
    (main,) = read_graph(model)
    for name, value in run(model, **feed).items():
        told = main.tensors[name]
        assert told.dtype == value.dtype
        assert told.shape is not None
        assert [2 if size == "b" else size for size in told.shape] == list(value.shape)


def test_each_op_that_has_a_stand_in_is_tried() -> None:
    having = {op for op, signature in CONTRIB.items() if signature.stand_in is not None}
    assert having == CASES.keys() | NO_KERNEL


def test_types_are_those_of_the_schemas_of_onnx_runtime() -> None:
    state = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
    schemas = {(s.domain, s.name): s for s in state.get_all_operator_schema()}
    for op, signature in CONTRIB.items():
        like, schema = signature.stand_in, schemas.get((domain_of(op), op))
        if like is not None and schema is not None:
            for place in like.outputs:
                assert schema.outputs[place].typeStr == schema.inputs[like.inputs[0]].typeStr


def test_the_type_of_an_rms_norm_is_that_of_its_gamma() -> None:
    model = model_of("SimplifiedLayerNormalization")
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    (main,) = read_graph(model)
    assert main.tensors["out0_end"].dtype == np.float32


def test_shapes_are_known_in_a_subgraph_and_no_node_is_lost() -> None:
    inner = model_of("SkipLayerNormalization").graph
    branch = helper.make_graph(list(inner.node), "b", [], [inner.output[0]])
    other = helper.make_graph(list(inner.node), "c", [], [inner.output[0]])
    node = helper.make_node("If", ["on"], ["y"], then_branch=branch, else_branch=other)
    told = [*inner.input, helper.make_tensor_value_info("on", TensorProto.BOOL, [])]
    ends = [helper.make_empty_tensor_value_info("y")]
    graph = helper.make_graph([node], "g", told, ends, list(inner.initializer))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    scopes = read_graph(helper.make_model(graph, ir_version=8, opset_imports=opsets))
    assert len(scopes) == 3
    for scope in scopes[1:]:
        assert [n.op for n in scope.graph.nodes] == [n.op_type for n in scope.proto.node]
        assert scope.tensors["out3_end"].shape == ["b", 3, 8]


def function(op: str) -> onnx.FunctionProto:
    """A function of the name of an op, which gives the sum of a row."""
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_function("com.microsoft", op, ["x"], ["y"], nodes, opsets)


def test_a_function_of_the_model_is_not_the_op_of_its_name() -> None:
    model = model_of("Gelu")
    model.functions.append(function("Gelu"))
    (main,) = read_graph(model)
    assert main.tensors["out0"].shape is None


@pytest.mark.parametrize("domain", ["mine", "ai.onnx.ml"])
def test_an_op_of_another_domain_is_not_known(domain: str) -> None:
    model = model_of("Gelu")
    model.graph.node[0].domain = domain
    model.opset_import.append(helper.make_opsetid(domain, 1))
    (main,) = read_graph(model)
    assert main.tensors["out0"].shape is None


def test_onnx_follows_itself_what_it_knows() -> None:
    assert not stand_ins(helper.make_node("Gelu", ["x"], ["y"]), ())
    assert stand_ins(helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"), ())


def test_a_size_below_nothing_is_found_behind_a_fused_op() -> None:
    """A Slice of it would end the process in which shapes are inferred."""
    model = model_of("Gelu")
    pads = numpy_helper.from_array(np.array([0, 0, -9, 0, 0, 0]), "pads")
    ends = [numpy_helper.from_array(np.array([n]), f"n{n}") for n in (1, 0)]
    model.graph.initializer.extend([pads, *ends])
    model.graph.node.extend(
        [
            helper.make_node("Pad", ["out0", "pads"], ["cut"]),
            helper.make_node("Slice", ["cut", "n0", "n1", "n0"], ["end"]),
        ]
    )
    (main,) = read_graph(model)
    assert [n.op for n in main.graph.nodes if main.fault(n) is not None] == ["Pad"]
