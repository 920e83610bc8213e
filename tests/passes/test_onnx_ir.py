"""The onnx_ir pass edits a model as the library edits the same ModelProto, and says so truly."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from slanc_onnx import Options, SlancError, find_norms, protect
from slanc_onnx.options import ApplyRule
from tests.models.every_edit import IDS, every_edit
from tests.oracles.proto_diff import differences
from tests.oracles.unoptimised import different, run
from tests.places import SAMPLES

ir: Any = pytest.importorskip("onnx_ir")

from passes.onnx_ir import SlancPass, scale_model  # noqa: E402

WEIGHTS = Options(estimate="weights")
FOLD = Options(estimate="weights", apply="fold")
MERGED = Options(apply="fold", merge=["all"], certify="off")
BOTH = pytest.mark.parametrize("apply", ["div", "fold"])


def in_ir(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as onnx_ir writes it: it orders metadata by key, for one."""
    written: onnx.ModelProto = ir.to_proto(ir.from_proto(model))
    return written


def read(text: str) -> Any:
    return ir.from_proto(onnx.parser.parse_model(text))


@BOTH
@pytest.mark.parametrize("name", ["bert_like", "llama_like", "sandwich_like"])
def test_a_sample_model_becomes_what_the_library_makes_of_it(name: str, apply: ApplyRule) -> None:
    proto, model = onnx.load(SAMPLES / f"{name}.onnx"), ir.load(SAMPLES / f"{name}.onnx")
    options = Options(apply=apply, certify="off")
    decided = protect(proto, options)
    assert scale_model(model, options) == decided
    added = [f for f in differences(in_ir(proto), ir.to_proto(model)) if "value_info" not in f]
    assert added == []


@pytest.mark.parametrize("name", ["bert_like", "llama_like", "sandwich_like"])
def test_parts_of_norms_are_merged_as_the_library_does(name: str) -> None:
    proto, model = onnx.load(SAMPLES / f"{name}.onnx"), ir.load(SAMPLES / f"{name}.onnx")
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    decided = protect(proto, MERGED)
    assert scale_model(model, MERGED) == decided
    added = [f for f in differences(in_ir(proto), ir.to_proto(model)) if "value_info" not in f]
    assert added == []
    kept = [n for n, v in model.graph.initializers.items() if v.const_value is before.get(n)]
    assert 0 < len(kept) < len(before)
    again = SlancPass(MERGED)(model)
    assert not again.modified and {d.status for d in scale_model(model, MERGED)} == {"unchanged"}


def test_what_is_merged_behind_norms_that_are_scaled_already_modifies_the_model() -> None:
    model = ir.load(SAMPLES / "llama_like.onnx")
    assert SlancPass(FOLD)(model).modified
    assert SlancPass(MERGED)(model).modified
    assert {norm.gamma for norm in find_norms(ir.to_proto(model))} == {None}


@BOTH
@pytest.mark.parametrize("deep", [True, False])
def test_every_edit_gives_the_same_bits(deep: bool, apply: ApplyRule) -> None:
    proto, model = every_edit(), ir.from_proto(every_edit())
    options = Options(estimate="weights", apply=apply)
    decided = scale_model(model, options)
    assert [(d.norm.name, d.status) for d in decided] == [
        ("first", "scaled"),
        ("second", "scaled"),
        ("third", "scaled"),
        ("fourth", "scaled"),
    ]
    feeds = {"ids": IDS, "deep": np.array(deep)}
    before = run(proto, **feeds)
    protect(proto, options)
    scaled = ir.to_proto(model)
    onnx.shape_inference.infer_shapes(scaled, check_type=True, strict_mode=True)
    assert different(before, run(scaled, **feeds)) == []
    assert different(before, run(proto, **feeds)) == []


