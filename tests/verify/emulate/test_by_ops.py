"""A norm that is known by its ops alone: each of those is rounded, and nothing else."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.verify.emulate.everything import Everything
from slanc_onnx.verify.emulate.norms import emulate
from tests.models.deferred_models import WRITTEN as DEFERRED
from tests.models.small_graphs import graph, normal
from tests.oracles.unoptimised import Values, run
from tests.spellings.regions import FOUND

(WRITTEN,) = (w for w in FOUND if w.title == "a number per channel for epsilon")
X = np.full((2, 2, 8), 300, np.float32) * np.linspace(0.9, 1.1, 8, dtype=np.float32)


def outputs(model: onnx.ModelProto, accelerator: Accelerator, x: NDArray[np.float32]) -> Values:
    norms = find_norms_in(read_graph(model))
    assert [norm.by_ops for norm in norms] == [True]
    return run(emulate(model, norms, accelerator).model, x=x)


def with_neighbour() -> onnx.ModelProto:
    model = WRITTEN.model()
    model.graph.node.append(onnx.helper.make_node("Exp", ["x"], ["z"]))
    model.graph.output.add(name="z")
    return model


@pytest.mark.parametrize("size", [1.0, 2.0**-9])
def test_each_of_its_ops_is_rounded_and_its_neighbours_are_not(size: float) -> None:
    model, x = with_neighbour(), X * np.float32(size)
    found, exact = outputs(model, Accelerator().summing("fp32"), x), run(model, x=x)
    np.testing.assert_array_equal(found["z"], exact["z"])
    if size == 1:  # squares are beyond the format, and their root is infinite
        assert (found["y"] == 0).all()
        return
    assert (found["y"] != exact["y"]).any()
    assert (found["y"] == found["y"].astype(np.float16)).all()
    np.testing.assert_allclose(found["y"], exact["y"], 4e-3)


def test_on_a_device_that_has_some_steps_in_fp32_they_are_left() -> None:
    accelerator = replace(Accelerator(), fp32_steps=frozenset(["square"]))
    found = outputs(WRITTEN.model(), accelerator, X)
    np.testing.assert_array_equal(found["y"], run(WRITTEN.model(), x=X)["y"])


ISLAND = """<ir_version: 8, opset_import: ["": 18]> m (float[2, 8] x) => (float[2, 8] y)
<double eps = {1e-5}, int64[1] last = {-1}> {
    wide = Cast<to = 11>(x) q = Mul(wide, wide) v = ReduceMean(q, last) t = Add(v, eps) s = Sqrt(t)
    n = Div(wide, s) y = Cast<to = 1>(n) }"""


def test_a_norm_in_an_island_of_fp64_is_emulated() -> None:
    model, x = onnx.parser.parse_model(ISLAND), X.reshape(-1, 8)[:2]
    norms = find_norms_in(read_graph(model))
    assert [(norm.kind, norm.element_type) for norm in norms] == [("rms", onnx.TensorProto.DOUBLE)]
    assert (run(emulate(model, norms, Accelerator()).model, x=x)["y"] == 0).all()
    found = run(emulate(model, norms, Accelerator()).model, x=x / 256)["y"]
    wide = x.astype(np.float64) / 256
    exact = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, exact, 4e-3)


@pytest.mark.parametrize("how", DEFERRED)
def test_a_norm_in_fp64_whose_products_are_divided_is_rounded_as_any(how: str) -> None:
    """Its products too, which leave FP16 before they are divided though not behind that."""
    rows = X.reshape(-1, 8)[:3, None] / 15
    for size, fits in ((1.0, True), (1e4, False)):
        more = {"w": normal(2, 8, 6), "w2": normal(3, 8, 6) * np.float32(size)}
        values = {"eps": np.array(1e-5), **{n: v.astype(np.float64) for n, v in more.items()}}
        nodes = DEFERRED[how].replace("y = Add(u, v)", "y = Concat<axis = -1>(u, v)")
        wide = f"rows = Cast<to = 11>(x) {nodes}"
        model = graph(wide, values, "float[3, 1, 8] x", "double[3, 1, 12] y")
        norms = find_norms_in(read_graph(model))
        assert [(n.element_type, len(n.deferred)) for n in norms] == [(onnx.TensorProto.DOUBLE, 2)]
        exact = run(model, x=rows)["y"]
        for everything in (None, Everything()):
            shown = emulate(model, norms, Accelerator(), everything=everything)
            found = run(shown.model, x=rows)["y"]
            assert np.isfinite(found).all() == fits
            left = [one for one in shown.watched if one.what == "product"]
            assert [one.tensor for one in left] == ["p", "q"]
            if fits:
                assert (found == found.astype(np.float16)).all() and (found != exact).any()
                np.testing.assert_allclose(found, exact, 4e-3, 4e-3)
