"""Files that are written in 16 bits: weight by weight, from where they lie to where they go."""

import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slanc_onnx.accelerator import Accelerator, Format
from slanc_onnx.apply.convert.constants import Counts
from slanc_onnx.apply.convert.convert import Converted, convert
from slanc_onnx.apply.convert.weights import Weights
from slanc_onnx.graph.load import all_tensors, load_model
from slanc_onnx.graph.save import Draft
from tests.models.float_kinds import floats
from tests.oracles.unoptimised import run

MATRIX = (64, 64)
PRODUCTS = "h = MatMul(x, a) i = MatMul(h, b) y = Mul(i, s)"
TEXT = f"m (float[2, 64] x) => (float[2, 64] y) {{ {PRODUCTS} }}"
FEEDS = {"x": floats(2, 64, seed=9)}


def model() -> onnx.ModelProto:
    found = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]>\n{TEXT}')
    weights = {"a": floats(*MATRIX), "b": floats(*MATRIX, seed=1), "s": floats(64, seed=2)}
    found.graph.initializer.extend(numpy_helper.from_array(w, n) for n, w in weights.items())
    return found


def saved(folder: Path, external: bool, found: onnx.ModelProto | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path, copy = folder / "model.onnx", onnx.ModelProto()
    copy.CopyFrom(found or model())
    onnx.save(
        copy,
        path,
        save_as_external_data=external,
        location="w.bin",
        size_threshold=0,
    )
    return path


def write(source: Path, output: Path, form: str = "float16") -> tuple[onnx.ModelProto, Converted]:
    """Convert a file into another, and load that with its data as anybody would."""
    output.parent.mkdir(parents=True, exist_ok=True)
    loaded = load_model(source)
    with Draft(source, output, loaded) as draft:
        with draft.written():
            weights = Weights(source.parent, draft.new_data())
            done = convert(loaded, weights, Accelerator(format=Format.named(form)))
        draft.write(loaded)
        draft.keep()
    return onnx.load(output), done


each_place = pytest.mark.parametrize("external", [True, False], ids=["external", "inline"])


@each_place
def test_weights_are_those_that_numpy_rounds_and_the_source_stays(
    tmp_path: Path, external: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slanc_onnx.graph.inline.LEAST", 64)
    source = saved(tmp_path, external)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    after, done = write(source, tmp_path / "new" / "out.onnx")
    for old, new in zip(model().graph.initializer, after.graph.initializer, strict=True):
        expected = numpy_helper.to_array(old).astype(np.float16)
        np.testing.assert_array_equal(numpy_helper.to_array(new), expected)
        assert (new.name, new.data_type) == (old.name, TensorProto.FLOAT16)
        assert done.weights[new.name].elements == expected.size
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    expected_y = run(model(), **FEEDS)["y"]
    np.testing.assert_allclose(run(after, **FEEDS)["y"], expected_y, rtol=0.01, atol=0.1)


@each_place
def test_the_output_needs_half_of_the_bytes_and_no_file_of_the_source(
    tmp_path: Path, external: bool
) -> None:
    found = model()
    found.graph.initializer[0].CopyFrom(numpy_helper.from_array(floats(64, 30000), "a"))
    found.graph.initializer[1].CopyFrom(numpy_helper.from_array(floats(30000, 64), "b"))
    source = saved(tmp_path / "old", external, found)
    after, _ = write(source, tmp_path / "new" / "out.onnx")
    before, now = (
        sum(p.stat().st_size for p in (tmp_path / name).iterdir()) for name in ("old", "new")
    )
    assert now <= 0.51 * before
    assert not any(path.name == "w.bin" for path in (tmp_path / "new").iterdir())
    assert after.graph.initializer[0].data_type == TensorProto.FLOAT16


def test_what_does_not_change_comes_along_too(tmp_path: Path) -> None:
    """Four-bit weights, and integers, whose bytes are not their elements."""
    found = model()
    packed = helper.make_tensor("q", TensorProto.INT4, [3, 5], np.arange(15) % 8 - 4)
    shape = numpy_helper.from_array(np.array([3, 5]), "n")
    found.graph.initializer.extend([packed, shape])
    quantised = numpy_helper.to_array(packed)
    source = saved(tmp_path, True, found)
    after, _ = write(source, tmp_path / "new" / "out.onnx")
    kept = {tensor.name: tensor for tensor in after.graph.initializer}
    assert kept["q"].data_type == TensorProto.INT4
    np.testing.assert_array_equal(numpy_helper.to_array(kept["q"]), quantised)
    np.testing.assert_array_equal(numpy_helper.to_array(kept["n"]), [3, 5])
    raw = load_model(tmp_path / "new" / "out.onnx")
    locations = {e.value for t in all_tensors(raw) for e in t.external_data if e.key == "location"}
    assert len(locations) == 1 and "w.bin" not in locations


@each_place
def test_a_weight_that_is_read_in_both_types_is_written_in_both(
    tmp_path: Path, external: bool
) -> None:
    text = (
        "m (float[2, 64] x) => (float[2, 64] y, float[64, 64] z) "
        "{ h = MatMul(x, a) y = MatMul(h, b) z = CumSum(a, axis) }"
    )
    found = model()
    found.CopyFrom(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 11]>\n{text}'))
    found.graph.initializer.extend(model().graph.initializer)
    found.graph.initializer.append(numpy_helper.from_array(np.array(1), "axis"))
    source = saved(tmp_path, external, found)
    after, _ = write(source, tmp_path / "out.onnx")
    twins = [t for t in after.graph.initializer if t.name.startswith("a") and t.name != "axis"]
    assert {t.data_type for t in twins} == {TensorProto.FLOAT, TensorProto.FLOAT16}
    expected, got = run(found, **FEEDS)["z"], run(after, **FEEDS)["z"]
    np.testing.assert_array_equal(got, expected)  # the one in FP32 has every bit


@each_place
def test_bf16_too(tmp_path: Path, external: bool) -> None:
    source = saved(tmp_path, external)
    after, _ = write(source, tmp_path / "out.onnx", "bfloat16")
    bits = numpy_helper.to_array(model().graph.initializer[0]).astype(ml_dtypes.bfloat16)
    got = numpy_helper.to_array(after.graph.initializer[0])
    assert got.tobytes() == bits.tobytes()


def test_memory_does_not_grow_with_the_number_of_weights(tmp_path: Path) -> None:
    peaks = []
    for count in (4, 32):
        found = model()
        for layer in range(count):
            weight = numpy_helper.from_array(floats(256, 256, seed=layer), f"w{layer}")
            found.graph.initializer.append(weight)
        source = saved(tmp_path / str(count), True, found)
        loaded, output = load_model(source), source.with_name("out.onnx")
        tracemalloc.start()
        with Draft(source, output, loaded) as draft:
            with draft.written():
                convert(loaded, Weights(source.parent, draft.new_data()), Accelerator())
            draft.write(loaded)
            draft.keep()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert onnx.load(output).graph.initializer[-1].data_type == TensorProto.FLOAT16
    weight_bytes = 256 * 256 * 4
    assert peaks[1] < peaks[0] + weight_bytes


def test_a_model_in_memory_takes_its_weights_into_it() -> None:
    found = model()
    done = convert(found, Weights(), Accelerator())
    assert all(t.data_location != TensorProto.EXTERNAL for t in found.graph.initializer)
    assert done.weights["s"] == Counts(elements=64)


def test_constants_of_one_name_in_two_graphs_are_told_apart() -> None:
    text = (
        '<ir_version: 10, opset_import: ["": 18]>\n'
        "m (float[2] x, bool c) => (float[2] y) { y = If (c) <"
        "then_branch = t () => (float[2] p) <float[2] k = {70000, 1}> { p = Add(x, k) }, "
        "else_branch = e () => (float[2] q) <float[2] k = {1, 1}> { q = Add(x, k) }> }"
    )
    found = onnx.parser.parse_model(text)
    onnx.checker.check_model(found, full_check=True)
    done = convert(found, Weights(), Accelerator())
    assert sorted(done.weights) == ["k", "k_2"]
    assert sum(counts.clipped for counts in done.weights.values()) == 1


@pytest.mark.parametrize("external", [True, False])
def test_a_second_time_the_file_and_its_data_are_the_same(tmp_path: Path, external: bool) -> None:
    found = model()
    found.graph.initializer.append(numpy_helper.from_array(np.arange(600), "places"))
    found.graph.node.add(op_type="Identity", input=["places"], output=["z"])
    found.graph.output.add(name="z").type.tensor_type.elem_type = TensorProto.INT64
    write(saved(tmp_path / "a", external, found), tmp_path / "b/model.onnx")
    write(tmp_path / "b/model.onnx", tmp_path / "c/model.onnx")
    once, twice = ({f.name: f.read_bytes() for f in (tmp_path / at).iterdir()} for at in "bc")
    assert once == twice and len(once) == 1 + external
