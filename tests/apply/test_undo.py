"""A file that is scaled already, for another target or without its notes, is scaled as new."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Accelerator, Options, find_norms, protect, protect_file
from slanc_onnx.accelerator import Format
from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.apply.undo import without_scales_of_others
from slanc_onnx.norms import read_model
from slanc_onnx.options import ApplyRule
from slanc_onnx.reasons import Note
from tests.models.fold_models import LN, RMS, weights
from tests.models.small_graphs import D, graph, normal
from tests.norms.test_regions import inputs
from tests.oracles.unoptimised import different, run
from tests.places import SAMPLES
from tests.spellings.regions import FOUND
from tests.spellings.written import Written

ONE = Accelerator().summing("fp32")
OTHER = Accelerator(format=Format.named("bfloat16"), flush_subnormals=True)
ROWS = f"float[a, b, {D}] x"
SKIP = (
    "[m] a, m1, m2, s = com.microsoft.SkipLayerNormalization<epsilon = 0.001>(x, x, g1) "
    f"[n] n = {RMS}(s, g2) y = Add(a, n)"
)
BY_OPS = (
    "q = Mul(x, x) v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) r = Sqrt(e) z = Div(x, r) "
    "y = Mul(z, g1)"
)
TWICE = f"[m] a = {RMS}(x, g1) [n] n = {LN}(x, g2) y = Add(a, n)"
BY_SIZE = (
    "l = ReduceL2<axes = [-1]>(x) c = Clip(l, floor) w = Shape(x) z = Expand(c, w) y = Div(x, z)"
)
KEPT = ("a number per channel for epsilon", "cosine similarity with one epsilon for both")
SPREAD = normal(3, 2, 5, D, spread=300.0)


def model_of(nodes: str) -> onnx.ModelProto:
    floor = np.array(1e-3, np.float32)
    return graph(nodes, weights(eps=floor, floor=floor), ROWS)


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without notes, as graph tools write models."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        del node.metadata_props[:]
    return copy


def divs(model: onnx.ModelProto) -> int:
    return sum(node.op_type in ("Div", "Mul") for node in model.graph.node)


def scaled(model: onnx.ModelProto, device: Accelerator, size: float = 1.0) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    fed = {"x": SPREAD * np.float32(size)}
    protect(copy, Options(accelerator=device, inputs=fed, certify="off"))
    return copy


def facts(model: onnx.ModelProto) -> dict[str, tuple[float | None, float | None]]:
    return {norm.name: (norm.scaled_by, norm.epsilon) for norm in find_norms(model)}


@pytest.mark.parametrize("nodes", [SKIP, BY_OPS, TWICE, BY_SIZE])
@pytest.mark.parametrize("kept", [True, False])
def test_another_target_scales_as_from_the_original(nodes: str, kept: bool) -> None:
    original, first = model_of(nodes), model_of(nodes)
    norms = find_norms(first)
    apply_scales_in(first, norms, {norm.name: 2.0 for norm in norms}, "another target")
    wanted = scaled(original, ONE)
    assert facts(first) != facts(wanted)
    again = scaled(first if kept else bare(first), ONE)
    assert facts(again) == facts(wanted) and divs(again) == divs(wanted)
    assert different(run(original, x=SPREAD), run(again, x=SPREAD)) == []


@pytest.mark.parametrize("written", FOUND, ids=str)
@pytest.mark.parametrize("kept", [True, False])
def test_norms_of_every_spelling_are_as_they_were(written: Written, kept: bool) -> None:
    original, model = written.model(), written.model()
    norms = find_norms(model)
    apply_scales_in(model, norms, {norm.name: 8.0 for norm in norms}, "another target")
    read, taken = without_scales_of_others(read_model(model if kept else bare(model)), ONE.stamp)
    if written.title in KEPT:  # their epsilon is no constant of their own
        assert len(taken) < len(norms)
        assert {norm.scaled_by for norm in read.norms if norm.name not in taken} == {8.0}
    else:
        assert taken == [norm.name for norm in norms]
        assert len(read.model.graph.node) == len(original.graph.node)
        for norm, before in zip(read.norms, norms, strict=True):
            assert norm.epsilon == pytest.approx(before.epsilon, rel=2**-23, abs=0)
    assert different(run(original, **inputs(written)), run(read.model, **inputs(written))) == []


@pytest.mark.parametrize("nodes", [SKIP, BY_OPS, TWICE, BY_SIZE])
def test_divs_do_not_stack_on_a_file_without_notes(nodes: str) -> None:
    first = scaled(model_of(nodes), ONE)
    again = scaled(bare(first), ONE)
    assert facts(again) == facts(first) and divs(again) == divs(first)


def test_the_same_target_leaves_a_file_as_it_is() -> None:
    first = scaled(model_of(TWICE), ONE)
    assert scaled(first, ONE).SerializeToString() == first.SerializeToString()


@pytest.mark.parametrize("ir_version", [3, 10])
@pytest.mark.parametrize("apply", ["div", "fold"])
def test_no_constant_of_the_scales_that_were_taken_out_is_left(
    apply: ApplyRule, ir_version: int
) -> None:
    model = onnx.load(SAMPLES / "llama_like.onnx")
    if ir_version < 4:  # each initializer is an input too
        model.ir_version = ir_version
        infos = [
            onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
            for t in model.graph.initializer
        ]
        model.graph.input.extend(infos)
    known = {tensor.name for tensor in model.graph.initializer}
    inputs = {info.name for info in model.graph.input} - known
    for device in (ONE, OTHER):
        protect(model, Options(accelerator=device, certify="off", apply=apply, estimate="weights"))
        read = {name for node in model.graph.node for name in node.input}
        own = {tensor.name for tensor in model.graph.initializer} - known
        assert own and own <= read
        left = {info.name for info in model.graph.input} - known - own
        assert left == inputs


def test_divs_that_a_tool_merged_are_taken_out_of_both_norms() -> None:
    first = bare(scaled(model_of(TWICE), ONE))
    reads = [(n, i) for n in first.graph.node for i, name in enumerate(n.input) if "/slanc" in name]
    values = {n.name: onnx.numpy_helper.to_array(n) for n in first.graph.initializer}
    made = {n.output[0]: float(values[n.input[1]]) for n in first.graph.node if n.op_type == "Div"}
    if len(set(made.values())) > 1:
        pytest.skip("the norms have different scales")
    for node, position in reads:
        node.input[position] = next(iter(made))
    spare = [n for n in first.graph.node if n.op_type == "Div"][1:]
    for node in spare:
        first.graph.node.remove(node)
    again = scaled(first, ONE)
    assert facts(again) == facts(scaled(model_of(TWICE), ONE))


def test_a_div_that_something_else_reads_is_no_scale() -> None:
    nodes = f"h = Div(x, four) [n] n = {RMS}(h, g1) y = Add(h, n)"
    model = graph(nodes, weights(four=np.array(4, np.float32)), ROWS)
    read, taken = without_scales_of_others(read_model(model), ONE.stamp)
    assert taken == [] and read.model is model


# A LayerNorm and an RMSNorm in the suite; the third has RMSNorms too, and gammas plus 1.
@pytest.mark.parametrize(
    "sample", ["bert_like", "llama_like", pytest.param("sandwich_like", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("apply", ["div", "fold"])
def test_the_file_says_so_and_divs_do_not_stack(tmp_path: Path, sample: str, apply: str) -> None:
    source, one, two = SAMPLES / f"{sample}.onnx", tmp_path / "one.onnx", tmp_path / "two.onnx"
    direct = tmp_path / "direct.onnx"
    options = {d: Options(accelerator=d, certify="off", apply=apply) for d in (ONE, OTHER)}  # type: ignore[arg-type]
    quick = {d: replace(option, validate=False) for d, option in options.items()}
    assert all(
        note.kind is not Note.SCALED_ANEW for note in protect_file(source, one, quick[ONE]).notes
    )
    onnx.save(bare(onnx.load(one)), tmp_path / "bare.onnx")
    protect_file(source, direct, quick[OTHER])
    for path in (one, tmp_path / "bare.onnx"):
        outcome = protect_file(path, two, options[OTHER])
        assert outcome.validation is not None and outcome.validation.fp32_identical
        assert outcome.validated
        if apply == "div":
            assert facts(onnx.load(two)) == facts(onnx.load(direct))
            assert divs(onnx.load(two)) == divs(onnx.load(direct))
            assert any(note.kind is Note.SCALED_ANEW for note in outcome.notes)
