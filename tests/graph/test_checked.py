"""What is checked where a model is read: the file as a whole, and each node by its schema."""

import os
import signal
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from slanc_onnx import Options, SlancError, compute_scales, find_norms
from slanc_onnx.graph import can_fork
from slanc_onnx.graph.checked import check_model, node_faults
from slanc_onnx.graph.contrib import CONTRIB
from slanc_onnx.graph.scope import op_of, read_graph
from slanc_onnx.graph.shapes import concrete_shapes
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.reasons import Fault, Reason
from slanc_onnx.report.wording import reason_text
from slanc_onnx.run.isolation import isolated
from tests.models.four_norms import four_norms
from tests.models.growing import decoder, nested_loops
from tests.models.small_graphs import graph, normal

Change = Callable[[onnx.ModelProto], object]


def node_of(model: onnx.ModelProto, op: str) -> NodeProto:
    found: NodeProto = next(node for node in model.graph.node if node.op_type == op)
    return found


def retyped(name: str, attribute: AttributeProto) -> Change:
    """Gives the LayerNorm "hot" another attribute of a name."""

    def change(model: onnx.ModelProto) -> None:
        node = node_of(model, "LayerNormalization")
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, attribute])

    return change


def refers_outside(model: onnx.ModelProto) -> None:
    attribute = node_of(model, "LayerNormalization").attribute[0]
    attribute.ClearField("i")
    attribute.ref_attr_name = "outer"


FAULTS: dict[str, tuple[Change, str, str]] = {
    "an attribute of another kind": (
        retyped("axis", helper.make_attribute("axis", [1.5])),
        "LayerNormalization",
        "axis",
    ),
    "an attribute that is a graph": (
        retyped("axis", helper.make_attribute("axis", helper.make_graph([], "g", [], []))),
        "LayerNormalization",
        "'axis' is",
    ),
    "a reference outside a function": (refers_outside, "LayerNormalization", "refers to an"),
    "an attribute told twice": (
        lambda m: node_of(m, "LayerNormalization").attribute.add(name="axis", type=2, i=1),
        "LayerNormalization",
        "'axis' more than once",
    ),
    "no inputs": (lambda m: node_of(m, "ReduceMean").ClearField("input"), "ReduceMean", "input"),
    "an axis out of range": (
        lambda m: node_of(m, "ReduceMean").attribute[0].ints.__setitem__(0, 7),
        "ReduceMean",
        "axis must be in",
    ),
    "a tensor that nothing makes": (
        lambda m: node_of(m, "Sqrt").input.__setitem__(0, "nobody"),
        "Sqrt",
        "'nobody', which nothing makes",
    ),
    "an If without a branch": (
        lambda m: node_of(m, "If").attribute.pop(),
        "If",
        "lacks the attribute",
    ),
}


AXES = "i0 = Identity(ids) {steps} rows = Gather(table, i6) [n] y = LayerNormalization(rows, gamma)"
DOUBLED = "i{now} = Gather(i{before}, i{before})"  # has twice the axes less one, 2^n + 1 behind n
CUT = """
    rows = Gather(table, ids) turned = Transpose<perm = [0, 2, 1]>(rows)
    less = Conv(turned, kernel) cut = Slice(less, zero, one, two)
    [n] y = LayerNormalization(cut, gamma)"""
NORM = {"table": normal(0, 11, 8), "gamma": np.ones(8, np.float32)}


def test_a_node_that_gives_more_axes_than_there_are_is_a_fault() -> None:
    steps = " ".join(DOUBLED.format(now=i + 1, before=i) for i in range(40))
    faults = node_faults(graph(AXES.format(steps=steps), NORM))[()]
    assert faults[6] == Reason(Fault.SO_MANY_AXES, ("i6", 65))
    assert compute_scales(graph(AXES.format(steps=steps), NORM))[0].status == "skipped"


@pytest.mark.parametrize("length", [2, "sequence"])
def test_a_convolution_of_less_than_its_kernel_does_not_end_the_process(length: int | str) -> None:
    integers = {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2])}
    model = graph(CUT, {**NORM, **integers, "kernel": normal(1, 8, 8, 16)})
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", length])
    )

    def read(_: Progress) -> list[str]:
        return [n.status for n in compute_scales(model, Options(estimate="weights"))]

    assert len(isolated(read, no_progress, 60.0, apart=True)) == 1  # onnx aborts it
    expected = Reason(Fault.NO_SUCH_SIZES, ("less", (0, 8, -13)))
    assert node_faults(model) == ({(): {2: expected}} if length == 2 else {})


