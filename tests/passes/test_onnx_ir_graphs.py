"""The onnx_ir pass on functions, attention ops, scales of others, and weights wherever they lie."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from slanc_onnx import Accelerator, Options, SlancError, protect
from slanc_onnx.options import ApplyRule
from tests.models.every_edit import IDS, every_edit
from tests.norms.test_heads import written
from tests.oracles.unoptimised import different, run

ir: Any = pytest.importorskip("onnx_ir")

from passes.onnx_ir import SlancPass, scale_model  # noqa: E402

WEIGHTS = Options(estimate="weights")
FOLD = Options(estimate="weights", apply="fold")
BOTH = pytest.mark.parametrize("apply", ["div", "fold"])


def read(text: str) -> Any:
    return ir.from_proto(onnx.parser.parse_model(text))


def test_a_fold_divides_weights_and_keeps_all_others() -> None:
    model = ir.from_proto(every_edit())
    nodes = list(model.graph)
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    scale_model(model, FOLD)
    now = model.graph.initializers
    assert {name for name, held in before.items() if now[name].const_value is not held} == {
        "table",
        "bias",
    }
    half = now["table"].const_value.numpy() * np.float32(1024)
    assert (half == before["table"].numpy()).all()
    assert all(any(node is kept for kept in model.graph) for node in nodes)


CONSTANT = """
<ir_version: 10, opset_import: ["": 17]>
main (float[3, 2] x) => (float[3, 4] y) <float[4] g = {1, 2, 3, 4}>
{
    w = Constant<value = float[2, 4] {900, 1, 2, 3, 4, 5, 6, -900}>()
    b = Constant<value_floats = [500.0, 1.0, 2.0, 3.0]>()
    h = MatMul(x, w) s = Add(h, b)
    [n] y = LayerNormalization<axis = -1>(s, g)
}
"""


def test_weights_in_constant_nodes_are_folded_into() -> None:
    model = read(CONSTANT)
    before = run(ir.to_proto(model), x=np.ones((3, 2), np.float32))
    scale_model(model, FOLD)
    assert [node.op_type for node in model.graph] == [
        *("Constant", "Constant", "MatMul", "Add", "LayerNormalization")
    ]
    assert different(before, run(ir.to_proto(model), x=np.ones((3, 2), np.float32))) == []


@BOTH
def test_norms_inside_an_attention_op_are_written_out(apply: ApplyRule) -> None:
    proto, model = written(), ir.from_proto(written())
    options = Options(estimate="weights", apply=apply)
    decided = protect(proto, options)
    assert scale_model(model, options) == decided
    assert [n.op_type for n in model.graph] == [n.op_type for n in proto.graph.node]


FUNCTIONS = """
<ir_version: 10, opset_import: ["": 17, "local": 1], metadata_props: ["author": "someone"]>
main (float[2, 4] x, bool deep) => (float[2, 4] y)
<float[4, 4] w = {900,1,2,3, 4,-900,6,7, 8,9,900,5, 4,3,2,-900}, float[4] g = {1, 2, 3, 4}>
{
    h = MatMul(x, w)
    n = local.norm (h, g)
    c = If (deep) <
        then_branch = a () => (float[2, 4] o) { p = MatMul(n, w) o = local.norm (p, g) },
        else_branch = b () => (float[2, 4] o) { o = Add(n, g) }
    >
    y = local.twice (c)
}
<domain: "local", opset_import: ["": 17]>
norm (a, g) => (b) { b = LayerNormalization<axis = -1>(a, g) }
<domain: "local", opset_import: ["": 17]>
twice (a) => (b) { b = Add(a, a) }
"""


@BOTH
@pytest.mark.parametrize("deep", [True, False])
def test_functions_with_norms_are_inlined_and_others_stay(apply: ApplyRule, deep: bool) -> None:
    model, options = read(FUNCTIONS), Options(estimate="weights", apply=apply)
    weights = model.graph.initializers
    before = ir.to_proto(model)
    held = {name: weights[name].const_value for name in ("w", "g")}
    assert [d.status for d in scale_model(model, options)] == ["scaled", "scaled"]
    assert [key[1] for key in model.functions] == ["twice"]
    assert model.metadata_props == {"author": "someone"}
    assert model.graph.initializers["g"].const_value is held["g"]
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    feeds = {"x": x, "deep": np.array(deep)}
    assert different(run(before, **feeds), run(ir.to_proto(model), **feeds)) == []
    assert {d.status for d in scale_model(model, options)} == {"unchanged"}


def test_scales_for_another_target_are_taken_out() -> None:
    other = Options(estimate="weights", accelerator=Accelerator("pairwise"))
    model, proto = ir.from_proto(every_edit()), every_edit()
    scale_model(model, WEIGHTS)
    assert {d.status for d in scale_model(model, other)} == {"scaled"}
    protect(proto, other)
    assert [n.name for n in model.graph] == [n.name for n in proto.graph.node]
    feeds = {"ids": IDS, "deep": np.array(True)}
    assert different(run(proto, **feeds), run(ir.to_proto(model), **feeds)) == []


def test_a_model_with_functions_is_not_inlined_where_its_input_is_bad() -> None:
    model = read(FUNCTIONS)
    model.graph.initializers["w"].const_value = ir.tensor(np.full((4, 4), np.nan, np.float32))
    before = ir.to_proto(model).SerializeToString()
    with pytest.raises(SlancError, match="holds nan"):
        scale_model(model, WEIGHTS)
    with pytest.raises(SlancError, match="to 'fp16' is not done on a model of onnx_ir"):
        scale_model(model, Options(to="fp16"))
    assert ir.to_proto(model).SerializeToString() == before


def test_a_fold_takes_external_weights_that_it_divides_into_the_model(tmp_path: Path) -> None:
    save_in_two_files(tmp_path)
    data = (tmp_path / "w.bin").read_bytes()
    model = ir.load(tmp_path / "model.onnx")
    assert SlancPass(FOLD)(model).modified
    assert not isinstance(model.graph.initializers["table"].const_value, ir.ExternalTensor)
    assert (tmp_path / "w.bin").read_bytes() == data
    feeds = {"ids": IDS, "deep": np.array(True)}
    assert different(run(every_edit(), **feeds), run(ir.to_proto(model), **feeds)) == []


def save_in_two_files(folder: Path) -> None:
    onnx.save(
        every_edit(),
        folder / "model.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=100,
    )


def test_external_weights_are_read_from_their_folder_and_stay_there(tmp_path: Path) -> None:
    save_in_two_files(tmp_path)
    model = ir.load(tmp_path / "model.onnx")
    assert SlancPass(WEIGHTS)(model).modified
    table = model.graph.initializers["table"].const_value
    assert isinstance(table, ir.ExternalTensor)
    assert table.location == "w.bin"
    other = ir.load(tmp_path / "model.onnx").graph.initializers["table"].const_value
    other.base_dir = "elsewhere"
    model.graph.register_initializer(ir.Value(name="other", const_value=other))
    with pytest.raises(SlancError, match="several folders"):
        SlancPass().call(model)
