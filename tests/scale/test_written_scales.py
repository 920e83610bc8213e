"""A certificate is about the scale that is written: by each rule, as nodes and in the weights.

The rows of the written model, and adversarial ones at the bound, go through the arithmetic of the
norm as the written file has it, which NumPy emulates.
"""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from slanc_onnx import Options, ScaledNorm, find_norms, protect
from slanc_onnx.norms.norm import Norm, as_computed
from slanc_onnx.options import ApplyRule, ScaleRule
from slanc_onnx.targets import TARGETS
from tests.models.four_norms import four_norms
from tests.models.small_graphs import between, normal
from tests.oracles.adversarial import adversarial_rows
from tests.oracles.shown_rows import EACH
from tests.oracles.stepwise_norm import Double, StepwiseNorm
from tests.oracles.unoptimised import run
from tests.places import SAMPLES

HOW: list[tuple[ScaleRule, ApplyRule]] = [
    ("window", "div"),
    ("window", "fold"),
    ("paper", "div"),
    ("calibrated", "div"),
    ("calibrated", "fold"),
]
each_way = pytest.mark.parametrize(("scale", "apply"), HOW, ids=[" ".join(way) for way in HOW])
IDS = {"ids": EACH}


def two_norms() -> onnx.ModelProto:
    """A projection that makes rows large between two norms, in FP32."""
    return between("total = MatMul(x, w)", {"w": normal(1, 8, 8, spread=300.0)})


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with weights and outputs in FP16."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return model


def scaled(
    model: onnx.ModelProto, scale: ScaleRule, apply: ApplyRule, target: str = "fp16-sequential"
) -> tuple[list[ScaledNorm], onnx.ModelProto, dict[str, Norm]]:
    """The decisions, the written model and its norms by name, as the device computes them."""
    written = onnx.ModelProto()
    written.CopyFrom(model)
    device = TARGETS[target]
    inputs = IDS if scale == "calibrated" else None
    options = Options(
        scale=scale, apply=apply, estimate="weights", accelerator=device, inputs=inputs
    )
    decided = protect(written, options)
    found = as_computed(find_norms(written), device.variance == "one-pass")
    return decided, written, {n.name: replace(n, scaled_by=None) for n in found}


def rows_at(model: onnx.ModelProto, norm: Norm) -> Double:
    """The rows of a norm's input, as ONNX Runtime gives them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.add(name=norm.input).type.tensor_type.elem_type = norm.element_type
    rows = run(copy, **IDS)[norm.input]
    return np.asarray(rows.reshape(-1, rows.shape[-1]), np.float64)


@each_way
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_rows_are_divided_by_the_scale_that_is_told(
    scale: ScaleRule, apply: ApplyRule, half: bool
) -> None:
    model = in_half(two_norms()) if half else two_norms()
    decided, written, after = scaled(model, scale, apply)
    for each in decided:
        assert each.status == "scaled" and each.scale is not None
        before, divided = rows_at(model, each.norm), rows_at(written, after[each.norm.name])
        if scale == "paper":
            off = np.linalg.norm(divided * each.scale - before)
            assert off <= (2.0**-8 if half else 2.0**-20) * np.linalg.norm(before)
        else:
            assert (divided * each.scale == before).all()


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_the_papers_scale_is_told_as_it_is_written(half: bool) -> None:
    """It is no power of two, so the file rounds it."""
    model = in_half(two_norms()) if half else two_norms()
    decided, written, _ = scaled(model, "paper", "div")
    constants = {t.name: numpy_helper.to_array(t) for t in written.graph.initializer}
    held = {float(v) for name, v in constants.items() if name.startswith("slanc.scale")}
    assert {each.scale for each in decided} == held


@each_way
@pytest.mark.parametrize("target", TARGETS)
def test_rows_at_the_bound_are_safe_in_the_norm_that_is_written(
    scale: ScaleRule, apply: ApplyRule, target: str
) -> None:
    rng, seen = np.random.default_rng(0), 0
    for model in (two_norms(), in_half(two_norms())):
        decided, _, after = scaled(model, scale, apply, target)
        for each in decided:
            certificate = each.certificate
            if certificate is None or not certificate.certified:
                continue
            assert certificate.bound.length is not None and each.affine is not None
            rows = adversarial_rows(rng, 8, certificate.bound.length, None)
            norm = StepwiseNorm(after[each.norm.name], TARGETS[target], 1.0, *each.affine[:2])
            bad = norm(rows / float(each.scale or 1.0)).bad
            assert set(bad) == {""}, each.norm.name
            seen += 1
    assert seen > 0


def test_an_excluded_norm_keeps_the_certificate_of_its_rows_as_they_are() -> None:
    for apply in ("div", "fold"):
        options = Options(estimate="weights", apply=apply, exclude="^mild$")
        mild = {d.norm.name: d for d in protect(four_norms(), options)}["mild"]
        assert mild.status == "skipped" and mild.certificate is not None
        alone = {d.norm.name: d for d in protect(four_norms(), Options(estimate="weights"))}
        first = alone["mild"].certificate
        assert first is not None and mild.certificate.bound == first.bound
        bits = 2 * np.log2(alone["mild"].scale or 1.0)
        assert first.overflow_bits is not None and mild.certificate.overflow_bits is not None
        assert first.overflow_bits - mild.certificate.overflow_bits == pytest.approx(bits, abs=0.1)


@pytest.mark.parametrize("name", ["llama_like", "bert_like", "sandwich_like"])
def test_what_is_certified_lies_within_the_radius_of_its_scale(name: str) -> None:
    for apply in ("div", "fold"):
        decided = protect(
            onnx.load(SAMPLES / f"{name}.onnx"), Options(estimate="weights", apply=apply)
        )
        for each in decided:
            certificate, radius = each.certificate, each.safe_radius
            assert certificate is not None
            length = certificate.bound.length
            if certificate.certified:
                assert length is not None and radius is not None
                assert length <= radius * (1 + 2.0**-9)