def test_nothing_but_the_norms_changes() -> None:
    before, model = in_ir(every_edit()), ir.from_proto(every_edit())
    scales = [d.scale or 0.0 for d in scale_model(model, WEIGHTS)]
    epsilon = f"slanc.epsilon_{float(np.float32(1e-5)) / scales[2] ** 2:g}"
    attribute = "graph.node[{}].attribute[epsilon]"
    changed = differences(before, ir.to_proto(model))
    changed = [d for d in changed if ".f: " not in d and "value_info[slanc." not in d]
    assert sorted(changed) == sorted(
        [
            *(f"graph.initializer[slanc.scale_{scale:g}]: added" for scale in set(scales)),
            f"graph.initializer[{epsilon}]: added",
            "graph.node[h/slanc]: added",
            "graph.node[a].input: ['h', 'g', 'b'] -> ['h/slanc', 'g', 'b']",
            "graph.node[h/slanc_2]: added",
            "graph.node[a/slanc]: added",
            "graph.node[bias/slanc]: added",
            "graph.node[z].input: ['h', 'a', 'g', 'b', 'bias'] -> "
            "['h/slanc_2', 'a/slanc', 'g', 'b', 'bias/slanc']",
            "graph.node[z].output: ['z', 'mean', 'inv', 'sum'] -> "
            "['z', 'mean', 'inv', 'sum/slanc']",
            attribute.format("z") + ": added",
            "graph.node[sum]: added",
            "graph.node[sum/slanc_2]: added",
            "graph.node[q].input: ['sum', 'sum'] -> ['sum/slanc_2', 'sum/slanc_2']",
            f"graph.node[v].input: ['m', 'eps'] -> ['m', '{epsilon}']",
            "graph.node[n].input: ['sum', 's'] -> ['sum/slanc_2', 's']",
            "graph.node[c].attribute[then_branch].g.node[sum/slanc_3]: added",
            "graph.node[c].attribute[then_branch].g.node[o].input: ['sum', 'g'] -> "
            "['sum/slanc_3', 'g']",
            "graph.node[c].attribute[then_branch].g.node[o].attribute[epsilon]: added",
            *(
                f"graph.value_info[{name}]: added"
                for name in ("h/slanc", "h/slanc_2", "bias/slanc")
            ),
            *(
                f"graph.value_info[{name}]: added"
                for name in ("a/slanc", "sum/slanc", "sum/slanc_2")
            ),
            "graph.node[c].attribute[then_branch].g.value_info[sum/slanc_3]: added",
        ]
    )


def test_new_values_have_the_type_and_shape_of_what_they_scale() -> None:
    model = ir.from_proto(every_edit())
    first = scale_model(model, WEIGHTS)[0]
    (div,) = [node for node in model.graph if node.name == "first/slanc_Div"]
    (output,) = div.outputs
    assert output.type == ir.TensorType(ir.DataType.FLOAT)
    assert output.shape == div.inputs[0].shape
    assert div.metadata_props == {
        "slanc.scale": repr(first.scale),
        "slanc.norm": "first",
        "slanc.target": "FP16, sequential sums, subnormals kept, two-pass variance",
    }
    (total,) = [node for node in model.graph if node.name == "second/slanc_Mul"]
    assert total.outputs[0] is model.graph.outputs[1]
    assert total.outputs[0].shape == ir.Shape([1, "rows", 4])


@pytest.mark.parametrize("options", [WEIGHTS, FOLD], ids=["div", "fold"])
def test_a_second_run_changes_nothing(options: Options) -> None:
    model = ir.from_proto(every_edit())
    assert SlancPass(options)(model).modified
    once = ir.to_proto(model).SerializeToString()
    again = SlancPass(options)(model)
    assert again.model is model
    assert not again.modified
    assert ir.to_proto(model).SerializeToString() == once
    assert {d.status for d in scale_model(model, options)} == {"unchanged"}


NOT_SCALED = {
    "no norm": "y = Relu(x)",
    "its inverse deviation is read": (
        "n, m, d = LayerNormalization<axis = -1>(x, g) y = Mul(n, d)"
    ),
}


@pytest.mark.parametrize("title", NOT_SCALED)
def test_a_model_without_a_norm_to_scale_is_not_modified(title: str) -> None:
    model = read(f"""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[3, 4] x) => (float[3, 4] y)
        <float[4] g = {{1, 1, 1, 1}}>
        {{ {NOT_SCALED[title]} }}""")
    before = ir.to_proto(model)
    result = SlancPass()(model)
    assert not result.modified
    assert differences(before, ir.to_proto(model)) == []


def test_a_norm_whose_best_scale_is_1_gets_a_note_and_no_node() -> None:
    model = read("""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[3, 4] x) => (float[3, 4] y) <float[4] g = {1, 1, 1, 1}, float k = {2}>
        { u = Mul(x, k) [n] y = LayerNormalization<axis = -1>(u, g) }""")
    before = ir.to_proto(model)
    assert SlancPass()(model).modified
    assert differences(before, ir.to_proto(model)) == [
        "graph.node[y].metadata_props[slanc.norm]: added",
        "graph.node[y].metadata_props[slanc.scale]: added",
        "graph.node[y].metadata_props[slanc.target]: added",
    ]
    assert not SlancPass()(model).modified


def test_bad_input_leaves_the_model_as_it_is() -> None:
    proto = every_edit()
    table = np.full((8, 4), np.nan, np.float32)
    proto.graph.initializer[-1].CopyFrom(numpy_helper.from_array(table, "table"))
    model = ir.from_proto(proto)
    before = ir.to_proto(model).SerializeToString()
    with pytest.raises(SlancError, match="weight 'table' holds nan"):
        scale_model(model, WEIGHTS)
    assert ir.to_proto(model).SerializeToString() == before
