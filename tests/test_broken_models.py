"""Models that break the rules: an error that says so, or the norm skipped; never a traceback."""

import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from slanc_onnx import Options, SlancError, compute_scales, find_norms, protect
from slanc_onnx.options import EstimateRule
from tests.conftest import Run
from tests.models.four_norms import four_norms
from tests.models.growing import decoder
from tests.models.small_graphs import Weights, between, graph, normal

SKIP = """
    h = Gather(table, ids)
    h2 = MatMul(h, w)
    [hot] a, mean, deviation, sum = com.microsoft.SkipLayerNormalization(h, h2, gamma, beta, bias)
    y = com.microsoft.SkipSimplifiedLayerNormalization(sum, a, gamma)
"""


def skip_norms(**other: Any) -> onnx.ModelProto:
    """Two Skip norms, with other weights."""
    ones = np.ones(8, np.float32)
    weights = {"table": normal(0, 11, 8), "w": normal(1, 8, 8), "gamma": ones}
    return graph(SKIP, {**weights, "beta": ones, "bias": ones, **other})


def node_of(model: onnx.ModelProto, name: str) -> NodeProto:
    found: NodeProto = next(node for node in model.graph.node if node.name == name)
    return found


def without_inputs() -> onnx.ModelProto:
    model = between("total = Identity(x)", {})
    next(n for n in model.graph.node if n.output[0] == "total").ClearField("input")
    return model


def with_attribute(attribute: AttributeProto) -> onnx.ModelProto:
    model = four_norms(leaky=False)
    node = node_of(model, "hot")
    kept = [a for a in node.attribute if a.name != attribute.name]
    del node.attribute[:]
    node.attribute.extend([*kept, attribute])
    return model


def noted(text: str) -> onnx.ModelProto:
    model = four_norms(leaky=False)
    node_of(model, "hot").metadata_props.add(key="slanc.scale", value=text)
    return model


def with_epsilon(value: float) -> onnx.ModelProto:
    model = four_norms(leaky=False)
    eps = next(t for t in model.graph.initializer if t.name == "eps")
    eps.CopyFrom(numpy_helper.from_array(np.array(value, np.float32), "eps"))
    return model


def without_heads() -> onnx.ModelProto:
    nodes = """flat = com.microsoft.MultiHeadAttention<num_heads = 4>(x, x, x)
        total = Add(x, flat)"""
    model = between(nodes, {})
    node = next(n for n in model.graph.node if n.op_type == "MultiHeadAttention")
    node.ClearField("attribute")
    return model


REFERENCE = AttributeProto(name="axis", type=AttributeProto.INT, ref_attr_name="outer")

# Title -> the model, what the error says, and the norms that --no-validate skips.
BROKEN: dict[str, tuple[Callable[[], onnx.ModelProto], str, set[str]]] = {
    "an attribute of another kind": (
        lambda: with_attribute(helper.make_attribute("axis", "last")),
        "norm 'hot': breaks the rules of LayerNormalization",
        {"hot"},
    ),
    "an attribute of a function around": (
        lambda: with_attribute(
            AttributeProto(name="axis", type=AttributeProto.INT, ref_attr_name="outer")
        ),
        "'axis' refers to an attribute of a function",
        {"hot"},
    ),
    "an axis out of range": (
        lambda: with_attribute(helper.make_attribute("axis", 7)),
        "normalises from axis 7 on of an input of 3 axes",
        {"hot"},
    ),
    "integers where floats belong": (
        lambda: skip_norms(bias=np.ones(8, np.uint8)),
        "its input is of type UINT8, no float",
        {"hot"},
    ),
    "a note that is nan": (lambda: noted("nan"), "slanc.scale = 'nan' is no scale", {"hot"}),
    "a note that is text": (lambda: noted("abc"), "slanc.scale = 'abc' is no scale", {"hot"}),
    "a note of zero": (lambda: noted("0"), "slanc.scale = '0' is no scale", {"hot"}),
    "a node without inputs": (without_inputs, "'total' (Identity), which norms depend on", set()),
    "attention without heads": (without_heads, "lacks the attribute 'num_heads'", set()),
}


def saved(model: onnx.ModelProto) -> None:
    Path("model.onnx").write_bytes(model.SerializeToString())


@pytest.mark.parametrize("title", BROKEN)
def test_what_a_norm_depends_on_is_named_where_it_cannot_be_validated(run: Run, title: str) -> None:
    model, message, _ = BROKEN[title]
    saved(model())
    status, _, err = run("model.onnx", "-o", "out.onnx")
    assert (status, err.count("\n"), Path("out.onnx").exists()) == (2, 1, False)
    assert message in err and "--no-validate" in err


@pytest.mark.parametrize("title", BROKEN)
@pytest.mark.parametrize("apply", ["div", "fold"])
def test_without_validation_the_other_norms_are_scaled(run: Run, title: str, apply: str) -> None:
    model, _, skipped = BROKEN[title]
    saved(model())
    options = ("--no-validate", "--apply", apply, "--report", "r.json")
    status, _, err = run("model.onnx", "-o", "out.onnx", *options)
    assert (status, err) == (0, "")
    norms = json.loads(Path("r.json").read_text())["norms"]
    assert {n["name"] for n in norms if n["status"] == "skipped"} >= skipped
    assert any(n["status"] == "scaled" for n in norms)
    before, after = onnx.load("model.onnx"), onnx.load("out.onnx")
    kept = [node.SerializeToString() for node in after.graph.node]
    for name in skipped:
        assert node_of(before, name).SerializeToString() in kept


