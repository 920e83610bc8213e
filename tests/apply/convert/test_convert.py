"""Converting small models of every kind: they load, compute the same, and stay in FP32 nowhere else
than the schemas ask for."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slanc_onnx.accelerator import Accelerator, Format
from slanc_onnx.apply.convert.convert import Converted, convert
from slanc_onnx.apply.convert.weights import Weights
from slanc_onnx.errors import SlancError
from slanc_onnx.reasons import InFp32
from tests.models.float_graphs import BODIES, CONSTANTS, FUNCTIONS, PLAIN
from tests.models.float_kinds import Kind, W, X, floats
from tests.models.float_ops import FUSED, ISLANDS, MIXED, QUANTISED
from tests.oracles.half_file import apart, narrowed_feeds, round_trips
from tests.oracles.unoptimised import Values, run
from tests.versions import needs_onnx_runtime

KINDS = [*PLAIN, *CONSTANTS, *BODIES, *FUNCTIONS, *ISLANDS, *QUANTISED, *FUSED, *MIXED]
FP16_ERROR = 0.01  # of an output's largest element, after the few ops that these models have
PRODUCT = "m (float[2, 4] x) => (float[2, 4] y) { [n] y = MatMul(x, w) }"
each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


def converted(
    model: onnx.ModelProto, *, keep_io_types: bool = True, form: str = "float16"
) -> tuple[onnx.ModelProto, Converted]:
    """A copy of a model in 16 bits."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    accelerator = Accelerator(format=Format.named(form))
    return twin, convert(twin, Weights(), accelerator, keep_io_types=keep_io_types)


def checked(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)


def needs_its_onnx_runtime(kind: Kind) -> None:
    """Skip where ONNX Runtime computes FP16 graphs of a kind in another way than ONNX's text."""
    if kind.name == "QuantizeLinear and DequantizeLinear, 21":
        needs_onnx_runtime(1, 30, for_what="quantising in FP16")
    if kind.name == "an input that is an output and read inside":
        needs_onnx_runtime(1, 26, for_what="an input of FP16 that is an output")


@each_kind
def test_it_loads_and_computes_the_same_with_fp32_inputs_and_outputs(kind: Kind) -> None:
    needs_its_onnx_runtime(kind)
    after, _ = converted(kind.model)
    checked(after)
    assert round_trips(after) == []
    errors = apart(run(kind.model, **kind.feeds), run(after, **kind.feeds))
    assert all(error < FP16_ERROR for error in errors.values()), errors


@each_kind
def test_no_node_stays_in_fp32_but_for_its_schema_and_no_cast_is_wasted(kind: Kind) -> None:
    _, done = converted(kind.model)
    assert tuple(sorted(node.op for node in done.nodes)) == tuple(sorted(kind.full))
    assert (done.casts, done.removed) == (kind.casts, kind.removed)


@each_kind
def test_it_loads_and_computes_the_same_all_in_fp16(kind: Kind) -> None:
    needs_its_onnx_runtime(kind)
    after, _ = converted(kind.model, keep_io_types=False)
    checked(after)
    for info in (*after.graph.input, *after.graph.output):
        assert info.type.tensor_type.elem_type != TensorProto.FLOAT
    before, got = run(kind.model, **kind.feeds), run(after, **narrowed_feeds(kind.feeds))
    errors = apart(narrowed_feeds(before), got)
    assert all(error < FP16_ERROR for error in errors.values()), errors


@each_kind
def test_bf16_follows_the_rules_of_onnx(kind: Kind) -> None:
    if kind.opset < 13:
        pytest.skip("ONNX has BF16 since opset 13")
    after, _ = converted(kind.model, form="bfloat16")
    checked(after)
    assert round_trips(after, TensorProto.BFLOAT16) == []


@pytest.mark.parametrize("keep", [False, True])
@each_kind
def test_a_second_time_nothing_is_left_to_do(kind: Kind, keep: bool) -> None:
    once, first = converted(kind.model, keep_io_types=keep)
    twice, second = converted(once, keep_io_types=keep)
    assert (second.casts, second.removed, dict(second.weights)) == (0, 0, {})
    assert {node.name for node in second.nodes} == {node.name for node in first.nodes}
    assert twice == once


@each_kind
def test_names_of_inputs_outputs_and_nodes_are_kept(kind: Kind) -> None:
    after, _ = converted(kind.model)
    for before, now in (
        (kind.model.graph.input, after.graph.input),
        (kind.model.graph.output, after.graph.output),
    ):
        assert [info.SerializeToString() for info in before] == [
            info.SerializeToString() for info in now
        ]
    names = [node.name for node in after.graph.node if node.op_type != "Cast"]
    assert len(names) >= sum(node.op_type != "Cast" for node in kind.model.graph.node)


