"""Every op of ONNX and of ONNX Runtime that holds a norm is read, or is a suspect."""

import re

import onnx
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as state

from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_in
from slanc_onnx.norms.suspects import is_called_norm
from slanc_onnx.ops import FUSED, HOLDING, INTERNAL
from slanc_onnx.reasons import Untaken
from slanc_onnx.report.wording import reason_text
from tests.versions import ONNX_RUNTIME

DOMAINS = ("", "ai.onnx.ml", "com.microsoft")
REGIONS = {"BatchNormalization", "LpNormalization", "MeanVarianceNormalization"}
# What is called so and is none: text, random numbers, a choice of experts, a window's factor.
NOT_NORMS = {"StringNormalizer", "RandomNormal", "RandomNormalLike", "Irfft", "Rfft"}
SHARES = {"normalize_routing_weights"}
EPSILON = re.compile("epsilon|eps$")


def schemas() -> dict[tuple[str, str], tuple[list[str], list[str]]]:
    """The inputs and the attributes of every op, as both packages have them."""
    found: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for schema in (*onnx.defs.get_all_schemas_with_history(), *state.get_all_operator_schema()):
        if schema.domain in DOMAINS:
            inputs = [formal.name for formal in schema.inputs]
            found[schema.domain, schema.name] = inputs, list(schema.attributes)
    return found


def normalises(op: str, inputs: list[str], attributes: list[str]) -> bool:
    """Whether the names say that an op holds a norm."""
    named = [name for name in (*inputs, *attributes) if "norm" in name.lower()]
    told = [name for name in attributes if EPSILON.search(name) and name != "routing_epsilon"]
    return is_called_norm(op) or bool({*named} - SHARES) or bool(told)


def test_every_op_whose_names_tell_of_a_norm_is_accounted_for() -> None:
    known = {*FUSED, *INTERNAL, *HOLDING, *REGIONS, *NOT_NORMS}
    told = {key for key, parts in schemas().items() if normalises(key[1], *parts)}
    assert len(told) > (25 if ONNX_RUNTIME >= (1, 30) else 18)  # an older one has fewer
    open_ops = {op for _, op in told - {key for key in told if is_called_norm(key[1])}} - known
    assert open_ops == set()


def test_the_positions_are_those_of_the_weights() -> None:
    every = schemas()
    for op, by in HOLDING.items():
        if ("com.microsoft", op) not in every:
            continue  # an older ONNX Runtime
        inputs, attributes = every["com.microsoft", op]
        if isinstance(by, str):
            assert by in attributes
        else:
            if ONNX_RUNTIME < (1, 31):  # where some of these ops have fewer inputs
                by = tuple(p for p in by if p < len(inputs))
            assert by == tuple(p for p, name in enumerate(inputs) if "norm" in name)


def with_op(op: str, domain: str, inputs: int, **attributes: int) -> onnx.ModelProto:
    names = [f"x{n}" for n in range(inputs)]
    node = onnx.helper.make_node(op, names, ["y"], "it", domain=domain)
    node.attribute.extend(onnx.helper.make_attribute(k, value) for k, value in attributes.items())
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 8]) for n in names]
    graph = onnx.helper.make_graph([node], "g", values, [onnx.ValueInfoProto(name="y")])
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets)


@pytest.mark.parametrize("op", HOLDING)
def test_an_op_that_holds_a_norm_is_a_suspect(op: str) -> None:
    by = HOLDING[op]
    switch = {by: 1} if isinstance(by, str) else {}
    model = with_op(op, "com.microsoft", 20 if switch == {} else 3, **switch)
    (suspect,) = find_in(read_graph(model)).suspects
    assert (suspect.name, suspect.op, suspect.reason.kind) == ("it", op, Untaken.INSIDE)
    assert "export the norm as an op of its own" in reason_text(suspect.reason)


@pytest.mark.parametrize("op", HOLDING)
def test_without_its_norm_it_is_none(op: str) -> None:
    by = HOLDING[op]
    model = with_op(op, "com.microsoft", 1 if isinstance(by, str) else by[0])
    assert find_in(read_graph(model)).suspects == []


@pytest.mark.parametrize("op", ["GatedRMSNorm", "BranchwiseRMSNorm", "QOrderedLayerNormalization"])
def test_a_norm_of_the_runtime_that_is_not_read_is_a_suspect(op: str) -> None:
    (suspect,) = find_in(read_graph(with_op(op, "com.microsoft", 3))).suspects
    assert suspect.op == op and len(reason_text(suspect.reason)) > 20


def test_a_normaliser_of_text_is_none() -> None:
    model = with_op("StringNormalizer", "", 1)
    assert find_in(read_graph(model)).suspects == []
