"""The validator passes what is right, and is known to fail what is wrong."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper, numpy_helper

from slanc_onnx import Accelerator, Options, Validation, find_norms, protect, validate
from slanc_onnx.accelerator import ACCUMULATE
from slanc_onnx.reasons import Failure, Reason
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.verify import runs as verify_runs
from tests.conftest import Run
from tests.models.four_norms import four_norms
from tests.oracles.half_norm import HalfNorm
from tests.places import SAMPLES


def protected(options: Options | None = None) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A model whose naive FP16 norms overflow, before and after."""
    model = four_norms(leaky=False)
    protect(model, options)
    return four_norms(leaky=False), model


@pytest.mark.parametrize("accumulate", ACCUMULATE)
@pytest.mark.parametrize("flush", [False, True])
def test_a_model_that_must_fail_in_fp16_fails_until_it_is_scaled(
    accumulate: str, flush: bool
) -> None:
    options = Options(accelerator=Accelerator(flush_subnormals=flush).summing(accumulate))
    original, rewritten = protected(options)
    naive = validate(original, original, options)
    assert not naive.passed
    assert naive.fp32_identical
    assert naive.overflowed_before == naive.overflowed_after == 48  # 16 rows in each of 3 norms
    first, *others = naive.failures
    assert (first.kind, first.tensor) == (Failure.ROWS_LEFT_FORMAT, "a")
    assert others[0] == Reason(Failure.ROWS_OVERFLOW, (3, "hot"))
    assert others[-1] == Reason(Failure.OUTPUTS_OFF)
    assert [o.kind for o in others[1:-1]] == [Failure.ZERO_ROWS_UNDIVIDED] * flush  # 1e-5
    scaled = validate(original, rewritten, options)
    assert scaled.passed
    assert scaled.fp32_identical
    assert (scaled.overflowed_before, scaled.overflowed_after) == (48, 0)
    assert scaled.rounded_error_before == naive.rounded_error_after > 0.5
    assert scaled.rounded_error_after < 0.01


@pytest.mark.parametrize("name", ["bert_like", "llama_like", "sandwich_like"])
def test_the_sample_models_fail_and_are_healed(name: str) -> None:
    original, rewritten = (onnx.load(SAMPLES / f"{name}.onnx") for _ in range(2))
    protect(rewritten)
    assert not validate(original, original).passed
    healed = validate(original, rewritten)
    assert healed.failures == []
    assert healed.fp32_identical
    assert healed.overflowed_before > 0 == healed.overflowed_after


def node(model: onnx.ModelProto, name: str) -> NodeProto:
    found: list[NodeProto] = [node for node in model.graph.node if node.name == name]
    return found[0]


def other_weight(model: onnx.ModelProto) -> None:
    gamma = next(t for t in model.graph.initializer if t.name == "gamma")
    values = numpy_helper.to_array(gamma).copy()
    values[5] = np.nextafter(values[5], np.float32(9))
    gamma.CopyFrom(numpy_helper.from_array(values, "gamma"))


def epsilon_not_divided(model: onnx.ModelProto) -> None:
    next(a for a in node(model, "hot").attribute if a.name == "epsilon").f = 1e-5


def epsilon_input_not_divided(model: onnx.ModelProto) -> None:
    (epsilon,) = [t for t in model.graph.initializer if t.name.startswith("slanc.epsilon")]
    epsilon.CopyFrom(numpy_helper.from_array(np.array(1e-5, np.float32), epsilon.name))


def one_read_not_divided(model: onnx.ModelProto) -> None:
    node(model, "plain").input[0] = "h"


def scale_next_to_a_power_of_two(model: onnx.ModelProto) -> None:
    (scale,) = [t for t in model.graph.initializer if t.name.startswith("slanc.scale")]
    values = np.nextafter(numpy_helper.to_array(scale), np.float32(0))
    scale.CopyFrom(numpy_helper.from_array(np.array(values), scale.name))


