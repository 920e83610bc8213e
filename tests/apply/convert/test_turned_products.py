"""A Transpose that ONNX Runtime dies of stands behind the product by a weight, others stay."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from slanc_onnx.apply.convert.turned_products import turn_behind_products
from slanc_onnx.graph import Array

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float16)
W = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float16)
TURNED = "[n] t = Transpose<perm = [1, 0, 2]>(x) [p] y = MatMul(t, w)"
LEFT = {
    "another axis": "[n] t = Transpose<perm = [2, 0, 1]>(x) [p] y = MatMul(t, u)",
    "on the right": "[n] t = Transpose<perm = [1, 0, 2]>(x) [p] y = MatMul(v, t)",
    "by no constant": """zero = Constant<value = int64 {0}>() first = Gather(x, zero)
    s = Transpose<perm = [1, 0]>(first) [n] t = Transpose<perm = [1, 0, 2]>(x)
    [p] y = MatMul(t, s)""",
}
SHAPES = {"w": (4, 5), "u": (3, 5), "v": (3, 6, 2), "r": (5, 4)}


def model(nodes: str, outputs: str = "float16[i, j, k] y") -> onnx.ModelProto:
    head = f'<ir_version: 8, opset_import: ["" : 18]> m (float16[a, b, c] x) => ({outputs})'
    made = onnx.parser.parse_model(f"{head} {{{nodes}}}")
    rng = np.random.default_rng(1)
    for name, shape in SHAPES.items():
        if f"({name})" in nodes or f"({name}," in nodes or f", {name})" in nodes:
            values = rng.standard_normal(shape).astype(np.float16)
            made.graph.initializer.append(numpy_helper.from_array(values, name))
    return made


def run(made: onnx.ModelProto) -> list[Array]:
    cpu = ["CPUExecutionProvider"]
    given: list[Array] = ort.InferenceSession(made.SerializeToString(), providers=cpu).run(
        None, {"x": X}
    )
    return given


def test_it_moves_behind_the_product_and_the_numbers_are_the_same() -> None:
    made = model(TURNED)
    assert turn_behind_products(made) == 1
    onnx.checker.check_model(made, full_check=True)
    assert [node.op_type for node in made.graph.node] == ["MatMul", "Transpose"]
    exact = X.astype(np.float64).transpose(1, 0, 2) @ W.astype(np.float64)
    np.testing.assert_allclose(run(made)[0], exact, atol=2**-9)
    assert turn_behind_products(made) == 0, "done already"


def test_one_that_others_read_stays_for_them() -> None:
    made = model(f"{TURNED} [q] z = Relu(t)", "float16[i, j, k] y, float16[l, m, o] z")
    assert turn_behind_products(made) == 1
    assert Counter(n.op_type for n in made.graph.node)["Transpose"] == 2
    np.testing.assert_array_equal(run(made)[1], np.maximum(X.transpose(1, 0, 2), 0))


def test_it_moves_inside_a_branch_that_reads_a_weight_from_outside() -> None:
    held = f"""c = Constant<value = bool {{1}}>()
      y = If(c)<then_branch = g () => (float16[i, j, k] y1) {{{TURNED.replace("y =", "y1 =")}}},
      else_branch = h () => (float16[i, j, k] y2) {{ t2 = Transpose<perm = [1, 0, 2]>(x)
      y2 = MatMul(t2, w) }}>"""
    made = model(held)
    assert turn_behind_products(made) == 2
    onnx.checker.check_model(made, full_check=True)
    exact = X.astype(np.float64).transpose(1, 0, 2) @ W.astype(np.float64)
    np.testing.assert_allclose(run(made)[0], exact, atol=2**-9)


def test_a_weight_that_is_turned_first_is_one() -> None:
    made = model("s = Transpose<perm = [1, 0]>(r) " + TURNED.replace("(t, w)", "(t, s)"))
    assert turn_behind_products(made) == 1
    assert [node.op_type for node in made.graph.node] == ["Transpose", "MatMul", "Transpose"]
    run(made)


@pytest.mark.parametrize("nodes", LEFT.values(), ids=LEFT)
def test_others_stay(nodes: str) -> None:
    made = model(nodes)
    before = made.SerializeToString(deterministic=True)
    assert turn_behind_products(made) == 0
    assert made.SerializeToString(deterministic=True) == before
    run(made)


def test_a_damaged_permutation_is_none() -> None:
    made = model(TURNED)
    made.graph.node[0].attribute[0].CopyFrom(onnx.helper.make_attribute("perm", 1.0))
    assert turn_behind_products(made) == 0


def test_a_weight_in_fp32_is_no_such_product() -> None:
    made = model(TURNED)
    for info in (*made.graph.input, *made.graph.output):
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(W.astype(np.float32), "w"))
    assert turn_behind_products(made) == 0