def parsed(text: str, opset: int = 18, ir: int = 10) -> onnx.ModelProto:
    head = f'<ir_version: {ir}, opset_import: ["": {opset}, "com.microsoft": 1, "acme": 1]>\n'
    return onnx.parser.parse_model(head + text)


def with_weights(model: onnx.ModelProto, **weights: object) -> onnx.ModelProto:
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()
    )
    return model


def agree(model: onnx.ModelProto, feeds: Values, keep_io_types: bool = True) -> onnx.ModelProto:
    """The model in FP16, which is checked to compute what it did."""
    after, _ = converted(model, keep_io_types=keep_io_types)
    if not model.graph.sparse_initializer:  # of which ONNX infers no shape
        checked(after)
    got = run(after, **(feeds if keep_io_types else narrowed_feeds(feeds)))
    expected = run(model, **feeds)
    errors = apart(expected if keep_io_types else narrowed_feeds(expected), got)
    assert all(error < FP16_ERROR for error in errors.values()), errors
    return after


@pytest.mark.parametrize("keep_io_types", [True, False])
def test_before_ir_4_a_weight_is_an_input_in_each_of_its_versions(keep_io_types: bool) -> None:
    text = (
        "m (float[1, 1, 4, 4] x, float[4] s) => (float[1, 1, 8, 8] y, float[4] z) "
        "{ y = Upsample(x, s) z = Add(s, s) }"
    )
    model = with_weights(parsed(text, 9, 3), s=np.array([1, 1, 2, 2], np.float32))
    del model.opset_import[1:]
    after = agree(model, {"x": floats(1, 1, 4, 4)}, keep_io_types)
    names = {tensor.name for tensor in after.graph.initializer}
    assert len(names) == 2 and names <= {info.name for info in after.graph.input}


@pytest.mark.parametrize("keep_io_types", [True, False])
@pytest.mark.parametrize("given", [{}, W], ids=["default", "overridden"])
def test_a_default_can_be_overridden_as_before(keep_io_types: bool, given: Values) -> None:
    text = "m (float[2, 4] x, float[4, 4] w) => (float[2, 4] y) { y = MatMul(x, w) }"
    model = with_weights(parsed(text), w=2 * W["w"])
    agree(model, {**X, **given}, keep_io_types)


SPARSE = helper.make_sparse_tensor(
    helper.make_tensor("w", TensorProto.FLOAT, [2], [1.5, 2.5]),
    helper.make_tensor("at", TensorProto.INT64, [2], [0, 5]),
    [4, 4],
)
IF = (
    "m (float[2, 4] x, bool b) => (float[2, 4] y) {{ r = If (b) <"
    "then_branch = t () => (float[2, 4] p) {{ {then} }}, "
    "else_branch = e () => (float[2, 4] q) {{ q = Neg(x) }}> y = Neg(r) }}"
)


def test_sparse_weights_are_narrowed_too() -> None:
    model = parsed("m (float[2, 4] x) => (float[2, 4] y) { y = MatMul(x, w) }")
    model.graph.sparse_initializer.append(SPARSE)
    after = agree(model, X)
    assert after.graph.sparse_initializer[0].values.data_type == TensorProto.FLOAT16


def test_sparse_weights_of_a_branch_and_of_a_constant_too() -> None:
    model = parsed(IF.format(then="p = MatMul(x, w)"))
    model.graph.node[0].attribute[0].g.sparse_initializer.append(SPARSE)
    feeds: Values = {**X, "b": np.array(True)}
    after, _ = converted(model)
    assert apart(run(model, **feeds), run(after, **feeds)).get("y", 0.0) < FP16_ERROR
    model = parsed("m (float[2, 4] x) => (float[2, 4] y) { y = MatMul(x, w) }")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=SPARSE))
    after, done = converted(model)
    assert done.casts == 2
    assert apart(run(model, **X), run(after, **X)).get("y", 0.0) < FP16_ERROR


def test_a_branch_that_is_nothing_but_a_weight() -> None:
    model = parsed(IF.format(then=""))
    weight = numpy_helper.from_array(X["x"], "p")
    model.graph.node[0].attribute[0].g.initializer.append(weight)
    agree(model, {**X, "b": np.array(True)})


def test_strings_doubles_and_empty_tensors_stay_what_they_are() -> None:
    text = (
        "m (float[2, 4] x) => (float[2, 4] y, string[1] t) { t = Identity(s) d = Cast<to = 11>(x) "
        "e = Mul(d, dd) f = Cast<to = 1>(e) g = Concat<axis = 0>(f, none) y = Add(g, x) }"
    )
    model = with_weights(
        parsed(text),
        s=np.array(["a"], object),
        dd=np.array([2.5]),
        none=np.zeros((0, 4), np.float32),
    )
    after, _ = converted(model)
    checked(after)
    got, expected = run(after, **X), run(model, **X)
    assert got["t"] == expected["t"]
    np.testing.assert_allclose(got["y"], expected["y"], rtol=0.01)


