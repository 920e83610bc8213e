"""Norms are found in whatever algebra they are written."""

import re
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.backend.test.case.node import collect_testcases

from benchmarks.algebra import main
from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_in
from slanc_onnx.norms.model import read_model
from slanc_onnx.norms.norm import Norm
from tests.oracles import wild_norms
from tests.oracles.unoptimised import different, run
from tests.oracles.written_norms import KINDS, written
from tests.versions import ONNX, ONNX_RUNTIME, needs_onnx, needs_onnx_runtime

each_count = pytest.mark.parametrize("count", [25, pytest.param(100, marks=pytest.mark.slow)])


@each_count
@pytest.mark.parametrize("kind", KINDS)
def test_each_is_found_and_scaled_exactly(kind: str, count: int) -> None:
    random = np.random.default_rng(16)
    for _ in range(count):
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


def as_it_is_read(norm: Norm, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """What a norm is read to make of rows that its epsilon does not matter for."""
    rows = x.astype(np.float64)
    rows = rows - rows.mean(-1, keepdims=True) if norm.kind == "layer" else rows
    total = np.square(rows).sum(-1, keepdims=True)
    return np.asarray(rows / np.sqrt(total / (1 if norm.kind == "l2" else x.shape[-1])))


@each_count
@pytest.mark.parametrize("kind", wild_norms.KINDS)
def test_each_in_a_wild_spelling_is_found_and_what_is_read_off_it_is_so(
    kind: str, count: int
) -> None:
    random = np.random.default_rng(61)
    plain = 0
    for _ in range(count):
        model = wild_norms.wild(kind, random)
        found = find_in(read_graph(model))
        assert (len(found.norms), found.suspects) == (1, []), model
        (norm,) = found.norms
        assert norm.skip_reason is None, model
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        for name in {norm.input, norm.normalised} - {"x", model.graph.output[0].name}:
            shown.graph.output.add(name=name)
        sizes = 10.0 ** random.uniform(-6, 2, (2, 4, 1))
        x = (random.normal(size=wild_norms.SHAPE) * sizes).astype(np.float32)
        before = run(model, x=x)
        if not norm.by_ops and norm.gamma is None:
            plain += 1
            values = {"x": x / sizes.astype(np.float32), **run(shown, x=x / sizes.astype("f"))}
            wanted = as_it_is_read(norm, values[norm.input])
            np.testing.assert_allclose(values[norm.normalised], wanted, 2e-3, 2e-3)
        apply_scales_in(model, [norm], {norm.name: 8.0})
        assert different(before, run(model, x=x)) == [], model
    assert plain > count / 10


NAMED = re.compile("(layer|rms|group)_normalization|instancenorm|mvn|l2normalization|lpnorm")


@pytest.mark.slow  # onnx makes the data of all its tests
@pytest.mark.filterwarnings("ignore")  # of the data that onnx makes for them
def test_norms_in_the_tests_of_onnx_compute_what_these_store_and_nothing_else_is_one() -> None:
    cases: list[Any] = [case for case in collect_testcases(None) if case.model is not None]
    norms = [case for case in cases if NAMED.search(case.name)]
    assert len(norms) > 100
    for case in norms:
        read = read_model(case.model)
        assert (len(read.norms), read.suspects) == (1, []), case.name
        if read.norms[0].skip_reason is not None:  # the second output is the mean
            assert len(case.model.graph.output) == 3, case.name
            continue
        model = onnx.ModelProto()
        model.CopyFrom(read.model)
        assert apply_scales_in(model, read.norms, {read.norms[0].name: 8.0})
        if ONNX_RUNTIME < (1, 25) and "LpNormalization" in case.model.graph.node[0].op_type:
            continue  # and says so at the end
        if ONNX < (1, 21) and case.name == "test_l2normalization_axis_0":
            continue
        for inputs, outputs in case.data_sets:
            names = [info.name for info in model.graph.input]
            found = run(model, **dict(zip(names, inputs, strict=True)))
            for info, stored in zip(model.graph.output, outputs, strict=True):
                near = np.allclose(found[info.name], stored, case.rtol, case.atol)
                assert near, (case.name, info.name)
    for case in cases:
        if case not in norms:
            read = read_model(case.model)
            # Statistics that are computed and read behind the norm as well: no scale goes there.
            leaks = re.search("batchnorm_.*_training_mode$", case.name) is not None
            assert (read.norms, len(read.suspects)) == ([], leaks), case.name
    needs_onnx_runtime(1, 25, for_what="LpNormalization of opset 22; all other norms are right")
    needs_onnx(1, 21, for_what="0 for rows of zeros in one L2 norm; all other norms are right")


@pytest.mark.parametrize("more", [[], ["--wild"]])
def test_the_benchmark_counts_what_is_found(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--count", "12", "--seed", "3", *more]) == 0
    assert capsys.readouterr().out.startswith("12 of 12 found, ")
