"""1 in place of a scale: only where it serves all rows that the estimate knows of."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slanc_onnx import Accelerator, Options, Outcome, SlancError, compute_scales, protect_file
from slanc_onnx.options import ApplyRule, Required
from slanc_onnx.reasons import Decision, Note
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.scale.minimal import with_one, without_one
from slanc_onnx.targets import target
from tests.conftest import Run
from tests.models.fold_models import LN, RMS, weights
from tests.models.small_graphs import D, graph, normal
from tests.oracles.unoptimised import run as outputs_of
from tests.places import SAMPLES
from tests.scale.test_window import estimates

LLAMA, BERT = SAMPLES / "llama_like.onnx", SAMPLES / "bert_like.onnx"
MINIMAL = Options(minimal=True)
FLUSH = Accelerator(flush_subnormals=True)
UNIT = 2.0**-11  # of FP16
ONE = next(d for d in compute_scales(onnx.load(BERT), Options(certify="off")) if d.norm.width)
WIDTH = ONE.norm.width or 0


def at_one(found: ScaledNorm) -> bool:
    return found.scale == 1.0 and found.reasons[0].kind is Decision.ONE_IS_SAFE


def sum_in_fp16(row: np.ndarray, flush: bool) -> float:
    """Its squares in FP16 and their sum in FP64, so that squares alone are judged."""
    half = row.astype(np.float16)
    with np.errstate(over="ignore", under="ignore"):
        squares = (half * half).astype(np.float64)
    return float(np.where(flush & (squares < 2.0**-14), 0.0, squares).sum())


@given(estimates(widest=24.0), st.integers(-12, 20), st.booleans(), st.integers(0, 2**32 - 1))
def test_rows_of_the_estimate_neither_overflow_nor_fade_with_1(
    estimate: object, exponent: int, flush: bool, seed: int
) -> None:
    device = FLUSH if flush else Accelerator()
    norm = replace(ONE.norm, epsilon=0.0)
    asked = replace(ONE, norm=norm, estimate=estimate, scale=2.0**exponent)  # type: ignore[arg-type]
    known = asked.estimate
    assume(exponent != 0 and known is not None)
    assert known is not None and asked.scale is not None
    found = with_one(asked, replace(MINIMAL, accelerator=device))
    if not at_one(found):
        overflows = known.upper > 65504
        fades = exponent < 0 and known.lowest / WIDTH < 2.0**-14 * (64 if flush else 1)
        assert overflows or fades
        assert found == asked
        return
    assert known.upper <= 65504
    shape = np.random.default_rng(seed).standard_normal(WIDTH)
    for squares in (known.upper, known.lowest):
        row = shape * math.sqrt(squares / (shape**2).sum())
        error = abs(sum_in_fp16(row, flush) / squares - 1)
        # Of the elements, of their squares, of those that are subnormal; a flush loses the squares
        # of all elements below an eighth of the root mean square.
        most = 4 * UNIT + (0.02 if flush else 0)
        if exponent > 0:  # no worse than with the scale
            with_scale = sum_in_fp16(row / asked.scale, flush) * asked.scale**2
            most += abs(with_scale / squares - 1)
        assert error <= most, (squares, error)
    assert without_one(found, device).scale == asked.scale


@pytest.mark.parametrize("path", [LLAMA, BERT], ids=["llama", "bert"])
@pytest.mark.parametrize("name", ["fp16-sequential", "fp16-pairwise-flush"])
def test_a_scale_is_1_or_as_without(path: Path, name: str) -> None:
    model, device = onnx.load(path), target(name)
    usual = compute_scales(model, Options(accelerator=device, certify="off"))
    minimal = compute_scales(model, Options(accelerator=device, certify="off", minimal=True))
    ones = 0
    for before, after in zip(usual, minimal, strict=True):
        assert before.estimate is not None
        fits = before.estimate.upper <= 65504
        assert at_one(after) == (fits and before.scale != 1), before.norm.name
        assert after.scale == (1.0 if fits else before.scale)
        ones += fits
    assert 0 < ones < len(usual)


def test_1_has_the_certificate_of_1() -> None:
    model = onnx.load(LLAMA)
    for found in compute_scales(model, MINIMAL):
        if at_one(found):
            name = found.norm.name
            by_hand = compute_scales(model, Options(set_scale={name: 1.0}))
            same = next(d for d in by_hand if d.norm.name == name)
            assert found.certificate == same.certificate
            assert found.safe_radius == same.safe_radius


LOUD = f"""
    [n] n = {LN}(x, g1)
    h = MatMul(n, loud)
    r = Relu(h)
    q = MatMul(r, quiet)
    [last] y = {RMS}(q, g2)
