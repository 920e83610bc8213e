"""The onnx_ir pass among other passes, those of onnxscript and what torch.onnx exports."""

from typing import Any

import numpy as np
import pytest

from slanc_onnx import Options
from slanc_onnx.options import ApplyRule
from tests.models.every_edit import IDS, every_edit
from tests.oracles.unoptimised import different, run

ir: Any = pytest.importorskip("onnx_ir")
common: Any = pytest.importorskip("onnx_ir.passes.common")

from passes.onnx_ir import SlancPass, scale_model  # noqa: E402

WEIGHTS = Options(estimate="weights")
BOTH = pytest.mark.parametrize("apply", ["div", "fold"])


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
