"""Sums of squares read off a run, and what the runtime says when it cannot run."""

import numpy as np
import onnx
import pytest

from slanc_onnx.graph import read_graph
from slanc_onnx.instrument import instrument
from slanc_onnx.norms import find_norms_in
from slanc_onnx.runtime import CannotRun, Session

MODEL = """
<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]>
main (float[2, rows, 5] x, float[2, rows, 5] k, bool c) => (float[2, rows, 5] y)
<float[5] g = {{1, 2, 3, 4, 5}}>
{{
    [layer] a = LayerNormalization(x, g)
    [skip] b = com.microsoft.SkipSimplifiedLayerNormalization(a, k, g)
    [simple] d = SimplifiedLayerNormalization<axis = -1>(b, g)
    y = If (c) <
        then_branch = t () => (float[2, rows, 5] o) {{ [inner] o = LayerNormalization(d, g) }},
        else_branch = e () => (float[2, rows, 5] p) {{ p = Identity(d) }}
    >
    dead = Exp(y)
}}
"""


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("keep_outputs", [True, False])
def test_sums_of_squares_are_those_of_the_norms_inputs(opset: int, keep_outputs: bool) -> None:
    model = onnx.parser.parse_model(MODEL.format(opset=opset))
    before = model.SerializeToString()
    instrumented = instrument(model, find_norms_in(read_graph(model)), keep_outputs)
    assert model.SerializeToString() == before
    assert sorted(instrumented.sums) == ["layer", "simple", "skip"]  # the one in the If has none

    for tensor in ("a", "b"):
        instrumented.model.graph.output.add(name=tensor).type.tensor_type.elem_type = 1
    random = np.random.default_rng(8)
    x, k = (random.normal(size=(2, 7, 5)).astype(np.float32) * 100 for _ in range(2))
    values = Session(instrumented.model, None).run({"x": x, "k": k, "c": np.array(True)})

    centred = x.astype(np.float64) - x.astype(np.float64).mean(-1, keepdims=True)
    truth = {
        "layer": centred,
        "skip": values["a"].astype(np.float64) + k,
        "simple": values["b"].astype(np.float64),
    }
    for name, rows in truth.items():
        sums = values[instrumented.sums[name]]
        np.testing.assert_allclose(sums, (rows**2).sum(-1, keepdims=True), rtol=1e-5)
        assert values[instrumented.widths[name]] == 5
    assert ("y" in values) == keep_outputs
    assert "Exp" not in {node.op_type for node in instrumented.model.graph.node}


def test_a_session_names_its_outputs_and_takes_what_it_needs() -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> m (float[N] x) => (float[N] y) { y = Neg(x) }'
    session = Session(onnx.parser.parse_model(text), None)
    x = np.ones(3, np.float32)
    assert session.outputs == ["y"]
    assert np.array_equal(session.run({"x": x, "not an input": x})["y"], -x)
    with pytest.raises(CannotRun, match="cannot run the model"):
        session.run({"x": x.astype(np.float64)})


def test_a_model_that_the_runtime_does_not_take_is_named() -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> m (float[N] x) => (float[N] y) { y = No(x) }'
    with pytest.raises(CannotRun, match="cannot load the model"):
        Session(onnx.parser.parse_model(text), None)