@pytest.mark.parametrize(
    "spoil",
    [
        other_weight,
        epsilon_not_divided,
        epsilon_input_not_divided,
        one_read_not_divided,
        scale_next_to_a_power_of_two,
    ],
)
def test_a_spoiled_rewrite_is_caught(spoil: Callable[[onnx.ModelProto], None]) -> None:
    original, rewritten = protected()
    spoil(rewritten)
    result = validate(original, rewritten)
    assert not result.fp32_identical
    assert result.fp32_max_abs_error > 0
    assert Reason(Failure.FP32_DIFFERS) in result.failures


def test_scales_that_are_no_powers_of_two_pass_within_the_tolerance() -> None:
    original, rewritten = protected(Options(scale="paper"))
    assert not validate(original, rewritten).passed  # bit-identity is what a window promises
    result = validate(original, rewritten, Options(scale="paper"))
    assert result.passed
    assert not result.fp32_identical
    assert 0 < result.fp32_max_relative_error < 1e-6
    other_weight(rewritten)
    epsilon_not_divided(rewritten)
    node(rewritten, "plain").input[0] = "h"
    spoiled = validate(original, rewritten, Options(scale="paper"))
    assert Reason(Failure.FP32_BEYOND_TOLERANCE) in spoiled.failures


def test_the_largest_error_is_the_largest_difference_of_an_output() -> None:
    original, rewritten = four_norms(), four_norms()
    add = rewritten.graph.node[-1]
    rewritten.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    rewritten.graph.node.append(helper.make_node("Add", ["sum", "half"], ["y"]))
    add.output[0] = "sum"
    result = validate(original, rewritten)
    assert result.fp32_max_abs_error == pytest.approx(0.5, rel=1e-5)
    assert not result.passed


def of_one_norm(rest: str) -> onnx.ModelProto:
    """Rows of about 1000, normalised to n, and what comes after."""
    return onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[4, 32] x) => (float[4, 32] y, float[4, 32] z)
        <float k = {{1000}}, float[32] g = {{{", ".join(["1"] * 32)}}}>
        {{ h = Mul(x, k) [norm] n = LayerNormalization<axis = -1>(h, g) {rest} }}""")


def of_pair(rest: str) -> Validation:
    original, rewritten = of_one_norm(rest), of_one_norm(rest)
    protect(rewritten)
    return validate(original, rewritten)


def test_an_output_that_differs_from_run_to_run_is_left_out() -> None:
    result = of_pair("y = Identity(n) z = RandomNormalLike(n)")
    assert result.unstable == ["z"]
    assert result.passed
    assert result.fp32_identical


def test_what_is_not_finite_in_the_original_is_not_held_against_the_result() -> None:
    result = of_pair("y = Identity(n) z = Log(n)")  # nan for the negative half
    assert result.passed
    assert result.fp32_identical
    assert result.rounded_error_after < 0.01


def test_what_is_not_finite_only_in_fp16_is() -> None:
    model = of_one_norm("y = Identity(n) z = Reciprocal(n)")  # naive rows are zero
    result = validate(model, model)
    assert result.rounded_error_after == math.inf
    assert Reason(Failure.OUTPUTS_OFF) in result.failures


def test_rows_that_underflow_are_counted() -> None:
    text = "y = Identity(n) z = Neg(n)"
    original, rewritten = of_one_norm(text), of_one_norm(text)
    (norm,) = find_norms(rewritten)
    protect(rewritten)
    (scale,) = [t for t in rewritten.graph.initializer if t.name.startswith("slanc.scale")]
    scale.CopyFrom(numpy_helper.from_array(np.array(2.0**25, np.float32), scale.name))
    observed = validate(original, rewritten).observed[norm.name]
    assert (observed.overflowed_before, observed.overflowed, observed.underflowed) == (4, 0, 4)


def test_rows_that_come_out_as_nan_are_lost_as_those_that_overflow() -> None:
    """Elements over 65504 make the mean infinite, and inf - inf is nan; one row is of each kind."""
    x = np.random.default_rng(4).normal(size=(4, 32)) * np.array([[0.01], [1.0], [200.0], [0.02]])
    x = x.astype(np.float32)
    rows = x * np.float32(1000)
    device = HalfNorm(Accelerator(), "layer", 1e-5)
    squares = np.array([device.row(row.tolist(), [])[1] for row in rows])
    assert np.isfinite(squares).tolist() == [True, False, False, True]
    assert np.isnan(squares).tolist() == [False, False, True, False]
    model = of_one_norm("y = Identity(n) z = Neg(n)")
    (seen,) = validate(model, model, Options(inputs={"x": x})).observed.values()
    assert (seen.overflowed_before, seen.overflowed, seen.underflowed) == (2, 2, 0)
    nan_alone = np.repeat(x[2:3], 4, axis=0)
    result = validate(model, model, Options(inputs={"x": nan_alone}))
    assert (result.overflowed_before, result.overflowed_after) == (4, 4)
    assert Reason(Failure.ROWS_OVERFLOW, (1, "norm")) in result.failures


def test_an_integer_output_must_stay() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        main (float[4, 32] x) => (int64[4, 1] y)
        { n = LayerNormalization<axis = -1>(x, g) y = ArgMax<axis = -1>(n) }"""
    models = [onnx.parser.parse_model(text), onnx.parser.parse_model(text)]
    for model, sign in zip(models, (1, -1), strict=True):
        gamma = np.full(32, sign, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(gamma, "g"))
    assert validate(models[0], models[0]).passed
    result = validate(*models)
    assert (result.fp32_max_abs_error, result.passed) == (math.inf, False)


