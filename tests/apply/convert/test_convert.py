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
from tests.models.float_graphs import BODIES, CONSTANTS, FUNCTIONS, PLAIN
from tests.models.float_kinds import Kind, W, X, floats
from tests.models.float_ops import FUSED, ISLANDS, MIXED, QUANTISED
from tests.oracles.half_file import apart, narrowed_feeds, round_trips
from tests.oracles.unoptimised import run

KINDS = [*PLAIN, *CONSTANTS, *BODIES, *FUNCTIONS, *ISLANDS, *QUANTISED, *FUSED, *MIXED]
FP16_ERROR = 0.01  # of an output's largest element, after the few ops that these models have
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


@each_kind
def test_it_loads_and_computes_the_same_with_fp32_inputs_and_outputs(kind: Kind) -> None:
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


@each_kind
def test_a_second_time_nothing_is_left_to_do(kind: Kind) -> None:
    once, first = converted(kind.model, keep_io_types=False)
    twice, second = converted(once, keep_io_types=False)
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