"""


def loud_and_quiet() -> onnx.ModelProto:
    """Its last norm reads small rows: one matrix makes a direction large, which the next takes
    out, and a bound of both does not see that."""
    along = np.full(D, D**-0.5)
    loud = (60 * np.outer(normal(2, D), along) + np.eye(D)).astype(np.float32)
    quiet = (np.eye(D) - np.outer(along, along)).astype(np.float32)
    return graph(LOUD, weights(loud=loud, quiet=quiet), f"float[a, b, {D}] x")


@pytest.mark.parametrize("require", [(), ("scaled",), ("certified",)])
def test_a_certificate_is_given_up_unless_it_is_required(require: tuple[Required, ...]) -> None:
    usual = compute_scales(loud_and_quiet(), Options())[-1]
    found = compute_scales(loud_and_quiet(), Options(minimal=True, require=require))[-1]
    assert usual.certificate is not None and usual.certificate.certified
    assert usual.estimate is not None and usual.estimate.upper < 65504
    assert found.certificate is not None
    kept = "certified" in require
    assert at_one(found) != kept and found.certificate.certified == kept


def test_what_is_decided_otherwise_stays() -> None:
    (first, *_) = [d for d in compute_scales(onnx.load(LLAMA), MINIMAL) if at_one(d)]
    name, before = first.norm.name, without_one(first, Accelerator())
    by_hand = compute_scales(onnx.load(LLAMA), Options(minimal=True, set_scale={name: 4.0}))
    assert next(d for d in by_hand if d.norm.name == name).scale == 4.0
    lost = replace(before, reasons=(), estimate=None)
    assert with_one(lost, MINIMAL) == lost
    skipped = replace(before, scale=None, status="skipped")
    assert with_one(skipped, MINIMAL) == skipped


@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_an_epsilon_that_is_raised_beside_a_scale_keeps_it(scale: float) -> None:
    raised = replace(MINIMAL, epsilon="representable")
    kept = replace(ONE, norm=replace(ONE.norm, epsilon=1e-3), scale=scale)
    gone = replace(ONE, norm=replace(ONE.norm, epsilon=1e-12), scale=scale)
    assert at_one(with_one(kept, raised)) and at_one(with_one(gone, MINIMAL))
    assert with_one(gone, raised) == gone


def test_an_epsilon_that_only_the_scale_keeps_keeps_it() -> None:
    tiny = replace(ONE, norm=replace(ONE.norm, epsilon=2.0**-30), scale=2.0**-8)
    assert with_one(tiny, MINIMAL) == tiny
    assert at_one(with_one(replace(tiny, scale=2.0**8), MINIMAL))


def test_the_equations_of_the_paper_have_no_window() -> None:
    with pytest.raises(SlancError, match="--minimal: needs the limits of a window"):
        protect_file(LLAMA, Path("o.onnx"), Options(minimal=True, scale="paper"))


def job(folder: Path, size: float, apply: ApplyRule = "div", minimal: bool = True) -> Outcome:
    """Rows within the limits as far as the weights tell, which are larger on these inputs."""
    loud = np.full(D, 4.0, np.float32)
    nodes = f"h = Mul(x, loud) [n] n = {RMS}(h, g1) y = Identity(n)"
    onnx.save(graph(nodes, weights(loud=loud), f"float[a, b, {D}] x"), folder / "m.onnx")
    inputs = {"x": normal(7, 2, 3, D) * np.float32(size)}
    options = Options(minimal=minimal, apply=apply, estimate="weights", inputs=inputs)
    return protect_file(folder / "m.onnx", folder / "new.onnx", options)


@pytest.mark.parametrize("apply", ["div", "fold"])
def test_1_is_not_kept_where_rows_overflow_with_it(tmp_path: Path, apply: ApplyRule) -> None:
    assert at_one(job(tmp_path, 1.0, apply).norms[0])
    usual = job(tmp_path, 60.0, apply, minimal=False)
    assert usual.passed
    outcome = job(tmp_path, 60.0, apply)
    (found,) = outcome.norms
    assert outcome.passed, outcome.validation
    assert found.scale == usual.norms[0].scale != 1
    assert found.safe_radius == usual.norms[0].safe_radius
    assert found.certificate == usual.norms[0].certificate
    assert Decision.ONE_IS_SAFE not in {reason.kind for reason in found.reasons}


def test_1_is_not_kept_where_the_model_passes_only_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever shows that: here nothing says which norm it is."""
    monkeypatch.setattr("slanc_onnx.job.files.with_scales_again", lambda *_: None)
    outcome = job(tmp_path, 60.0)
    assert outcome.passed and outcome.norms[0].scale != 1
    assert at_one(job(tmp_path, 1.0).norms[0])