def test_a_model_that_cannot_run_is_written_and_fails_with_the_reason(run: Run) -> None:
    model = four_norms(leaky=False)
    model.graph.node[0].domain = "nobody.implements.this"
    model.opset_import.add(domain="nobody.implements.this", version=1)
    with pytest.raises(CannotRun, match="cannot load the model"):
        validate(model, model)
    onnx.save(model, "model.onnx")
    status, out, _ = run("model.onnx")
    assert status == 1
    assert Path("model.slanc.onnx").is_file()
    assert out.splitlines()[-1].startswith(
        "FAILED | not validated: ONNX Runtime cannot load the model: "
    )
    status, _, err = run("model.onnx", "--estimate", "probe", "-o", "other.onnx")
    assert status == 2
    assert "cannot load the model" in err
    assert not Path("other.onnx").exists()


def test_inputs_that_cannot_be_made_are_asked_for() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[2, n] x, float[2, n] y) => (float[2, 32] z)
        {
            c = Concat<axis = -1>(x, y)
            n = LayerNormalization<axis = -1>(c, g)
            z = Identity(n)
        }""")
    gamma = np.ones(48, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(gamma, "g"))
    with pytest.raises(CannotRun, match=r"give inputs that fit with --inputs FILE\.npz"):
        validate(model, model)
    half = np.random.default_rng(2).normal(size=(2, 24)).astype(np.float32)
    assert validate(model, model, Options(inputs={"x": half, "y": half})).passed


def test_nothing_to_compare_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    original, rewritten = protected()
    outputs = [output.name for output in original.graph.output]
    monkeypatch.setattr(verify_runs, "_unstable", lambda *_: outputs)
    result = validate(original, rewritten)
    assert result.unstable == outputs
    assert result.failures == [Reason(Failure.NOTHING_COMPARED)]


def test_an_index_that_rounding_flips_fails_only_in_fp32() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 18]>
        agraph (float[1, 8] x) => (float[1, 8] y, int64[1, 1] best)
        <float[8] g = {1, 1, 1, 1, 1, 1, 1, 1}, float[8] tiny = {0, 1e-6, 0, 0, 0, 0, 0, 0}> {
            y = LayerNormalization(x, g)
            z = Sub(y, y)
            near = Add(z, tiny)
            best = ArgMax <axis = 1> (near)
        }""")
    other = onnx.ModelProto()
    other.CopyFrom(model)
    next(t for t in other.graph.initializer if t.name == "tiny").float_data[1] = -1e-6
    assert validate(model, model).passed
    spoiled = validate(model, other)
    assert not spoiled.fp32_identical
    assert spoiled.failures == [Reason(Failure.FP32_DIFFERS)]
    assert spoiled.rounded_rms_error < 0.01
