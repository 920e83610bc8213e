"""Outputs that are off at masked positions alone: told, and not taken for an answer."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, protect_file
from slanc_onnx.graph import Array
from slanc_onnx.options import To
from slanc_onnx.reasons import Failure
from slanc_onnx.report.outcome import Outcome
from slanc_onnx.report.terminal import final_line
from tests.models.small_graphs import graph, normal

WIDTH, IDS = 16, 20
MASK = np.array([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]], np.int64)
FEED = {"ids": np.random.default_rng(3).integers(0, IDS, MASK.shape), "mask": MASK}
LOWEST = float(np.finfo(np.float32).min)


def decoder(padding: float, causal: float, reads: str = "mask") -> onnx.ModelProto:
    """A decoder of one layer whose masks of padding and of the future are added to its logits."""
    text = f"""
        rows = Gather(table, ids)
        [first] x = SimplifiedLayerNormalization<axis = -1>(rows, gamma)
        ones = Cast<to = 1>({reads})
        zeros = Sub(one, ones)
        keys = Unsqueeze(zeros, axis)
        padding = Mul(keys, lowest)
        q = MatMul(x, wq)
        k = MatMul(x, wk)
        v = MatMul(x, wv)
        kt = Transpose<perm = [0, 2, 1]>(k)
        products = MatMul(q, kt)
        padded = Add(products, padding)
        logits = Add(padded, future)
        shares = Softmax<axis = -1>(logits)
        mixed = MatMul(shares, v)
        total = Add(rows, mixed)
        [last] y = SimplifiedLayerNormalization<axis = -1>(total, gamma)
    """
    length = MASK.shape[1]
    constants: dict[str, Array] = {
        "table": normal(0, IDS, WIDTH),
        "gamma": np.ones(WIDTH, np.float32),
        "one": np.array(1, np.float32),
        "axis": np.array([1], np.int64),
        "lowest": np.array(padding, np.float32),
        "future": np.triu(np.full((length, length), causal, np.float32), 1),
        **{
            f"w{i}": normal(n, WIDTH, WIDTH, spread=s)
            for n, (i, s) in enumerate([("q", 0.3), ("k", 0.3), ("v", 0.9)])
        },
    }
    inputs = f"int64[2, {length}] ids, int64[2, {length}] mask"
    return graph(text, constants, inputs, f"float[2, {length}, {WIDTH}] y")


def judged(
    model: onnx.ModelProto, folder: Path, to: To | None = None, **feeds: np.ndarray
) -> Outcome:
    onnx.save(model, folder / "model.onnx")
    options = Options(inputs={**FEED, **feeds}, emulate="all", certify="off", to=to)
    return protect_file(folder / "model.onnx", folder / "out.onnx", options)


def kinds(outcome: Outcome) -> set[Failure]:
    assert outcome.validation is not None
    return {reason.kind for reason in outcome.validation.failures}  # type: ignore[misc]


@pytest.mark.parametrize("to", [None, "fp16"])
@pytest.mark.parametrize("lowest", [-65504.0, -49152.0])
def test_rows_of_padding_alone_are_no_failure(lowest: float, to: To | None, tmp_path: Path) -> None:
    """Beside these FP16 has steps of 32, in which FP32 keeps what is added."""
    found = judged(decoder(lowest, lowest), tmp_path, to)
    assert Failure.OFF_WHERE_MASKED in kinds(found) and not found.passed
    line = final_line(found)
    assert line.startswith("INCONCLUSIVE") and "the input 'mask' masks (0)" in line
    assert "RMS error is 0.00" in line and "(--inputs)" in line


def test_without_padding_it_passes(tmp_path: Path) -> None:
    found = judged(decoder(-65504.0, -65504.0), tmp_path, mask=np.ones_like(MASK))
    assert found.passed and final_line(found).startswith("PASSED")


def test_a_mask_of_another_number_in_a_file_of_16_bits(tmp_path: Path) -> None:
    """-1e9 + x is -1e9 in FP32, and -65504 + x is not: rows of padding differ in FP32 too."""
    found = judged(decoder(-1e9, -1e9), tmp_path, "fp16")
    assert kinds(found) >= {Failure.FP32_BEYOND_TOLERANCE, Failure.OFF_WHERE_MASKED}
    assert final_line(found).startswith("INCONCLUSIVE")


def test_what_is_read_all_the_same_is_no_padding(tmp_path: Path) -> None:
    """Outputs are off at the zeros of an input, and other positions read those: it masks nothing.

    There a row is times 6 = 1 + 1e-9 * 5e9, which is 1 in FP16.
    """
    model = decoder(0.0, -1e4)
    text = """
        marks = Unsqueeze(zeros, last)
        small = Mul(marks, tiny)
        back = Mul(small, large)
        factors = Add(back, one)
        scaled = Mul(rows, factors)
    """
    constants: dict[str, Array] = {
        "last": np.array([2], np.int64),
        "tiny": np.array(1e-9, np.float32),
        "large": np.array(5e9, np.float32),
    }
    more = graph(text, constants, "float[2, 6] zeros", "float[a, b, c] scaled").graph
    place = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "total")
    model.graph.node[place].input[0] = "scaled"
    for node in reversed(more.node):
        model.graph.node.insert(place, node)
    model.graph.initializer.extend(more.initializer)
    found = judged(model, tmp_path)
    assert not found.passed and Failure.OFF_WHERE_MASKED not in kinds(found)
    assert final_line(found).startswith("FAILED")


def test_masks_that_are_added_to_infinity_are_named_with_what_to_do(tmp_path: Path) -> None:
    """A sequence of padding alone: each of its logits is -131008, so that its rows are nan."""
    model = decoder(-65504.0, 0.0)
    [logits] = [node for node in model.graph.node if node.output[0] == "logits"]
    logits.input[1] = "padding"
    padded = np.array([[0] * 6, [1] * 6], np.int64)
    found = judged(model, tmp_path, mask=padded)
    line = final_line(found)
    assert line.startswith("FAILED") and "Add (logits): is the first to leave FP16" in line
    assert line.endswith("--fp32-nodes FILE finds the nodes") and "masks are added up there" in line
    [lowest] = [t for t in model.graph.initializer if t.name == "lowest"]
    lowest.CopyFrom(onnx.numpy_helper.from_array(np.array(-65504 / 3, np.float32), "lowest"))
    healed = judged(model, tmp_path, mask=padded)
    assert "leave FP16" not in final_line(healed)


def test_products_that_leave_the_format_are_no_masks(tmp_path: Path) -> None:
    model = decoder(-1e4, 0.0)
    for name in ("wq", "wk"):
        [weight] = [t for t in model.graph.initializer if t.name == name]
        weight.CopyFrom(onnx.numpy_helper.from_array(normal(1, WIDTH, WIDTH, spread=60.0), name))
    found = judged(model, tmp_path, mask=np.ones_like(MASK))
    line = final_line(found)
    assert "MatMul (products): is the first to leave FP16" in line and "masks are" not in line


def classifier() -> onnx.ModelProto:
    """A mean over the positions of a mask, and three logits of it, each with an error of its own.

    Those are times 1 + 1e-9 * 5e9 = 6, which is 1 in FP16.
    """
    text = """
        rows = Gather(table, ids)
        [n] x = SimplifiedLayerNormalization<axis = -1>(rows, gamma)
        ones = Cast<to = 1>(mask)
        marks = Unsqueeze(ones, last)
        kept = Mul(x, marks)
        mean = ReduceMean<axes = [1], keepdims = 0>(kept)
        logits = MatMul(mean, w)
        ids_of_floats = Cast<to = 1>(mask)
        open = ReduceMin<axes = [1]>(ids_of_floats)
        shut = Sub(one, open)
        small = Mul(shut, tiny)
        back = Mul(small, large)
        factors = Add(back, one)
        y = Mul(logits, factors)
    """
    weights: dict[str, Array] = {
        "table": normal(0, IDS, WIDTH),
        "gamma": np.ones(WIDTH, np.float32),
        "last": np.array([2], np.int64),
        "w": normal(1, WIDTH, 3),
        "one": np.array(1, np.float32),
        "tiny": np.array(1e-9, np.float32),
        "large": np.array(5e9, np.float32),
    }
    return graph(text, weights, "int64[2, 6] ids, int64[2, 6] mask", "float[2, 3] y")


def test_logits_of_a_padded_text_are_no_positions(tmp_path: Path) -> None:
    """Three logits are as many as the last three positions, which padding masks in the first."""
    mask = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]], np.int64)
    found = judged(classifier(), tmp_path, mask=mask)
    assert final_line(found).startswith("FAILED")
    assert Failure.OFF_WHERE_MASKED not in kinds(found)


def test_positions_that_no_input_has_are_not_tried(tmp_path: Path) -> None:
    """Sounds of shape [batch, channels, time]: the mean reads those that the mask has a 0 for."""
    text = """
        rows = Transpose<perm = [0, 2, 1]>(sounds)
        [n] x = SimplifiedLayerNormalization<axis = -1>(rows, gamma)
        mean = ReduceMean<axes = [1]>(x)
        both = Add(x, mean)
        ones = Cast<to = 1>(mask)
        shut = Sub(one, ones)
        marks = Unsqueeze(shut, last)
        small = Mul(marks, tiny)
        back = Mul(small, large)
        factors = Add(back, one)
        y = Mul(both, factors)
    """
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in classifier().graph.initializer}
    read = {name: weights[name] for name in ("gamma", "last", "one", "tiny", "large")}
    inputs = f"float[2, {WIDTH}, 6] sounds, int64[2, 6] mask"
    model = graph(text, read, inputs, f"float[2, 6, {WIDTH}] y")
    onnx.save(model, tmp_path / "model.onnx")
    given: dict[str, Array] = {"sounds": normal(8, 2, WIDTH, 6), "mask": MASK}
    options = Options(inputs=given, emulate="all", certify="off")
    found = protect_file(tmp_path / "model.onnx", tmp_path / "out.onnx", options)
    assert Failure.OFF_WHERE_MASKED not in kinds(found)
    assert final_line(found).startswith("FAILED")


@pytest.mark.parametrize("hidden", [0, 3])
def test_the_mask_of_a_cache_and_of_what_is_new(hidden: int, tmp_path: Path) -> None:
    """A mask is as long as the cache [batch, heads, past, width] and the new rows: it ends there.

    Rows that it hides are off in themselves, and nothing else reads them, or the caches' first.
    """
    text = """
        rows = Gather(table, ids)
        [n] x = SimplifiedLayerNormalization<axis = -1>(rows, gamma)
        ones = Cast<to = 1>(mask)
        own = Slice(ones, starts, ends, one_axis)
        shut = Sub(one, own)
        marks = Unsqueeze(shut, last)
        small = Mul(marks, tiny)
        back = Mul(small, large)
        factors = Add(back, one)
        y = Mul(x, factors)
        present = Neg(past)
    """
    weights: dict[str, Array] = {
        **{t.name: onnx.numpy_helper.to_array(t) for t in classifier().graph.initializer},
        "starts": np.array([4], np.int64),
        "ends": np.array([7], np.int64),
        "one_axis": np.array([1], np.int64),
    }
    del weights["w"]
    inputs = "int64[2, 3] ids, int64[2, 7] mask, float[2, 1, 4, 2] past"
    outputs = f"float[2, 3, {WIDTH}] y, float[2, 1, 4, 2] present"
    mask = np.ones((2, 7), np.int64)
    mask[0, 4:6] = 0
    if hidden:
        mask[0, :hidden] = 0
    past = normal(4, 2, 1, 4, 2)
    given: dict[str, Array] = {"ids": FEED["ids"][:, :3], "mask": mask, "past": past}
    onnx.save(graph(text, weights, inputs, outputs), tmp_path / "model.onnx")
    options = Options(inputs=given, emulate="all", certify="off")
    found = protect_file(tmp_path / "model.onnx", tmp_path / "out.onnx", options)
    assert Failure.OFF_WHERE_MASKED in kinds(found)
    assert final_line(found).startswith("INCONCLUSIVE")