@pytest.mark.skipif(not can_fork(), reason="onnx has no process of its own here")
@pytest.mark.parametrize("ends", ["dies", "never", "raises", "takes all memory"])
def test_what_ends_onnx_leaves_the_shapes_unknown(
    monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """In a process of its own; the nodes are still checked by their schemas."""
    model = four_norms()
    node_of(model, "Sqrt").input[0] = "nobody"
    parent = os.getpid()

    def end(*_: object, **__: object) -> None:
        assert os.getpid() != parent
        if ends == "dies":
            os.kill(os.getpid(), signal.SIGSEGV)
        if ends == "never":
            while True:
                pass
        if ends == "takes all memory":
            np.ones(2**28)
        raise RuntimeError

    monkeypatch.setattr("slanc_onnx.graph.apart._SECONDS", 1)
    monkeypatch.setattr("onnx.shape_inference.infer_shapes", end)
    monkeypatch.setattr("onnx.shape_inference.infer_node_outputs", end)
    main = read_graph(model, isolate=True)[0]
    assert Reason(Fault.NOBODY_MAKES, ("nobody",)) in main.faults.values()
    assert concrete_shapes(main, {"ids": (1, 1)}) == {}


@pytest.mark.parametrize("opset", [0, 17, 99])
def test_an_op_takes_no_fewer_inputs_in_an_opset_that_nobody_knows(opset: int) -> None:
    model = four_norms()
    model.opset_import[0].version = opset
    node_of(model, "Mul").input.pop()
    index = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Mul")
    assert index in node_faults(model)[()]


@pytest.mark.parametrize("title", FAULTS)
def test_a_node_that_breaks_the_rules_of_its_op_is_a_fault(title: str) -> None:
    change, op, message = FAULTS[title]
    model = four_norms()
    assert node_faults(model) == {}
    change(model)
    ((index, reason),) = node_faults(model)[()].items()
    assert model.graph.node[index].op_type == op
    assert message in reason_text(reason)


def test_a_scope_shows_a_fault_as_an_op_that_nobody_knows() -> None:
    model = four_norms()
    refers_outside(model)
    main = read_graph(model)[0]
    node = next(n for n in main.graph.nodes if n.op == "LayerNormalization")
    assert (op_of(node), dict(node.attrs)) == ("", {})
    assert main.fault(node) == Reason(Fault.REFERS_OUTSIDE, ("axis",))


def test_a_contrib_op_without_an_attribute_that_it_must_have_is_a_fault() -> None:
    model = decoder(1)
    model.opset_import.add(domain="com.microsoft", version=1)
    node = helper.make_node("MultiHeadAttention", ["x"], ["z"], domain="com.microsoft")
    model.graph.node.insert(0, node)
    assert node_faults(model)[()][0] == Reason(Fault.LACKS_ATTRIBUTE, ("num_heads",))
    model.graph.node[0].attribute.add(name="num_heads", type=AttributeProto.INT, i=0)
    assert node_faults(model)[()][0] == Reason(Fault.COUNTS_NOTHING, ("num_heads", 0))


def test_a_fault_in_a_subgraph_is_that_of_its_node_alone() -> None:
    model = nested_loops(2)
    inner = model.graph.node[0].attribute[0].g.node[0].attribute[0].g
    inner.node[0].ClearField("attribute")
    assert node_faults(model) == {}  # an axis may be left out
    inner.node[0].input.append("nobody")
    (path,) = node_faults(model)
    assert [name for _, name in path] == ["body", "body"]


def test_a_loop_by_an_empty_count_is_a_fault_as_onnx_runtime_dies_of_it() -> None:
    model = nested_loops(1)
    (two,) = [t for t in model.graph.initializer if t.name == "two"]
    two.CopyFrom(numpy_helper.from_array(np.zeros(0, np.int64), "two"))
    assert node_faults(model)[()][0] == Reason(Fault.NO_SINGLE_VALUE, ("two",))


def test_the_table_of_contrib_ops_is_that_of_onnx_runtime() -> None:
    state = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
    own = {s.name: s for s in state.get_all_operator_schema() if s.domain == "com.microsoft"}
    for op, signature in CONTRIB.items():
        if op not in own or own[op].since_version != 1:
            continue
        names = {n for kinds in signature.kinds.values() for n in kinds.split()}
        must = {n for n, a in own[op].attributes.items() if a.required}
        assert {n.removesuffix("!") for n in names if n.endswith("!")} == must
        assert signature.least == own[op].min_input


def not_utf8(model: onnx.ModelProto) -> bytes:
    whole: bytes = model.SerializeToString()
    return whole.replace(b"LayerNormalization", b"Layer\xfformalization", 1)


def reshaped(*dims: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)

    return change


def retyped_weight(element_type: int) -> Change:
    return lambda model: setattr(model.graph.initializer[0], "data_type", element_type)


NO_MODEL: dict[str, tuple[Change, str]] = {
    "a weight of the name of an output": (
        lambda m: m.graph.initializer.add(name=node_of(m, "Sqrt").output[0], data_type=1),
        "'deviation' names 2 tensors",
    ),
    "an input twice": (
        lambda m: m.graph.input.add().CopyFrom(m.graph.input[0]),
        "'ids' names 2 tensors of one graph",
    ),
    "an output of two nodes": (
        lambda m: m.graph.node.add().CopyFrom(node_of(m, "Sqrt")),
        "'deviation' names 2 tensors",
    ),
    "an input without a name": (lambda m: m.graph.input[0].ClearField("name"), "has no name"),
    "dims below zero": (reshaped(-1, 4), "has the shape [-1, 4], which no data fills"),
    "giant dims": (reshaped(2**62, 4), "which no data fills"),
    "giant dims beside 0": (reshaped(2**62, 0), "which no data fills"),
    "an element type of nobody": (retyped_weight(99), "has the element type 99"),
    "no element type": (retyped_weight(TensorProto.UNDEFINED), "has the element type 0"),
    "a giant input": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 2**62),
        "which no machine holds",
    ),
}


@pytest.mark.parametrize("title", NO_MODEL)
def test_what_no_runtime_reads_as_a_model_is_refused(title: str) -> None:
    change, message = NO_MODEL[title]
    model = four_norms()
    change(model)
    with pytest.raises(SlancError) as refused:
        check_model(model)
    assert message in str(refused.value)


def test_a_text_that_is_no_utf8_is_refused_wherever_it_stands() -> None:
    model = onnx.ModelProto.FromString(not_utf8(four_norms()))
    with pytest.raises(SlancError, match="no UTF-8"):
        find_norms(model)


def test_an_empty_weight_is_no_fault() -> None:
    model = four_norms()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((0, 4096), np.float32), "w"))
    check_model(model)