def test_rows_of_zeros_get_a_scale_and_an_epsilon_that_is_kept(tmp_path: Path) -> None:
    """Beside a scale epsilon is raised; without one the file stays as it is, and gives nan."""
    nodes = f"[n] n = {RMS.replace('-1>', '-1, epsilon = 1e-12>')}(x, g1) y = Mul(n, four)"
    more = weights(four=np.full(D, 4.0, np.float32))
    onnx.save(graph(nodes, more, f"float[a, b, {D}] x"), tmp_path / "m.onnx")
    x = normal(7, 2, 3, D) * np.float32(60)
    x[0, 0] = 0.0
    for minimal in (False, True):
        options = Options(minimal=minimal, inputs={"x": x}, certify="off")
        outcome = protect_file(tmp_path / "m.onnx", tmp_path / "new.onnx", options)
        assert outcome.passed, outcome.validation
        assert Note.EPSILON_RAISED in {note.kind for note in outcome.notes}


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (LLAMA, ()),
        (LLAMA, ("--apply", "fold")),
        (LLAMA, ("--to", "fp16")),
        (BERT, ()),  # what its groups of tensors share with those above, the slow tests try
        pytest.param(BERT, ("--apply", "fold"), marks=pytest.mark.slow),
        pytest.param(BERT, ("--to", "fp16"), marks=pytest.mark.slow),
    ],
    ids=lambda given: given.stem if isinstance(given, Path) else str(given),
)
def test_a_sample_passes_and_a_second_run_changes_nothing(
    run: Run, path: Path, options: tuple[str, ...]
) -> None:
    status, out, _ = run(str(path), "-o", "once.onnx", "--minimal", *options, "-q")
    assert status == 0
    last = out.splitlines()[-1]
    if not options:
        assert "1 is safe at 1 norms by the estimate (1 by probe), 1 of them certified" in last
        before, after = onnx.load(path), onnx.load("once.onnx")
        divs = [sum(n.op_type == "Div" for n in m.graph.node) for m in (before, after)]
        assert divs[1] - divs[0] == {"llama_like": 6, "bert_like": 4}[path.stem]
        fed = {"input_ids": np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])}
        if path == LLAMA:
            one, other = outputs_of(before, **fed), outputs_of(after, **fed)
            assert all(np.array_equal(one[name], other[name]) for name in one)
    if options[:1] != ("--to",):
        status, out, _ = run("once.onnx", "-o", "twice.onnx", "--minimal", *options, "-q")
        assert status == 0 and "keep the scale of an earlier run" in out
        assert Path("once.onnx").read_bytes() == Path("twice.onnx").read_bytes()