def test_what_no_norm_depends_on_stops_nothing(run: Run) -> None:
    model = four_norms(leaky=False)
    model.graph.node.add(op_type="Softmax", input=["nobody"], output=["apart"])
    saved(model)
    status, out, err = run("model.onnx", "-o", "out.onnx")
    assert (status, err) == (1, "")  # ONNX Runtime does not take it, so it is not validated
    assert "not validated" in out and "4 norms: 4 scaled" in out
    assert Path("out.onnx").exists()


@pytest.mark.parametrize("value", [np.inf, np.nan, -1.0, 3e38])
def test_an_epsilon_that_no_norm_has_is_an_error(run: Run, value: float) -> None:
    saved(with_epsilon(value))
    status, _, err = run("model.onnx")
    assert (status, "has the epsilon" in err) == (2, True)


def test_data_in_the_model_file_itself_is_an_error(run: Run) -> None:
    model = four_norms(leaky=False)
    tensor = next(t for t in model.graph.initializer if t.name == "table")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="model.onnx")
    saved(model)
    status, _, err = run("model.onnx")
    assert (status, "in the model file itself" in err) == (2, True)


def empty_weight() -> onnx.ModelProto:
    return skip_norms(w=np.zeros((8, 0), np.float32))


def no_ids() -> onnx.ModelProto:
    model = skip_norms()
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        dim.dim_value = 0
    return model


def picked_by_picked() -> onnx.ModelProto:
    """A Gather whose index is a Gather, 15 deep: each has one axis more than the one before."""
    names = ["ids", *(f"i{k}" for k in range(15))]
    chain = "".join(f"{b} = Gather(numbers, {a}) " for a, b in pairwise(names))
    numbers = np.arange(121, dtype=np.int64).reshape(11, 11) % 11
    nodes = chain + "rows = Gather(table, i14) [n] y = LayerNormalization(rows, gamma)"
    weights: Weights = {
        "numbers": numbers,
        "table": normal(0, 11, 8),
        "gamma": np.ones(8, np.float32),
    }
    return graph(nodes, {**weights, "numbers": numbers})


def quantised_by_data() -> onnx.ModelProto:
    nodes = """
        packed = Cast<to = 2>(x)
        w = com.microsoft.MatMulNBits<K = 8, N = 8, block_size = 16, bits = 4>(x, packed, steps)
        total = Add(x, w)"""
    return between(nodes, {"steps": np.ones((8, 1), np.float32)})


@pytest.mark.parametrize("model", [empty_weight, no_ids, quantised_by_data, lambda: decoder(1)])
@pytest.mark.parametrize("estimate", ["auto", "weights", "probe"])
def test_odd_models_end_with_a_status(
    run: Run, model: Callable[[], onnx.ModelProto], estimate: str
) -> None:
    saved(model())
    started = time.monotonic()
    options = ("--estimate", estimate, "--no-validate", "--time-limit", "5")
    status, out, err = run("model.onnx", *options)
    skipped = status == 1 and "every norm was skipped" in out
    assert (status in (0, 2) or skipped) and "Traceback" not in out + err
    assert time.monotonic() - started < 100


def test_a_rank_that_grows_from_op_to_op_is_not_followed(run: Run) -> None:
    saved(picked_by_picked())
    status, out, err = run("model.onnx", "--estimate", "weights", "--no-validate")
    assert (status, err) == (1, "") and "every norm was skipped" in out


@pytest.mark.parametrize("title", BROKEN)
def test_a_model_in_memory_is_as_it_was_after_an_error(title: str) -> None:
    model = BROKEN[title][0]()
    model.graph.input.add().CopyFrom(model.graph.input[0])
    before = model.SerializeToString(deterministic=True)
    with pytest.raises(SlancError):
        protect(model)
    with pytest.raises(SlancError):
        find_norms(model)
    assert model.SerializeToString(deterministic=True) == before


def test_codes_in_names_do_not_reach_a_terminal(run: Run) -> None:
    model = four_norms(leaky=False)
    for node in model.graph.node:
        node.name = f"\x1b[2J{node.name}"
    saved(model)
    status, out, err = run("model.onnx", "--apply", "fold", "--explain-groups")
    assert status in (0, 1) and "\x1b" not in out + err and "\\x1b[2J" in out


ODD = {
    "a standard op of another domain with more inputs": "total = com.microsoft.Add(x, x, x)",
    "a loop that gives nothing": """
        total = Loop(three, "", x)
          <body = outer (int64 i, bool go, float[] v) => (bool on, float[] z) {
            = Loop(three, "", v)
              <body = inner (int64 j, bool more, float[] u) => (bool off, float[] t) {
                off = Identity(more)
                t = LayerNormalization(u, gamma) }>
            on = Identity(go)
            z = Identity(v) }>""",
    "an axis named twice": """
        m = ReduceMean(x, twice) c = Sub(x, m) q = Mul(c, c) v = ReduceMean(q, twice)
        s = Sqrt(v) total = Div(c, s)""",
}


@pytest.mark.parametrize("title", ODD)
def test_odd_nodes_are_not_read(title: str) -> None:
    weights = {"three": np.array(3), "twice": np.array([2, 2])}
    estimates: tuple[EstimateRule, ...] = ("weights", "auto")
    for estimate in estimates:
        decided = compute_scales(between(ODD[title], weights), Options(estimate=estimate))
        assert decided[-1].status in ("scaled", "skipped")
