"""An input that FP16 does not hold is told where norms alone are rounded; truth is float16."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, Validation, protect, protect_file, validate
from slanc_onnx.accelerator import FORMATS, Format
from slanc_onnx.graph.edits import name_nodes
from slanc_onnx.options import ApplyRule, EmulateRule
from slanc_onnx.report.as_json import validation_entry
from slanc_onnx.report.terminal import verdict
from slanc_onnx.verify.left import Left
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph, normal
from tests.oracles.half_ops import half_run
from tests.verify.test_input_left import DEVICE, ROWS

X = normal(9, 1, 3, D, spread=1e5)
SIZE = float(np.abs(X).max())
SMALL = np.full(1, 2.0**-6, np.float32)
SAID = "not judged, as norms alone are rounded: "
POSITIONS = np.array([[70_000, 131_071]], np.int64)


def checked(
    model: onnx.ModelProto,
    apply: ApplyRule = "fold",
    emulate: EmulateRule = "norms",
    **feeds: np.ndarray,
) -> Validation:
    options = Options(inputs=feeds, accelerator=DEVICE, apply=apply, emulate=emulate)
    original = onnx.ModelProto.FromString(model.SerializeToString())
    protect(model, options)
    return validate(original, model, options)


def told(result: Validation) -> list[str]:
    return [part for part in verdict(result) if SAID in part]


@pytest.mark.parametrize("apply", ["div", "fold"])
def test_behind_an_op_it_is_told_beside_the_word(apply: ApplyRule) -> None:
    model = graph(f"h = Mul(x, small) [n] y = {RMS}(h, g1)", weights(small=SMALL), ROWS)
    assert SIZE > 65520  # from there on FP16 rounds to infinity
    assert np.isfinite((X * SMALL).astype(np.float16)).all()  # what the norm reads
    result = checked(model, apply, x=X)
    assert result.inputs_beyond == {"x": SIZE}
    assert told(result) == [
        f"{SAID}what reads the input 'x', which reaches {SIZE:.3g}, beyond FP16 (--emulate all "
        "judges that)"
    ]
    entry = validation_entry(result, None)
    assert entry is not None and entry["fp16"]["inputs_beyond"] == {"x": SIZE}


@pytest.mark.parametrize("size", [65504.0, 65519.996, 65520.0])
def test_from_where_float16_is_infinite(size: float) -> None:
    model = graph(f"h = Mul(x, small) [n] y = {RMS}(h, g1)", weights(small=SMALL), ROWS)
    x = np.ones((1, 3, D), np.float32)
    x[0, 1, 2] = -size
    with np.errstate(over="ignore"):
        lost = bool(np.isinf(np.float32(size).astype(np.float16)))
    assert lost == (size == 65520.0)
    assert (checked(model, x=x).inputs_beyond == {"x": size}) == lost


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "float32"])
def test_what_a_format_holds_is_what_rounding_keeps(name: str) -> None:
    form = Format.named(name)
    edge = np.float32(form.largest * (1 + form.unit_roundoff / (2 - 2 * form.unit_roundoff)))
    near = [np.nextafter(edge, np.float32(0)), edge, np.nextafter(edge, np.float32(np.inf))]
    with np.errstate(over="ignore"):
        around = (np.linspace(0.9, 1.2, 99) * form.largest).astype(np.float32)
        sizes = np.array([form.largest, *near, *around[np.isfinite(around)]], np.float32)
        rounded = sizes.astype(name).astype(np.float32)
    assert 0 < np.isfinite(rounded).sum() < len(sizes)
    assert [form.holds(float(size)) for size in sizes] == np.isfinite(rounded).tolist()


def test_where_everything_is_rounded_it_fails_and_nothing_is_left_to_tell() -> None:
    model = graph(f"h = Mul(x, small) [n] y = {RMS}(h, g1)", weights(small=SMALL), ROWS)
    result = checked(model, emulate="all", x=X)
    assert not result.passed and result.inputs_beyond == {} and not told(result)


def test_one_that_a_failure_names_is_not_told_twice() -> None:
    model = graph(f"[n] y = {RMS}(x, g1)", weights(), ROWS)
    result = checked(model, x=X)
    assert result.first_out is not None and result.first_out.tensor == "x"
    assert result.inputs_beyond == {"x": SIZE} and not told(result)


def test_one_within_the_format_and_infinity_say_nothing() -> None:
    model = graph(f"h = Max(x, small) [n] y = {RMS}(h, g1)", weights(small=SMALL), ROWS)
    x = (X / 16).astype(np.float32)
    x[0, 0, 0] = -np.inf
    assert checked(model, x=x).inputs_beyond == {}


def test_positions_that_are_cast_to_floats_are_told_and_ids_are_not() -> None:
    nodes = f"""
        e = Gather(rows, ids) u = Unsqueeze(pos, two) f = Cast<to = 1>(u) a = Mul(f, frequencies)
        s = Sin(a) h = Add(e, s) [n] y = {RMS}(h, g1)
    """
    rows, two = normal(1, 131_072, D), np.array([2], np.int64)
    frequencies = (10.0 ** -np.arange(D)).astype(np.float32)
    more = weights(rows=rows, two=two, frequencies=frequencies)
    model = graph(nodes, more, "int64[a, b] ids, int64[a, b] pos")
    assert POSITIONS.max() > 65520
    result = checked(model, ids=POSITIONS, pos=POSITIONS)
    assert result.inputs_beyond == {"pos": 131_071.0}
    assert checked(model, ids=POSITIONS, pos=POSITIONS // 4).inputs_beyond == {}


def test_several_are_counted() -> None:
    nodes = f"h = Mul(x, small) i = Mul(z, small) j = Add(h, i) [n] y = {RMS}(j, g1)"
    model = graph(nodes, weights(small=SMALL), f"{ROWS}, float[a, b, {D}] z")
    (said,) = told(checked(model, x=X, z=X))
    assert said.startswith(f"{SAID}what reads the input 'x' (and 1 more), which reaches ")


@pytest.mark.parametrize("large", [True, False])
def test_what_a_fold_makes_fit_is_told_with_what_makes_it(large: bool, tmp_path: Path) -> None:
    x = normal(9, 1, 3, D, spread=300.0 if large else 10.0)
    nodes = f"q = Mul(x, x) h = Mul(q, big) [n] y = {RMS}(h, g1)"
    onnx.save(graph(nodes, weights(big=np.full(D, 4, np.float32)), ROWS), tmp_path / "m.onnx")
    options = Options(inputs={"x": x}, accelerator=DEVICE, certify="off", apply="fold")
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "new.onnx", options)
    made = float((x * x * 4).max())
    assert (float((x * x).max()) > 65520) == large and (made > 65520) == large
    result = outcome.validation
    assert result is not None and result.passed and result.first_out is None
    before = result.first_out_before
    entry = validation_entry(result, None)
    assert entry is not None
    if not large:
        assert before is None and not told(result)
        assert entry["fp16"]["first_out_of_range_before"] is None
        return
    assert before == Left("h", "Mul", made, "n", "read")
    left = {"tensor": "h", "op": "Mul", "value": made}
    assert entry["fp16"]["first_out_of_range_before"] == left
    assert told(result) == [
        f"{SAID}what makes Mul (h), which left FP16 with {made:.3g} as exported before the norm "
        f"'n' reads it, and fits now; outside of norms, Mul (q), which reaches {made / 4:.3g} in "
        "FP32, beyond FP16 (--emulate all judges that)"
    ]
    written = onnx.load(tmp_path / "new.onnx")
    name_nodes(written)
    assert not half_run(written, (), x=x)[1]  # q does not fit
    judged = protect_file(
        tmp_path / "m.onnx", tmp_path / "all.onnx", replace(options, emulate="all")
    ).validation
    assert judged is not None and judged.first_out is not None and judged.first_out.tensor == "q"
