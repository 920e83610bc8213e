"""Every rule of the proof, held against ONNX Runtime on rows within what it was told."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.sets import Box, Ellipsoids
from slanc_onnx.prove.trusted import rules  # noqa: F401  # they enter themselves
from slanc_onnx.prove.trusted.computed import computer
from slanc_onnx.prove.trusted.kinds import FLOATS
from slanc_onnx.prove.trusted.table import RULES, Call, applied, rule_for
from slanc_onnx.prove.trusted.values import Constant, Operand, Value
from tests.oracles.in_sets import holds
from tests.oracles.rule_nodes import SAMPLES, Array, Rows, Sample
from tests.versions import needs_onnx_runtime

LONGEST = 5.0  # rows of the activations that are given


def name_of(sample: Sample) -> str:
    inputs = [
        f"{given.axes}{given.dims}" if isinstance(given, Rows) else getattr(given, "shape", given)
        for given in sample.inputs
    ]
    return f"{sample.domain}{sample.op}{dict(sample.attributes)}{inputs}".replace(" ", "")


def node_of(sample: Sample) -> onnx.NodeProto:
    names = ["" if given is None else f"in{i}" for i, given in enumerate(sample.inputs)]
    outputs = [f"out{i}" for i in range(sample.outputs)]
    return helper.make_node(sample.op, names, outputs, domain=sample.domain, **sample.attributes)


def kind_of(given: Rows | Array) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(given.dtype))


def operand(given: Rows | Array | None) -> Operand | None:
    """What the rule is told of an input."""
    if given is None:
        return None
    if not isinstance(given, Rows):
        array = np.asarray(given)
        return Constant(kind_of(array), array.shape, lambda: array)
    channels = math.prod(given.dims[axis] for axis in given.axes)
    each = np.full(channels, max(abs(given.low), abs(given.high)))
    whole = kind_of(given) not in FLOATS or channels == 1
    reach = Box(each) if whole else Ellipsoids(each, (np.full(channels, LONGEST),))
    return Value(kind_of(given), given.dims, given.axes, reach, given.low, given.high)


def call_of(sample: Sample) -> Call:
    node, symbols = node_of(sample), itertools.count()
    opsets = {"": sample.opset, sample.domain: 1 if sample.domain else sample.opset}
    return Call(
        sample.op,
        opsets[sample.domain],
        {a.name: helper.get_attribute_value(a) for a in node.attribute},
        tuple(operand(given) for given in sample.inputs),
        tuple(node.input),
        tuple(node.output),
        frozenset(),
        lambda: f"?{next(symbols)}",
        computer(node, opsets),
    )


def drawn(given: Rows, how: int, random: np.random.Generator) -> Array:
    """An activation within what the rule is told, at its edges where that is possible."""
    ends = random.choice([given.low, given.high], given.dims)
    if kind_of(given) not in FLOATS:
        most = random.integers(int(given.low), int(given.high) + 1, given.dims)
        return np.asarray([ends, most, np.full(given.dims, given.high)][how % 3], given.dtype)
    array = random.uniform(given.low, given.high, given.dims) if how % 2 else ends
    if how % 8 == 5:  # all the same
        array = np.full(given.dims, given.high)
    if not given.axes:
        return np.asarray(array, given.dtype)
    if how % 4 > 1 and given.low < 0:  # few channels, or one
        array = array * (random.random(given.dims) < 0.3)
    least = max(given.low, 0.0)
    room = LONGEST * (1 - 1e-6) - least * math.sqrt(given.dims[given.axes[0]])
    lengths = np.linalg.norm(array - least, axis=given.axes[0], keepdims=True)
    array = least + (array - least) * np.minimum(1, room / np.maximum(lengths, 1e-9))
    return np.asarray(array, given.dtype)


def runs(sample: Sample) -> Iterator[list[Array]]:
    """What ONNX Runtime makes of activations within what the rule is told."""
    node = node_of(sample)
    inputs = [given for given in sample.inputs if given is not None]
    infos = [
        helper.make_tensor_value_info(
            name, kind_of(given), given.dims if isinstance(given, Rows) else np.shape(given)
        )
        for name, given in zip(filter(None, node.input), inputs, strict=True)
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], "one", infos, outputs)
    opsets = [helper.make_opsetid("", sample.opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(7)
    for how in range(24):
        feeds = {
            info.name: drawn(given, how, random) if isinstance(given, Rows) else given
            for info, given in zip(infos, inputs, strict=True)
        }
        yield session.run(None, {name: np.asarray(array) for name, array in feeds.items()})


def judged(sample: Sample) -> list[Operand | None]:
    call = call_of(sample)
    found = rule_for(sample.domain, sample.op, call.opset, list(call.attributes))
    return applied(found, call)


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_what_onnx_runtime_makes_is_within_the_bound(sample: Sample) -> None:
    if (sample.op, sample.opset) == ("Swish", 24):
        needs_onnx_runtime(1, 24, for_what="opset 24")
    if sample.op == "GroupQueryAttention":
        needs_onnx_runtime(1, 27, for_what="a cache that may be left out")
    said = judged(sample)
    for made in runs(sample):
        for value, array in zip(said, made, strict=False):
            if value is not None:
                holds(value, np.asarray(array))


def test_every_rule_has_a_sample() -> None:
    assert RULES.keys() - {(sample.domain, sample.op) for sample in SAMPLES} == set()


def _schemas() -> list[tuple[str, str, frozenset[str]]]:
    runtime = {(s.domain, s.name, frozenset(s.attributes)) for s in get_all_operator_schema()}
    own = {
        (s.domain, s.name, frozenset(s.attributes))
        for s in onnx.defs.get_all_schemas_with_history()
    }
    return sorted(runtime | own, key=str)


def test_an_op_or_attribute_that_is_not_in_the_table_is_unknown() -> None:
    unknown = attributes = 0
    for domain, op, known in _schemas():
        domain = "" if domain == "ai.onnx" else domain
        rule = RULES.get((domain, op))
        if rule is None:
            unknown += 1
            with pytest.raises(NoBound):
                rule_for(domain, op, 99, [])
            continue
        for attribute in known - set(rule.attributes):
            attributes += 1
            with pytest.raises(NoBound):
                rule_for(domain, op, 99, [attribute])
    assert unknown > 300 and attributes > 10


def test_a_type_that_is_not_in_the_table_is_unknown() -> None:
    odd = TensorProto.FLOAT8E4M3FN, TensorProto.COMPLEX64, TensorProto.STRING
    for sample in SAMPLES:
        call = call_of(sample)
        for place, given in enumerate(call.inputs):
            if isinstance(given, Value):
                for kind in odd:
                    inputs = list(call.inputs)
                    inputs[place] = Value(kind, given.dims, given.axes, given.reach)
                    changed = Call(**{**vars(call), "inputs": tuple(inputs)})
                    with pytest.raises(NoBound):
                        applied(RULES[sample.domain, sample.op], changed)


@pytest.mark.parametrize("op", ["Mul", "Max"])
def test_sets_that_double_from_op_to_op_are_walked_in_bounded_time(op: str) -> None:
    given = operand(Rows())
    assert isinstance(given, Value)
    value: Operand | None = Value(1, given.dims, given.axes, given.reach, -1.0, 1.0)
    sample = Sample(op, (Rows(), Rows()))
    for _ in range(64):
        call = Call(**{**vars(call_of(sample)), "inputs": (value, value)})
        try:
            (value,) = applied(RULES["", op], call)
        except NoBound:  # it has become too large for its type
            return
    assert isinstance(value, Value) and value.reach.length() >= LONGEST
