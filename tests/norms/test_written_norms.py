"""Norms are found in whatever algebra they are written."""

import numpy as np
import pytest
from onnx.backend.test.case.node import collect_testcases

from benchmarks.algebra import main
from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_in
from slanc_onnx.norms.model import read_model
from tests.oracles.unoptimised import different, run
from tests.oracles.written_norms import KINDS, written


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_found_and_scaled_exactly(kind: str) -> None:
    random = np.random.default_rng(16)
    for _ in range(100):
        model = written(kind, random)
        found = find_in(read_graph(model))
        assert (len(found.norms), found.suspects) == (1, []), model
        (norm,) = found.norms
        assert norm.kind == ("layer" if kind == "group" else kind), model
        assert (norm.skip_reason, norm.by_ops) == (None, False), model
        shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        sizes = 10.0 ** random.uniform(-4, 2, (2, 4, *[1] * len(shape[2:])))
        x = (random.normal(size=shape) * sizes).astype(np.float32)
        before = run(model, x=x)
        apply_scales_in(model, [norm], {norm.name: 8.0})
        assert different(before, run(model, x=x)) == [], model


@pytest.mark.filterwarnings("ignore")  # of the data that onnx makes for them
def test_function_bodies_of_onnx_are_found() -> None:
    norms = ("layer_normalization", "rms_normalization", "group_normalization", "mvn")
    for case in collect_testcases(None):
        bodies = "expanded" in case.name and any(norm in case.name for norm in norms)
        if case.model is None or not (bodies or "softmax" in case.name or "_pool" in case.name):
            continue
        found = read_model(case.model)
        assert (len(found.norms), found.suspects) == (int(bodies), []), case.name


def test_the_benchmark_counts_what_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "12", "--seed", "3"]) == 0
    assert capsys.readouterr().out.startswith("12 of 12 found, ")
