"""The onnx_ir pass edits a model as the library edits the same ModelProto, and says so truly."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from slanc_onnx import Accelerator, Options, SlancError, protect
from slanc_onnx.options import ApplyRule
from tests.norms.test_heads import written
from tests.oracles.proto_diff import differences
from tests.oracles.unoptimised import different, run
from tests.places import SAMPLES

ir: Any = pytest.importorskip("onnx_ir")
common: Any = pytest.importorskip("onnx_ir.passes.common")

from passes.onnx_ir import SlancPass, scale_model  # noqa: E402

WEIGHTS = Options(estimate="weights")
FOLD = Options(estimate="weights", apply="fold")
BOTH = pytest.mark.parametrize("apply", ["div", "fold"])

# Every kind of edit: an epsilon attribute and an epsilon input, a Skip op whose sum of addends is
# read, is a graph output and goes on into a branch, and a norm inside that branch.
EVERY_EDIT = """
<
    ir_version: 10, opset_import: ["": 17, "com.microsoft": 1], producer_name: "exporter",
    doc_string: "a model", metadata_props: ["author": "someone"]
>
main (int64[1, rows] ids, bool deep)
    => (float[1, rows, 4] y, float[1, rows, 4] sum, float[1, rows, 4] z)
<
    float[4] g = {1, 2, 3, 4}, float[4] b = {4, 3, 2, 1}, float[4] bias = {500, 6, 7, -800},
    float eps = {1e-5}, float[1, rows, 4] h
>
{
    h = Gather(table, ids)
    [first] a = LayerNormalization<axis = -1, epsilon = 1e-5>(h, g, b)
    [second] z, mean, inv, sum = com.microsoft.SkipLayerNormalization(h, a, g, b, bias)
    q = Mul(sum, sum)
    m = ReduceMean<axes = [-1]>(q)
    v = Add(m, eps)
    s = Sqrt(v)
    [third] n = Div(sum, s)
    [choice] c = If (deep) <
        then_branch = deeper () => (float[1, rows, 4] o) {
            [fourth] o = LayerNormalization<axis = -1>(sum, g)
        },
        else_branch = as_it_is () => (float[1, rows, 4] o) { o = Identity(sum) }
    >
    y = Add(c, n)
}
"""
IDS = np.array([[0, 3, 5, 2, 7]])


def every_edit() -> onnx.ModelProto:
    model = onnx.parser.parse_model(EVERY_EDIT)
    table = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32) * 3000
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    for node in model.graph.node:
        node.doc_string = f"makes {node.output[0]}"
    return model


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


def test_a_model_with_functions_is_not_inlined_where_its_input_is_bad() -> None:
    model = read(FUNCTIONS)
    model.graph.initializers["w"].const_value = ir.tensor(np.full((4, 4), np.nan, np.float32))
    before = ir.to_proto(model).SerializeToString()
    with pytest.raises(SlancError, match="holds nan"):
        scale_model(model, WEIGHTS)
    with pytest.raises(SlancError, match="to 'fp16' is not done on a model of onnx_ir"):
        scale_model(model, Options(to="fp16"))
    assert ir.to_proto(model).SerializeToString() == before


def test_bad_input_leaves_the_model_as_it_is() -> None:
    proto = every_edit()
    table = np.full((8, 4), np.nan, np.float32)
    proto.graph.initializer[-1].CopyFrom(numpy_helper.from_array(table, "table"))
    model = ir.from_proto(proto)
    before = ir.to_proto(model).SerializeToString()
    with pytest.raises(SlancError, match="weight 'table' holds nan"):
        scale_model(model, WEIGHTS)
    assert ir.to_proto(model).SerializeToString() == before


def test_it_works_among_other_passes() -> None:
    model = ir.from_proto(every_edit())
    # Merges the Divs of norms with one input and one scale, and drops the epsilon that is unused.
    others = [
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.TopologicalSortPass(),
    ]
    manager = ir.passes.PassManager([SlancPass(WEIGHTS), *others])
    assert manager(model).modified
    assert [node.name for node in model.graph if node.op_type == "Div"] == [
        "first/slanc_Div",
        "second/slanc_Div_2",
        "second/slanc_Div_3",
        "third/slanc_Div",
        "third",
    ]
    assert "eps" not in model.graph.initializers
    assert not ir.passes.Sequential(SlancPass(WEIGHTS), SlancPass(WEIGHTS))(model).modified
    feeds = {"ids": IDS, "deep": np.array(True)}
    assert different(run(every_edit(), **feeds), run(ir.to_proto(model), **feeds)) == []


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


@BOTH
@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.filterwarnings("ignore")
def test_a_model_from_torch_export(opset: int, apply: ApplyRule) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch makes the model")
    pytest.importorskip("onnxscript", reason="torch.onnx.export(dynamo=True) needs it")

    class Block(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(50, 32)
            self.first, self.second = torch.nn.RMSNorm(32), torch.nn.LayerNorm(32)
            self.linear = torch.nn.Linear(32, 32)

        def forward(self, ids: Any) -> Any:
            x = self.table(ids) * 100
            return self.second(x + self.linear(self.first(x)))

    torch.manual_seed(0)
    ids = torch.arange(7)[None]
    shapes = ({1: torch.export.Dim("sequence")},)
    program = torch.onnx.export(
        Block().eval(), (ids,), dynamo=True, opset_version=opset, dynamic_shapes=shapes
    )
    feeds = {program.model.graph.inputs[0].name: ids.numpy()}
    before = run(ir.to_proto(program.model), **feeds)
    slanc = SlancPass(Options(apply=apply))
    assert slanc(program.model).modified
    noted = [node for node in program.model.graph if "slanc.scale" in node.metadata_props]
    assert all(float(node.metadata_props["slanc.scale"]) in (128, 256) for node in noted)
    assert len(noted) == 2
    divs = [node for node in noted if node.op_type == "Div"]
    assert len(divs) == (2 if apply == "div" else 0)
    assert different(before, run(ir.to_proto(program.model), **feeds)) == []
    assert not slanc(program.model).modified


@BOTH
def test_it_works_in_a_pipeline_of_onnxscripts_optimizer(apply: ApplyRule) -> None:
    optimizer = pytest.importorskip("onnxscript.optimizer", reason="onnxscript has the passes")
    rewriter = pytest.importorskip("onnxscript.rewriter")
    folding, rules = optimizer.constant_folding.FoldConstantsPass, rewriter.rules.common
    options = Options(estimate="weights", apply=apply)
    model = ir.from_proto(every_edit())
    optimizer.optimize(model)
    plain = ir.to_proto(model)
    manager = ir.passes.PassManager(
        [
            folding(shape_inference=True, input_size_limit=8192, output_size_limit=1 << 18),
            SlancPass(options),
            rewriter.RewritePass([rules.no_op_cast_rule, rules.mul_by_1_rule, rules.div_by_1_rule]),
            common.RemoveUnusedNodesPass(),
        ],
        steps=2,
    )
    assert manager(model).modified
    once = len(model.graph)
    optimizer.optimize(model)  # and all of it behind the pass
    assert {d.status for d in scale_model(model, options)} == {"unchanged"}
    assert len(model.graph) <= once
    for deep in (True, False):
        feeds = {"ids": IDS, "deep": np.array(deep)}
        assert different(run(plain, **feeds), run(ir.to_proto(model), **feeds)) == []
