"""How large tensors are, in models whose tensors have sizes that can be told by hand."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx.estimate import TensorRange, probe_tensors
from slanc_onnx.graph import Tensor
from slanc_onnx.norms import read_model
from slanc_onnx.options import Options
from slanc_onnx.run import CannotRun
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph

ROW = np.array([1, -2, 3, -4, 5, -6, 7, -8], np.float32)  # mean |x| 4.5
TABLE = np.tile(ROW, (11, 1))


def measured(nodes: str, **more: NDArray[Any]) -> dict[str, TensorRange]:
    model = graph(nodes, {**weights(), "table": TABLE, **more})
    return by_name(model)


def by_name(model: onnx.ModelProto) -> dict[str, TensorRange]:
    found = probe_tensors(read_model(model), Options())
    assert len({tensor.name for tensor in found}) == len(found)
    return {tensor.name: size for tensor, size in found.items()}


def test_the_largest_and_the_mean_magnitude_of_each_tensor() -> None:
    found = measured(
        "e = Gather(table, ids) a = Mul(e, minus) b = Relu(a) y = Identity(b)",
        minus=np.array(-100, np.float32),
    )
    assert found["e"] == TensorRange(8.0, 4.5)
    assert found["a"] == TensorRange(800.0, 450.0)
    assert found["b"] == found["y"] == TensorRange(800.0, 250.0)


def test_what_is_inside_a_norm_or_no_float_or_constant_is_not_told() -> None:
    found = measured(
        """
        e = Gather(table, ids)
        squares = Mul(e, e)
        mean = ReduceMean<axes = [-1], keepdims = 1>(squares)
        sum = Add(mean, eps)
        root = Sqrt(sum)
        x = Div(e, root)
        scaled = Mul(x, g1)
        twice = Mul(g2, g2)
        same = Equal(scaled, twice)
        y = Where(same, scaled, twice)
        """,
        eps=np.array(1e-5, np.float32),
    )
    assert found.keys() == {"e", "scaled", "y"}


def test_nothing_has_a_largest_element_of_zero() -> None:
    found = measured(
        "e = Gather(table, ids) none = Slice(e, zero, zero) y = Concat<axis = 0>(none, e)",
        zero=np.zeros(1, np.int64),
    )
    assert found["none"] == TensorRange(0.0, 0.0)
    assert found["y"].largest == 8.0


def test_a_mask_has_no_typical_size() -> None:
    found = measured(
        "e = Gather(table, ids) m = Mul(e, far) y = Identity(m)",
        far=np.array(3e38, np.float32),
    )
    assert (found["m"].largest, found["m"].typical) == (np.inf, 0.0)


def test_branches_are_told_where_they_are_taken() -> None:
    model = graph(
        f"""
        e = Gather(table, ids)
        [n] x = {RMS}(e, ones)
        y = If(yes) <
            then_branch = then () => (float[a, b, c] t) {{ t = Mul(e, two) }},
            else_branch = other () => (float[a, b, c] o) {{ o = Mul(e, three) }}
        >
        """,
        {
            **weights(),
            "table": TABLE,
            "yes": np.array(True),
            "two": np.array(2, np.float32),
            "three": np.array(3, np.float32),
        },
    )
    found = probe_tensors(read_model(model), Options())
    sizes = {tensor.name: size.largest for tensor, size in found.items()}
    assert sizes["t"] == 16.0 and "o" not in sizes
    assert next(tensor for tensor in found if tensor.name == "t").path != ()


def test_a_function_of_the_model_is_told_where_it_is_inlined() -> None:
    model = onnx.parser.parse_model(
        f"""
        <ir_version: 10, opset_import: ["": 17, "com.microsoft": 1, "own": 1]>
        main (int64[batch, sequence] ids) => (float[a, b, c] y)
        <float[11, {D}] table, float[{D}] ones> {{
            e = Gather(table, ids)
            y = own.block(e, ones)
        }}
        <domain: "own", opset_import: ["": 17, "com.microsoft": 1]>
        block (x, g) => (z) {{
            [n] r = {RMS}(x, g)
            ten = Constant<value = float {{10.0}}>()
            z = Mul(r, ten)
        }}
        """
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(TABLE, "table"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(D, np.float32), "ones"))
    del model.graph.input[1:]
    found = probe_tensors(read_model(model), Options())
    assert {tensor.path for tensor in found} == {()}
    largest = 80 / np.sqrt(np.mean(ROW**2))
    assert np.isclose(found[Tensor((), "y")].largest, largest, rtol=1e-5)


def test_a_model_that_does_not_run_is_refused() -> None:
    model = graph("e = Gather(table, ids) y = custom.Op(e)", {**weights(), "table": TABLE})
    model.opset_import.add(domain="custom", version=1)
    with pytest.raises(CannotRun, match="ONNX Runtime cannot load"):
        probe_tensors(read_model(model), Options())
