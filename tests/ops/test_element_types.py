"""Element types, held against ONNX's own shape inference and against what ONNX Runtime makes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from slanc_onnx.errors import SlancError
from slanc_onnx.graph.load import load_model
from slanc_onnx.ops.body import UNKNOWN, Body, Held
from slanc_onnx.ops.element_types import read_bodies
from tests.models.float_graphs import BODIES, CONSTANTS, FUNCTIONS, PLAIN
from tests.models.float_kinds import Kind
from tests.models.float_ops import FUSED, ISLANDS, MIXED, QUANTISED
from tests.oracles.unoptimised import Values, run
from tests.places import SAMPLES, ZOO

KINDS = [*PLAIN, *CONSTANTS, *BODIES, *FUNCTIONS, *ISLANDS, *QUANTISED, *FUSED, *MIXED]
EXPORTS = sorted(path.parent for path in ZOO.glob("*/model.onnx"))


def inferred(graph: onnx.GraphProto) -> Iterator[tuple[str, Held]]:
    """What ONNX's shape inference says of the tensors that a graph itself defines."""
    for info in (*graph.input, *graph.value_info, *graph.output):
        if info.type.HasField("tensor_type") and info.type.tensor_type.elem_type:
            yield info.name, Held(info.type.tensor_type.elem_type)


