"""EmbedLayerNormalization: its tables are divided with epsilon; NumPy has the truth."""

import numpy as np
import onnx
import pytest

from slanc_onnx import Accelerator, Options, protect
from slanc_onnx.api import validate
from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.options import ApplyRule
from slanc_onnx.verify.emulate import emulate
from tests.models.small_graphs import only_norm
from tests.oracles.unoptimised import Values, different, run

EPSILON = 1e-3
WIDTH = 16


ALL = "ids, segments, word, place, segment, g, b"


def written(size: float = 1.0, inputs: str = ALL, shared: bool = False) -> onnx.ModelProto:
    """An embedding norm whose rows are about `size`, and the sum that it normalises."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        main (int32[2, s] ids, int32[2, s] segments, int32[2, s] positions)
            => (float[2, s, {WIDTH}] y, float[2, s, {WIDTH}] total)
        {{
            [embed] y, mask, total = com.microsoft.EmbedLayerNormalization
                <epsilon: float = {EPSILON}> ({inputs})
        }}""")
    rng = np.random.default_rng(5)
    for name, rows in (("word", 30), ("place", 12), ("segment", 2)):
        values = (rng.normal(size=(rows, WIDTH)) * size).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    for name in "gb":
        values = rng.normal(size=WIDTH).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    if shared:  # as a language model's head
        model.graph.node.add(op_type="Transpose", input=["word"], output=["turned"])
        model.graph.node.add(op_type="MatMul", input=["y", "turned"], output=["logits"])
        model.graph.output.add(name="logits").type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    used = {name for node in model.graph.node for name in node.input}
    for info in [i for i in model.graph.input if i.name not in used]:
        model.graph.input.remove(info)
    return model


def feeds(model: onnx.ModelProto) -> Values:
    rng = np.random.default_rng(6)
    given = {"ids": rng.integers(0, 30, (2, 7)), "segments": rng.integers(0, 2, (2, 7))}
    given["positions"] = rng.integers(0, 12, (2, 7))
    names = {info.name for info in model.graph.input}
    return {name: value.astype(np.int32) for name, value in given.items() if name in names}


def summed(model: onnx.ModelProto, given: Values) -> np.ndarray:
    """What is normalised, in FP64."""
    tables = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    total = tables["word"].astype(np.float64)[given["ids"]]
    total = total + tables["place"][given.get("positions", np.arange(7))]
    return np.asarray(
        total + tables["segment"][given["segments"]] if "segments" in given else total
    )


SPELLINGS = {
    "all": ALL,
    "no segments": "ids, , word, place, , g, b",
    "positions": "ids, segments, word, place, segment, g, b, , positions",
}


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("inputs", SPELLINGS.values(), ids=SPELLINGS)
def test_its_tables_are_divided(inputs: str, shared: bool) -> None:
    model = written(inputs=inputs, shared=shared)
    norm, given = only_norm(model), feeds(model)
    assert (norm.kind, norm.width, norm.skip_reason) == ("layer", WIDTH, None)
    assert norm.epsilon == pytest.approx(EPSILON)
    before = run(model, **given)
    np.testing.assert_allclose(before["total"], summed(model, given), rtol=1e-5, atol=1e-6)
    assert apply_scales_in(model, [norm], {norm.name: 64.0})
    assert different(before, run(model, **given)) == []
    assert only_norm(model).scaled_by == 64.0


@pytest.mark.parametrize("inputs", SPELLINGS.values(), ids=SPELLINGS)
def test_its_rows_are_emulated(inputs: str) -> None:
    model = written(20.0, inputs=inputs)
    (norm,), given = find_norms_in(read_graph(model)), feeds(model)
    emulated = emulate(model, [norm], Accelerator())
    rows = summed(model, given)
    centred = rows - rows.mean(-1, keepdims=True)
    got = run(emulated.model, **given)
    shown = got[emulated.mean_squares[norm.name]]
    np.testing.assert_allclose(shown.reshape(2, 7), (centred**2).mean(-1), rtol=0.01)
    plain = run(model, **given)
    np.testing.assert_allclose(got["y"], plain["y"], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("apply", ["div", "fold"])
@pytest.mark.parametrize("estimate", ["auto", "weights"])
def test_hot_rows_are_protected(apply: ApplyRule, shared: bool, estimate: str) -> None:
    model, original = written(500.0, shared=shared), written(500.0, shared=shared)
    given = feeds(model)
    options = Options(inputs=given, apply=apply, estimate=estimate)  # type: ignore[arg-type]
    (decided,) = protect(model, options)
    assert decided.status == "scaled" and decided.scale is not None and decided.scale > 1
    assert different(run(original, **given), run(model, **given)) == []
    found = validate(original, model, options)
    assert found.passed and found.rounded_error_before > 0.5 > 0.01 > found.rounded_error_after
