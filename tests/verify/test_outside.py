"""What is beyond FP16 outside of norms is told where norms alone are rounded, and masks are not."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Accelerator, Options, Validation, protect_file
from slanc_onnx.accelerator import Format
from slanc_onnx.report.as_json import validation_entry
from slanc_onnx.report.inputs import not_judged
from slanc_onnx.run import Emitter
from slanc_onnx.verify import outside
from tests.models.small_graphs import graph, normal
from tests.verify.test_masked import FEED, LOWEST, MASK, WIDTH, decoder

ROWS = f"float[2, 3, {WIDTH}] x"
X = normal(5, 2, 3, WIDTH)


def judged(model: onnx.ModelProto, folder: Path, options: Options) -> Validation:
    onnx.save(model, folder / "model.onnx")
    outcome = protect_file(folder / "model.onnx", folder / "out.onnx", options)
    assert outcome.validation is not None
    return outcome.validation


def scores(spread: float) -> onnx.ModelProto:
    """Attention whose products are divided after they are summed up, as in Stable Diffusion 2.1."""
    text = """
        [n] y = SimplifiedLayerNormalization<axis = -1>(x, gamma)
        q = MatMul(y, wq)
        kt = Transpose<perm = [0, 2, 1]>(q)
        products = MatMul(q, kt)
        logits = Mul(products, small)
        z = Softmax<axis = -1>(logits)
    """
    weights = {
        "gamma": np.ones(WIDTH, np.float32),
        "wq": normal(1, WIDTH, WIDTH, spread=spread),
        "small": np.array(WIDTH**-0.5, np.float32),
    }
    return graph(text, weights, ROWS, "float[2, 3, 3] z")


def largest_product(model: onnx.ModelProto) -> float:
    """Of rows of length sqrt(WIDTH), in NumPy."""
    [weight] = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "wq"]
    rows = X / np.sqrt(np.mean(X.astype(np.float64) ** 2, axis=-1, keepdims=True) + 1e-5)
    q = rows @ weight
    return float(np.abs(q @ q.transpose(0, 2, 1)).max())


def test_products_beyond_fp16_are_told_and_the_word_stays(tmp_path: Path) -> None:
    model = scores(60.0 * (1e5 / largest_product(scores(60.0))) ** 0.5)
    size = largest_product(model)
    assert size == pytest.approx(1e5, rel=1e-4)
    found = judged(model, tmp_path, Options(inputs={"x": X}, certify="off"))
    assert found.passed
    [first] = found.outside_beyond
    assert (first.tensor, first.op) == ("products", "MatMul")
    assert first.value == pytest.approx(size, rel=1e-4)
    assert not_judged(found) == [
        f"not judged, as norms alone are rounded: outside of norms, MatMul (products), which "
        f"reaches {size:.3g} in FP32, beyond FP16 (--emulate all judges that)"
    ]
    entry = validation_entry(found, None)
    assert entry is not None
    [told] = entry["fp16"]["outside_beyond"]
    assert told == {"tensor": "products", "op": "MatMul", "largest": first.value}
    everything = judged(model, tmp_path, Options(inputs={"x": X}, certify="off", emulate="all"))
    assert not everything.passed and not everything.outside_beyond
    assert everything.first_out is not None and everything.first_out.tensor == "products"


def test_products_within_fp16_are_not(tmp_path: Path) -> None:
    model = scores(6.0)
    assert largest_product(model) < 65504
    found = judged(model, tmp_path, Options(inputs={"x": X}, certify="off"))
    assert found.passed and found.outside_beyond == [] and not not_judged(found)


@pytest.mark.parametrize("lowest", [LOWEST, -1e9, -65504.0, -np.inf])
def test_masks_are_not(lowest: float, tmp_path: Path) -> None:
    with np.errstate(invalid="ignore"):
        model = decoder(max(lowest, LOWEST), lowest)
    found = judged(model, tmp_path, Options(inputs=FEED, certify="off"))
    assert found.outside_beyond == [] and not not_judged(found)


def test_a_stream_behind_large_ids_is_no_mask(tmp_path: Path) -> None:
    """The residual stream, behind an id that is larger than any number of it."""
    signs = np.sign(normal(1, WIDTH)).astype(np.float32)
    text = """
        rows = Gather(table, ids)
        [n] y = SimplifiedLayerNormalization<axis = -1>(rows, gamma)
        q = MatMul(y, wq)
        r = Add(rows, q)
        z = Mul(r, half)
    """
    weights = {
        "table": np.tile(4000 * signs, (5000, 1)),
        "gamma": np.ones(WIDTH, np.float32),
        "wq": 63000 / WIDTH * np.outer(signs, signs),
        "half": np.array(0.5, np.float32),
    }
    model = graph(text, weights, "int64[2, 3] ids", f"float[2, 3, {WIDTH}] z")
    given = {"ids": np.array([[0, 1, 2], [3, 4, 4999]])}
    [found] = judged(model, tmp_path, Options(inputs=given, certify="off")).outside_beyond
    assert (found.tensor, found.op) == ("r", "Add")
    assert found.value == pytest.approx(67000, rel=1e-3)
    everything = judged(model, tmp_path, Options(inputs=given, certify="off", emulate="all"))
    assert everything.first_out is not None and everything.first_out.tensor == "r"
    assert not everything.adds_masks


def test_another_format_is_of_norms_alone(tmp_path: Path) -> None:
    """A device with FP8 norms has other ops in another format, of which nothing is known."""
    device = Accelerator(format=Format.named("float8_e5m2"))
    options = Options(inputs={"x": X}, certify="off", accelerator=device)
    assert judged(scores(60.0), tmp_path, options).outside_beyond == []


def test_empty_tensors_have_no_size(tmp_path: Path) -> None:
    model = decoder(-1e4, -1e4)
    model.graph.node.append(onnx.helper.make_node("Slice", ["y", "zero", "zero", "axis"], ["e"]))
    model.graph.node.append(onnx.helper.make_node("Mul", ["e", "one"], ["empty"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.int64), "zero"))
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("empty", onnx.TensorProto.FLOAT, [2, 0, WIDTH])
    )
    found = judged(model, tmp_path, Options(inputs={**FEED, "mask": MASK}, certify="off"))
    assert found.outside_beyond == []


@pytest.mark.parametrize("shape", [(-1, 7), (2, 2, 2)])
def test_what_cannot_be_shown_fails_nothing(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An op of unknown types, say, whose output is none of floats."""

    def largest(emitter: Emitter, x: str) -> str:
        return emitter.node("Reshape", x, emitter.integers(*shape))

    monkeypatch.setattr(outside, "_largest", largest)
    found = judged(scores(60.0), tmp_path, Options(inputs={"x": X}, certify="off"))
    assert found.passed and found.fp32_identical and not found.outside_beyond


