"""The sidecar of a merged file: what products are divided to, as that file has it."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from slanc_onnx import Options, protect_file
from slanc_onnx.options import To
from slanc_onnx.report.sidecar import sidecar
from tests.models.merge_models import RMS, model

PRODUCT_OPS = ("MatMul", "Gemm")
NORM = RMS.format("n", "rows")
PRODUCTS = "    p = MatMul(n_x, w) q = MatMul(n_x, w2) y = Add(p, q)"


def test_the_sidecar_names_what_is_divided(tmp_path: Path) -> None:
    source, first, second = (tmp_path / f"{name}.onnx" for name in ("given", "first", "second"))
    onnx.save(model(NORM + PRODUCTS), source)
    options = Options(estimate="weights", apply="fold", merge=["division"], certify="off")
    (norm,) = sidecar(protect_file(source, first, options))["norms"]
    assert norm["products"] == ["p", "q"] and norm["tensor"] == "rows"
    (again,) = sidecar(protect_file(first, second, options))["norms"]
    assert again["products"] == ["p", "q"]
    (plain,) = sidecar(protect_file(source, second, Options(estimate="weights")))["norms"]
    assert plain["products"] == []
    (dry,) = sidecar(protect_file(source, second, replace(options, dry_run=True)))["norms"]
    assert dry["products"] == []


@pytest.mark.parametrize("to", [None, "fp16"])
@pytest.mark.parametrize("validated", [False, True])
def test_the_sidecar_names_what_is_divided_before_a_bias_is_added(
    to: To | None, validated: bool, tmp_path: Path
) -> None:
    """That of a Gemm, and one that a beta makes: what has the product's name is their sum."""
    flat = "    shape = Constant<value_ints = [-1, 8]>() flat = Reshape(rows, shape)"
    nodes = (
        f"{flat}{RMS.format('n', 'flat')}    g = Mul(n_x, gamma) h = Add(g, beta)"
        "    p = Gemm(h, w, b) q = MatMul(h, w2) y = Add(p, q)"
    )
    source, output = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(model(nodes, outputs="float[a, c] y"), source)
    options = Options(to=to, apply="fold", merge=["all"], certify="off", validate=validated)
    (norm,) = sidecar(protect_file(source, output, options))["norms"]
    written = onnx.load(output).graph.node
    made = {name: node for node in written for name in node.output}
    assert len(norm["products"]) == 2
    for name in norm["products"]:
        assert made[name].op_type == "Div" and made[made[name].input[0]].op_type in PRODUCT_OPS
        assert {node.op_type for node in written if name in node.input} == {"Add"}