def disagreements(model: onnx.ModelProto) -> tuple[list[str], int]:
    """Where a type is another than ONNX infers, and how many it infers."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    main = read_bodies(bare)[0]
    known = dict(inferred(onnx.shape_inference.infer_shapes(bare).graph))
    return [n for n, kind in known.items() if main.kinds.get(n) != kind], len(known)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_they_are_those_that_onnx_infers(kind: Kind) -> None:
    assert disagreements(kind.model)[0] == []


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_they_are_those_that_onnx_runtime_makes(kind: Kind) -> None:
    model = kind.model
    main = read_bodies(kind.model)[0]
    given = {info.name for info in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            held = main.kinds.get(name, UNKNOWN)
            if name and name not in given and held.element and not held.contained:
                model.graph.output.append(helper.make_empty_tensor_value_info(name))
    for name, value in run(model, **kind.feeds).items():
        held = main.kinds[name]
        assert helper.np_dtype_to_tensor_dtype(value.dtype) == held.element, name


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.onnx")), ids=lambda path: path.stem)
def test_of_samples_too(path: Path) -> None:
    wrong, count = disagreements(load_model(path))
    assert wrong == [] and count > 30


@pytest.mark.skipif(not EXPORTS, reason="no ../shared/zoo beside the checkout")
@pytest.mark.parametrize("folder", EXPORTS, ids=lambda path: path.name)
def test_of_exports_too(folder: Path) -> None:
    assert disagreements(load_model(folder / "model.onnx"))[0] == []


def body_of(text: str) -> Body:
    head = '<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1, "local": 1, "other": 1]>\n'
    return read_bodies(onnx.parser.parse_model(head + text))[0]


def test_a_file_that_is_not_sorted_is_read_all_the_same() -> None:
    body = body_of("m (float16[2] x) => (float16[2] y) { y = Neg(h) h = Exp(g) g = Tanh(x) }")
    assert {body.kind(name) for name in "ygh"} == {Held(TensorProto.FLOAT16)}


def test_an_op_that_nobody_knows_makes_the_floats_that_it_reads() -> None:
    body = body_of("m (int64[2] i, float[2] x) => (float[2] y) { y = other.Foo(i, x) }")
    assert body.kind("y") == Held(TensorProto.FLOAT)
    body = body_of("m (int64[2] i) => (float[2] z) { y = other.Foo(i) z = Exp(y) }")
    assert body.kind("y") == UNKNOWN


def test_an_outer_tensor_is_known_inside_and_an_inner_one_not_outside() -> None:
    body = body_of(
        "m (float[2] x, bool c) => (float[2] y) { y = If (c) <"
        "then_branch = t () => (float[2] a) { a = Neg(x) }, "
        "else_branch = e () => (float[2] b) { b = Exp(x) }> }"
    )
    inner = body.inner[0, "then_branch"]
    assert inner.defining("x") is body and inner.kind("x") == Held(TensorProto.FLOAT)
    assert body.kind("a") == UNKNOWN and inner.kind("a") == Held(TensorProto.FLOAT)


def test_what_a_sequence_or_an_optional_holds() -> None:
    body = body_of(
        "m (float[2] x) => (float[2] y) { s = SequenceConstruct(x, x) o = Optional(s) "
        "e = OptionalGetElement(o) n = SequenceEmpty<dtype = 10>() y = SequenceAt(e, zero) }"
    )
    assert body.kind("s") == body.kind("e") == Held(TensorProto.FLOAT, "s")
    assert body.kind("o") == Held(TensorProto.FLOAT, "os")
    assert body.kind("n") == Held(TensorProto.FLOAT16, "s")
    assert body.kind("y") == Held(TensorProto.FLOAT)


def test_a_function_that_is_called_with_two_types_gets_a_copy_and_one_that_is_not_none() -> None:
    text = (
        '<ir_version: 10, opset_import: ["": 18, "local": 1]>\n'
        "m (float[2] x, int64[2] i) => (float[2] y, float[2] z, int64[2] j) "
        "{ y = local.f(x) z = local.f(y) j = local.f(i) } "
        '<domain: "local", opset_import: ["": 18]> f (a) => (c) { c = Add(a, a) }'
    )
    model = onnx.parser.parse_model(text)
    bodies = read_bodies(model)
    assert [node.op_type for node in model.graph.node] == ["f", "f", "f_2"]
    assert [b.kind("c").element for b in bodies[1:]] == [TensorProto.FLOAT, TensorProto.INT64]
    onnx.checker.check_model(model, full_check=True)
    feeds: Values = {"x": np.ones(2, np.float32), "i": np.ones(2, np.int64)}
    assert run(model, **feeds)["j"].tolist() == [2, 2]


def test_a_function_with_types_of_its_caller_gets_them_or_their_default() -> None:
    text = (
        '<ir_version: 10, opset_import: ["": 18, "local": 1]>\n'
        "m (float[2] x) => (float16[2] y, double[2] z) "
        "{ y = local.f(x) z = local.f<to = 11>(x) } "
        '<domain: "local", opset_import: ["": 18]> f <to: int = 10> (a) => (c) '
        "{ c = Cast<to: int = @to>(a) }"
    )
    model = onnx.parser.parse_model(text)
    before = run(model, x=np.ones(2, np.float32))
    main = read_bodies(model)[0]
    assert main.kind("y").element == TensorProto.FLOAT16
    assert main.kind("z").element == TensorProto.DOUBLE
    after = run(model, x=np.ones(2, np.float32))
    assert {n: v.dtype for n, v in before.items()} == {n: v.dtype for n, v in after.items()}


def test_a_function_that_calls_itself_is_refused() -> None:
    with pytest.raises(SlancError, match="the function 'f' calls itself"):
        body_of(
            "m (float[2] x) => (float[2] y) { y = local.f(x) } "
            '<domain: "local", opset_import: ["": 18, "local": 1]> f (a) => (b) { b = local.f(a) }'
        )


@pytest.mark.parametrize("what", ["input", "output"])
@pytest.mark.parametrize("node", [0, 1, 2])
def test_a_node_without_what_it_reads_or_makes_is_refused(node: int, what: str) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]>\n'
        "m (int64[2] i) => (float[2] y) "
        "{ k = Constant<value_float = 1.0>() c = Cast<to = 1>(i) y = Add(c, k) }"
    )
    if node == 0 and what == "input":
        read_bodies(model)  # a Constant has none
        return
    del getattr(model.graph.node[node], what)[:]
    with pytest.raises(SlancError, match="Repair the model"):
        read_bodies(model)


def test_a_function_whose_nodes_cannot_be_ordered_is_refused() -> None:
    with pytest.raises(SlancError, match="the function 'f' has a circle"):
        body_of(
            "m (float[2] x) => (float[2] y) { y = local.f(x) } "
            '<domain: "local", opset_import: ["": 18]> f (x) => (y) '
            "{ a = Cast<to = 10>(b) b = Cast<to = 1>(a) y = Add(b, x) }"
        )