@pytest.mark.parametrize("rows", [100, 8000])
def test_rows_that_large_ids_pick_are_no_masks(rows: int, tmp_path: Path) -> None:
    """Ids of a vocabulary of more than 4096 are large, and the rows that they pick are not."""
    text = """
        picked = Gather(table, ids)
        [n] y = SimplifiedLayerNormalization<axis = -1>(picked, gamma)
        h = MatMul(y, w)
        once = Add(picked, h)
        twice = Add(once, h)
        z = Mul(twice, half)
    """
    ids = np.array([[rows - 1, 3, 5]])
    table = normal(0, rows, WIDTH)
    plain = table[ids].astype(np.float64)
    h = plain / np.sqrt(np.mean(plain**2, axis=-1, keepdims=True) + 1e-5) @ normal(1, WIDTH, WIDTH)
    weights = {
        "table": table,
        "gamma": np.ones(WIDTH, np.float32),
        "w": (normal(1, WIDTH, WIDTH) * (4e4 / np.abs(h).max())).astype(np.float32),
        "half": np.array(0.5, np.float32),
    }
    model = graph(text, weights, "int64[1, 3] ids", f"float[1, 3, {WIDTH}] z")
    found = judged(model, tmp_path, Options(inputs={"ids": ids}, certify="off"))
    assert found.passed
    assert [one.tensor for one in found.outside_beyond] == ["twice"]
    everything = judged(model, tmp_path, Options(inputs={"ids": ids}, certify="off", emulate="all"))
    assert everything.first_out is not None and everything.first_out.tensor == "twice"
    assert not everything.adds_masks


def test_what_is_divided_by_a_large_number_is_no_mask(tmp_path: Path) -> None:
    model = scores(60.0 * (1e5 / largest_product(scores(60.0))) ** 0.5)
    [small] = [node for node in model.graph.node if node.output[0] == "q"]
    small.output[0] = "large_q"
    place = list(model.graph.node).index(small) + 1
    model.graph.node.insert(place, onnx.helper.make_node("Div", ["large_q", "large"], ["little"]))
    model.graph.node.insert(place + 1, onnx.helper.make_node("Sum", ["large_q", "little"], ["q"]))
    model.graph.node.append(onnx.helper.make_node("Mul", ["q", "scale"], ["u"]))
    model.graph.node.append(onnx.helper.make_node("Mul", ["u", "small"], ["v"]))
    for name, value in (("large", 8192.0), ("scale", 4000.0)):
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array(value, np.float32), name)
        )
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, [2, 3, WIDTH])
    )
    found = judged(model, tmp_path, Options(inputs={"x": X}, certify="off"))
    assert {one.tensor for one in found.outside_beyond} >= {"products", "u"}