def test_a_file_whose_nodes_are_not_sorted_is_converted_as_it_stands() -> None:
    model = parsed("m (float[2, 4] x) => (float[2, 4] y) { y = Neg(h) h = Exp(x) }")
    after, _ = converted(model)
    assert [node.op_type for node in after.graph.node if node.op_type != "Cast"] == ["Neg", "Exp"]
    errors = apart(run(model, **X), run(after, **X))
    assert all(error < FP16_ERROR for error in errors.values())


def test_an_op_that_nobody_knows_stays_as_it_is() -> None:
    model = parsed("m (float[2] x) => (float[2] y) { h = Exp(x) g = acme.Foo(h) y = Neg(g) }")
    after, done = converted(model)
    checked(after)
    assert [(node.op, node.why.kind) for node in done.nodes] == [("Foo", InFp32.NO_SCHEMA)]
    assert done.casts == 4


def test_a_model_without_an_op_of_onnx_gets_its_opset_for_the_casts() -> None:
    text = (
        '<ir_version: 10, opset_import: ["com.microsoft": 1]>\n'
        "m (float[2, 4] x) => (float[2, 4] y) { y = com.microsoft.Gelu(x) }"
    )
    agree(onnx.parser.parse_model(text), X)


def test_what_the_file_says_of_itself_stays() -> None:
    model = with_weights(
        parsed("m (float[2, 4] x) => (float[2, 4] y) { [n] y = MatMul(x, w) }"), **W
    )
    model.doc_string, model.producer_name, model.model_version = "doc", "me", 7
    model.graph.doc_string = "graph"
    model.graph.node[0].doc_string = "node"
    model.graph.initializer[0].doc_string = "weight"
    model.metadata_props.add(key="a", value="b")
    model.graph.node[0].metadata_props.add(key="c", value="d")
    after, _ = converted(model)
    for field in ("doc_string", "producer_name", "model_version", "metadata_props", "opset_import"):
        assert getattr(after, field) == getattr(model, field)
    assert after.graph.doc_string == "graph"
    product = next(node for node in after.graph.node if node.name == "n")
    assert product.doc_string == "node" and product.metadata_props[0].key == "c"
    assert after.graph.initializer[0].doc_string == "weight"


def test_an_old_opset_is_refused_for_bf16_and_taken_for_fp16() -> None:
    model = with_weights(
        parsed("m (float[2, 4] x) => (float[2, 4] y) { y = MatMul(x, w) }", 12), **W
    )
    with pytest.raises(SlancError, match="opset 12 knows no BF16"):
        converted(model, form="bfloat16")
    agree(model, X)


@pytest.mark.parametrize("opset", range(7, 24))
def test_every_opset(opset: int) -> None:
    text = "m (float[2, 4] x) => (float[2, 4] y) { h = MatMul(x, w) t = Tanh(h) y = Add(t, x) }"
    model = with_weights(parsed(text, opset), **W)
    after, done = converted(model)
    assert done.nodes == () and done.casts == 2
    agree(model, X)
    assert after.ir_version == model.ir_version


def test_names_that_are_taken_are_not_taken_again() -> None:
    text = (
        'm (float[2, 4] x) => (float[2, 4] y) { ["x/Cast"] "x/fp16" = Exp(x) '
        '["y/Cast"] "y/fp16" = Neg("x/fp16") ["a"] y = Add("x/fp16", "y/fp16") }'
    )
    after = agree(parsed(text), X)
    names = [node.name for node in after.graph.node]
    assert len(set(names)) == len(names) == 5
    assert {"x/Cast", "y/Cast", "a"} < set(names)


def test_onnx_runtimes_own_converter_comes_to_the_same_numbers() -> None:
    """On a small model in which nothing is hard, as an oracle that shares no code."""
    half = pytest.importorskip("onnxruntime.transformers.float16")
    text = (
        "m (float[2, 4] x) => (float[2, 4] y) { h = MatMul(x, w) a = Add(h, b) t = Gelu(a) "
        "n = LayerNormalization(t, g, b) p = MatMul(n, v) s = Softmax(p) y = Mul(s, x) }"
    )
    model = with_weights(
        parsed(text, 20), w=W["w"], v=floats(4, 4, seed=5), b=floats(4, seed=6), g=floats(4, seed=7)
    )
    after, _ = converted(model)
    theirs = half.convert_float_to_float16(model, keep_io_types=True)
    expected, got = run(theirs, **X)["y"], run(after, **X)["y"]
    np.testing.assert_array_equal(got, expected)


def test_a_file_that_can_be_trained_is_refused() -> None:
    model = PLAIN[0].model
    trained = onnx.ModelProto()
    trained.CopyFrom(model)
    trained.training_info.add().algorithm.name = "step"
    with pytest.raises(SlancError, match="training_info"):
        converted(trained)
