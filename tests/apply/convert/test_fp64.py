"""Converting FP64: whole models, islands, and what stays in it with the reason."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from slanc_onnx.accelerator import Accelerator, Format
from slanc_onnx.apply.convert.convert import Converted, convert
from slanc_onnx.apply.convert.weights import Weights
from slanc_onnx.graph import every_graph
from slanc_onnx.reasons import InFp32
from tests.apply.convert.test_convert import needs_its_onnx_runtime
from tests.models.float64_twins import WITHOUT, in_fp64
from tests.models.float_graphs import BODIES, CONSTANTS, FUNCTIONS, PLAIN
from tests.models.float_kinds import Kind, Values, floats
from tests.models.float_ops import FUSED, ISLANDS, MIXED
from tests.oracles.half_file import apart, narrowed_feeds
from tests.oracles.unoptimised import run

KINDS = [*PLAIN, *CONSTANTS, *BODIES, *FUNCTIONS, *ISLANDS, *FUSED, *MIXED]
FP16_ERROR = 0.01  # of an output's largest element, after the few ops that these models have
each_kind = pytest.mark.parametrize(
    "kind", [in_fp64(kind) for kind in KINDS if kind.name not in WITHOUT], ids=str
)


def converted(
    model: onnx.ModelProto, *, keep_io_types: bool = True, form: str = "float16"
) -> tuple[onnx.ModelProto, Converted]:
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    accelerator = Accelerator(format=Format.named(form))
    done = convert(twin, Weights(), accelerator, keep_io_types=keep_io_types)
    onnx.checker.check_model(twin, full_check=True)
    return twin, done


def halves(values: Values) -> dict[str, NDArray[Any]]:
    """With FP16 in the place of FP64 and FP32."""
    single = {n: v.astype(np.float32) if v.dtype == np.float64 else v for n, v in values.items()}
    return dict(narrowed_feeds(single))


def doubles(model: onnx.ModelProto) -> list[str]:
    """What a file says to be in FP64: types, tensors, and attributes of nodes."""
    found = []
    for body in (model.graph, *model.functions):
        for graph in every_graph(body):
            infos = [*graph.value_info]
            if isinstance(graph, onnx.GraphProto):
                infos += [*graph.input, *graph.output]
                found += [t.name for t in graph.initializer if t.data_type == TensorProto.DOUBLE]
            found += [i.name for i in infos if i.type.tensor_type.elem_type == TensorProto.DOUBLE]
            for node in graph.node:
                for a in node.attribute:
                    typed = a.name in ("to", "dtype") and a.i == TensorProto.DOUBLE
                    if typed or a.t.data_type == TensorProto.DOUBLE:
                        found.append(f"{node.op_type} {node.output[0]}")
    return found


@each_kind
def test_a_model_in_fp64_becomes_what_the_one_in_fp32_does(kind: Kind) -> None:
    after, done = converted(kind.model)
    errors = apart(run(kind.model, **kind.feeds), run(after, **kind.feeds))
    assert all(error < FP16_ERROR for error in errors.values()), errors
    assert tuple(sorted(node.op for node in done.nodes)) == tuple(sorted(kind.full))
    assert (done.casts, done.removed) == (kind.casts, kind.removed)
    assert all(node.wide for node in done.nodes)  # in FP64, as it was


@each_kind
def test_nothing_in_fp64_is_left_but_for_what_is_listed(kind: Kind) -> None:
    needs_its_onnx_runtime(kind)
    assert doubles(kind.model)
    after, done = converted(kind.model, keep_io_types=False)
    if not kind.full:
        assert doubles(after) == [] and done.nodes == ()
    before, got = run(kind.model, **kind.feeds), run(after, **halves(kind.feeds))
    errors = apart(halves(before), got)
    assert all(error < FP16_ERROR for error in errors.values()), errors


@each_kind
def test_bf16_and_a_second_time(kind: Kind) -> None:
    if kind.opset >= 13:
        after, done = converted(kind.model, keep_io_types=False, form="bfloat16")
        assert done.nodes or doubles(after) == []
    once, _ = converted(kind.model, keep_io_types=False)
    twice, second = converted(once, keep_io_types=False)
    assert twice == once and (second.casts, second.removed, dict(second.weights)) == (0, 0, {})


def parsed(text: str, opset: int = 18, **weights: Any) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]>\n{text}')
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()
    )
    return model


ISLAND = (
    "m (float[2, 8] x) => (float[2, 8] y) { h = MatMul(x, w) d = Cast<to = 11>(h) q = Mul(d, d) "
    "v = ReduceMean(q, last) t = Add(v, eps) s = Sqrt(t) n = Div(d, s) f = Cast<to = 1>(n) "
    "y = MatMul(f, w) }"
)


def test_an_island_of_fp64_goes_with_its_casts() -> None:
    x, w = floats(2, 8), floats(8, 8, seed=1)
    model = parsed(ISLAND, w=w, eps=np.array(1e-5), last=np.array([-1]))
    after, done = converted(model)
    assert done.nodes == () and doubles(after) == []
    assert (done.casts, done.removed) == (2, 2)
    ops = [node.op_type for node in after.graph.node if node.op_type != "Cast"]
    assert ops == [node.op_type for node in model.graph.node if node.op_type != "Cast"]
    h = x.astype(np.float64) @ w.astype(np.float64)
    truth = h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-5) @ w.astype(np.float64)
    np.testing.assert_allclose(run(after, x=x)["y"], truth, atol=0.01 * np.abs(truth).max())


# Every third row of a table, by positions that pass through FP64; FP16 ends to count at 2048.
TABLE = np.arange(9000, dtype=np.float32).reshape(9000, 1) % 7
BY_POSITION = "f = Cast<to = 11>(i) g = Mul(f, third) h = Floor(g) k = Cast<to = 7>(h)"
PICK = f"{BY_POSITION} p = Gather(table, k)"
ROWS = {
    "plain": f"m (int64[4] i) => (float[4, 1] y) {{ {PICK} y = Neg(p) }}",
    "in a branch": "m (int64[4] i, bool c) => (float[4, 1] y) { y = If (c) <"
    f"then_branch = t () => (float[4, 1] a) {{ {PICK} a = Neg(p) }}, "
    "else_branch = e () => (float[4, 1] b) { b = Gather(table, i) }> }",
}


@pytest.mark.parametrize("where", ROWS)
@pytest.mark.parametrize("form", ["float16", "bfloat16"])
def test_whole_numbers_stay_exact_in_fp64_and_are_listed(where: str, form: str) -> None:
    model = parsed(ROWS[where], table=TABLE, third=np.array(1 / 3))
    i = np.array([26998, 26999, 9005, 2])
    feeds: Values = {"i": i, **({} if where == "plain" else {"c": np.array(True)})}
    after, done = converted(model, form=form)
    assert [(node.op, node.wide) for node in done.nodes] == [
        ("Cast", True),
        ("Mul", True),
        ("Floor", True),
    ]
    assert {node.why.kind for node in done.nodes} == {InFp32.WHOLE_NUMBERS}
    if form == "float16":  # ONNX Runtime has no Gather of BF16 in each of its versions
        got = run(after, **feeds)["y"]
        np.testing.assert_array_equal(got, -TABLE[np.floor(i / 3).astype(int)])


def test_whole_numbers_in_a_function_stay_in_fp64() -> None:
    text = (
        '<ir_version: 10, opset_import: ["": 18, "local": 1]> m (int64[4] i) => (float[4, 1] y) '
        "{ p = local.pick(i, table) y = Neg(p) } "
        '<domain: "local", opset_import: ["": 18]> pick (i, table) => (p) { '
        f"third = Constant<value = double {{{1 / 3!r}}}>() {PICK} }}"
    )
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(TABLE, "table"))
    after, done = converted(model)
    assert [(node.op, node.wide) for node in done.nodes] == [
        ("Cast", True),
        ("Mul", True),
        ("Floor", True),
    ]
    i = np.array([26998, 26999, 9005, 2])
    np.testing.assert_array_equal(run(after, i=i)["y"], -TABLE[i // 3])


def test_one_constant_that_is_read_in_both_has_two_names() -> None:
    text = (
        "m (int64[4] i, double[4] x) => (int64[4] k, double[4] y) "
        f"{{ {BY_POSITION} y = Mul(x, third) }}"
    )
    after, done = converted(parsed(text, third=np.array(1 / 3)))
    assert [node.op for node in done.nodes] == ["Cast", "Mul", "Floor"]
    kinds = {tensor.name: tensor.data_type for tensor in after.graph.initializer}
    assert kinds == {"third": TensorProto.FLOAT16, "third/fp64": TensorProto.DOUBLE}
    x = np.array([3.0, 6.0, -9.0, 0.5])
    got = run(after, i=np.array([8997, 3, 4, 5]), x=x)
    np.testing.assert_array_equal(got["k"], [2999, 1, 1, 1])
    np.testing.assert_allclose(got["y"], x / 3, rtol=2e-3)


@pytest.mark.parametrize("form", ["float16", "bfloat16"])
def test_a_weight_is_rounded_once(form: str) -> None:
    """By way of FP32 each of these would be a tie, or infinite, and come out otherwise."""
    u = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[form]  # half of the spacing above 1
    largest = {"float16": 65504.0, "bfloat16": float.fromhex("0x1.fep127")}[form]
    w = np.array([1 + u + 2.0**-40, 1 + 3 * u - 2.0**-40, 1e300, -math.inf])
    model = parsed("m (double[4] x) => (double[4] y) { y = Min(x, w) }", w=w)
    after, done = converted(model, form=form)
    [stored] = after.graph.initializer
    got = numpy_helper.to_array(stored).astype(np.float64)
    np.testing.assert_array_equal(got, [1 + 2 * u, 1 + 2 * u, largest, -math.inf])
    assert (done.weights["w"].clipped, done.weights["w"].largest) == (1, 1e300)


def test_an_epsilon_below_fp32_is_kept_from_zero() -> None:
    model = parsed("m (double[4] x) => (double[4] y) { t = Add(x, e) y = Sqrt(t) }", e=1e-60)
    after, done = converted(model)
    assert numpy_helper.to_array(after.graph.initializer[0]).astype(float) == 2.0**-24
    assert (done.weights["e"].raised, done.weights["e"].smallest) == (1, 1e-60)


def test_external_weights_in_fp64_are_narrowed_where_they_lie(tmp_path: Path) -> None:
    from slanc_onnx.job import protect_file
    from slanc_onnx.options import Options

    w = np.random.default_rng(3).normal(size=(64, 64))
    model = parsed("m (double[2, 64] x) => (double[2, 64] y) { y = MatMul(x, w) }", w=w)
    source = tmp_path / "m.onnx"
    onnx.save(model, source, save_as_external_data=True, location="w.bin", size_threshold=0)
    made = protect_file(source, tmp_path / "out.onnx", Options(to="fp16", apply="fold"))
    assert made.passed
    stored = onnx.load(tmp_path / "out.onnx").graph.initializer[0]
    assert stored.data_type == TensorProto.FLOAT16
    np.testing.assert_array_equal(numpy_helper.to_array(stored), w.astype(np.float16))
    data = [f for f in tmp_path.iterdir() if f.suffix != ".onnx" and f.name != "w.bin"]
    assert [f.stat().st_size >= 64 * 64 * 2 for f in data] == [True]
    assert data[0].stat().st_size < 64 * 64 * 4
