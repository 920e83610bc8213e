"""Every token alone: the longest rows are those that NumPy finds, one token at a time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, protect_file
from slanc_onnx.errors import SlancError
from slanc_onnx.norms import ReadModel, read_model
from slanc_onnx.reasons import Failure
from slanc_onnx.run import CannotRun
from slanc_onnx.run import float32 as float32_module
from slanc_onnx.verify import FirstRow, run_every_token, vocabulary
from tests.conftest import Run
from tests.models.small_graphs import GAMMA, between, graph, normal
from tests.places import SAMPLES

TABLE, MATRIX = normal(0, 11, 8), normal(5, 8, 8, spread=3.0)


def model() -> onnx.ModelProto:
    """Rows of a table of eleven, and a projection of the first norm's output."""
    return between("total = MatMul(x, w)", {"w": MATRIX})


def longest_by_hand() -> dict[str, tuple[float, int]]:
    """By norm name the longest row of any id, and the id; in FP64."""
    rows = TABLE.astype(np.float64)
    after = rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5) * GAMMA @ MATRIX
    found = {}
    for name, values in (("first", rows), ("last", after)):
        lengths = np.linalg.norm(values, axis=1)
        found[name] = float(lengths.max()), int(lengths.argmax())
    return found


def found_in(read: ReadModel) -> dict[str, FirstRow]:
    found = run_every_token(read, read.norms)
    assert found.tokens == 11
    return dict(found.longest)


def test_the_longest_rows_are_those_of_every_id() -> None:
    read = read_model(model())
    found = found_in(read)
    for name, (length, token) in longest_by_hand().items():
        assert found[name].token == token
        assert found[name].length == pytest.approx(length, rel=1e-5)


@pytest.mark.parametrize("at_once", [1, 4, 11, 100])
def test_the_runs_may_have_any_size(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    read = read_model(model())
    whole = found_in(read)
    monkeypatch.setattr("slanc_onnx.verify.first_rows.AT_ONCE", at_once)
    for name, row in found_in(read).items():
        assert row.token == whole[name].token
        assert row.length == pytest.approx(whole[name].length, rel=1e-6)


def test_segments_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    read = read_model(model())
    whole = found_in(read)
    monkeypatch.setattr(float32_module, "MOST_AT_ONCE", 0)
    monkeypatch.setattr("slanc_onnx.run.segments.SEGMENT", 1)
    for name, row in found_in(read).items():
        assert row.token == whole[name].token
        assert row.length == pytest.approx(whole[name].length, rel=1e-6)


def test_rows_of_a_layer_norm_are_not_centred() -> None:
    """The safe radius is of the row as it is, mean included."""
    table = normal(0, 11, 8) + 5
    nodes = """
        rows = Gather(table, ids)
        [only] y = LayerNormalization<axis = -1>(rows, gamma)
    """
    read = read_model(graph(nodes, {"table": table, "gamma": GAMMA}))
    lengths = np.linalg.norm(table, axis=1)
    found = found_in(read)["only"]
    assert found.token == int(lengths.argmax())
    assert found.length == pytest.approx(float(lengths.max()), rel=1e-5)


def test_a_batch_that_the_file_fixes_is_filled_up() -> None:
    fixed = model()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    read = read_model(fixed)
    for name, (_, token) in longest_by_hand().items():
        assert found_in(read)[name].token == token


def test_one_row_more_than_the_radius_is_beyond_it() -> None:
    assert FirstRow(1.0, 3).within(1.001) and not FirstRow(1.0, 3).within(1.0)
    assert not FirstRow(1.0, 3).within(None) and not FirstRow(np.inf, 3).within(1e300)


def test_a_model_without_a_vocabulary_or_with_more_is_refused() -> None:
    pixels = graph(
        "[only] y = LayerNormalization<axis = -1>(pixels, gamma)",
        {"gamma": GAMMA},
        inputs="float[b, s, 8] pixels",
    )
    both = between("total = Add(x, extra)", {}, inputs="float[b, s, 8] extra")
    for each, named in ((pixels, "'pixels'"), (both, "'ids', 'extra'")):
        with pytest.raises(SlancError, match=f"reads {named}"):
            vocabulary(read_model(each).specs)
    long = model()
    long.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 16
    with pytest.raises(SlancError, match="needs sequences of one token"):
        vocabulary(read_model(long).specs)


def test_the_command_refuses_it_and_writes_nothing(run: Run) -> None:
    pixels = graph(
        "[only] y = LayerNormalization<axis = -1>(pixels, gamma)",
        {"gamma": GAMMA},
        inputs="float[b, s, 8] pixels",
    )
    onnx.save(pixels, "pixels.onnx")
    status, _, error = run("pixels.onnx", "--certify", "tokens")
    assert status == 2 and "certify tokens" in error and not Path("pixels.slanc.onnx").exists()


@pytest.mark.parametrize("apply", ["div", "fold"])
def test_report_terminal_and_page(run: Run, apply: str) -> None:
    onnx.save(onnx.load(SAMPLES / "llama_like.onnx"), "m.onnx")
    reports = ("--report", "r.json", "--html", "r.html", "--no-validate")
    status, out, _ = run("m.onnx", "--certify", "tokens", "--apply", apply, *reports)
    line = "each of 200 tokens alone, in FP32: within the safe radius of 7 of 7 norms"
    assert status == 0 and line in out.splitlines()
    assert line in Path("r.html").read_text()
    for norm in json.loads(Path("r.json").read_text())["norms"]:
        row = norm["first_row"]
        assert 0 <= row["token"] < 200 and row["within"]
        assert row["length"] <= norm["safe_radius"]


def test_rows_beyond_the_radius_are_counted(run: Run) -> None:
    """A norm that is left alone has the radius of its rows as they are."""
    onnx.save(between("total = MatMul(x, w)", {"w": MATRIX * 1000}), "m.onnx")
    options = ("--certify", "tokens", "--no-validate", "--exclude", "^last$", "--report", "r.json")
    status, out, _ = run("m.onnx", *options)
    assert status == 0
    assert "each of 11 tokens alone, in FP32: within the safe radius of 1 of 2 norms" in out
    last = json.loads(Path("r.json").read_text())["norms"][1]
    assert not last["first_row"]["within"] and last["first_row"]["length"] > last["safe_radius"]


def test_a_run_that_does_not_end_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise CannotRun("it took longer than 1 s")

    monkeypatch.setattr("slanc_onnx.job.files.run_every_token", stopped)
    onnx.save(model(), tmp_path / "m.onnx")
    options = Options(certify="tokens", validate=False)
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "o.onnx", options)
    assert not outcome.passed and outcome.first_rows is None
    assert outcome.not_enumerated is not None
    assert outcome.not_enumerated.kind is Failure.TOKENS_NOT_RUN
    assert (tmp_path / "o.onnx").exists()


def test_it_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slanc_onnx.verify.first_rows.AT_ONCE", 4)
    read, told = read_model(model()), []
    run_every_token(read, read.norms, lambda what, share: told.append((what, round(share, 2))))
    assert told == [("every token", 0.36), ("every token", 0.73), ("every token", 1.0)]


RISING = np.arange(1, 201, dtype=np.float32)[:, None] * np.ones((1, 8), np.float32)


def of_ids(nodes: str, inputs: str = "int64[batch, sequence] ids", **more: Any) -> onnx.ModelProto:
    """The norm of x, made of 200 rows of which the last is the longest."""
    end = "[only] y = LayerNormalization<axis = -1>(x, gamma)"
    return graph(f"{nodes} {end}", {"table": RISING, "gamma": GAMMA, **more}, inputs=inputs)


def test_a_table_behind_a_clip_does_not_tell_the_vocabulary() -> None:
    """Ids beyond it are read as its last row, and are tokens all the same."""
    nodes = "a = Gather(table, ids) c = Clip(ids, zero, nine) b = Gather(few, c) x = Add(a, b)"
    few: Any = {"few": RISING[:10], "zero": np.array(0), "nine": np.array(9)}
    read = read_model(of_ids(nodes, **few))
    found = run_every_token(read, read.norms)
    assert found.tokens == 200 and found.longest["only"].token == 199
    assert found.longest["only"].length == pytest.approx(210 * 8**0.5, rel=1e-5)
    only = read_model(of_ids("c = Clip(ids, zero, nine) x = Gather(few, c)", **few))
    assert vocabulary(only.specs).rows == 10


@pytest.mark.parametrize(("kind", "taken"), [("int8", False), ("uint8", True), ("int32", True)])
def test_ids_that_their_type_does_not_hold_are_refused(kind: str, taken: bool) -> None:
    nodes = "i = Cast<to = 7>(ids) x = Gather(table, i)"
    read = read_model(of_ids(nodes, f"{kind}[batch, sequence] ids"))
    if taken:
        assert run_every_token(read, read.norms).longest["only"].token == 199
        return
    with pytest.raises(SlancError, match="ids up to 127, and its table has 200 rows"):
        vocabulary(read.specs)


def test_tokens_that_follow_each_other_are_not_alone() -> None:
    """With the sequence first, a run of many tokens would be one text of them."""
    nodes = "a = Gather(table, ids) x = CumSum(a, first)"
    read = read_model(of_ids(nodes, "int64[sequence, batch] ids", first=np.array(0)))
    with pytest.raises(CannotRun, match="the rows of only depend on what else is in the batch"):
        run_every_token(read, read.norms)


@pytest.mark.parametrize("batch", ["batch", "4"])
def test_what_the_other_inputs_were_is_said(run: Run, batch: str) -> None:
    """Segments are 0: rows of segment 1 are longer here, and nothing was said of them."""
    nodes = "a = Gather(table, ids) b = Gather(two, token_type_ids) x = Add(a, b)"
    inputs = f"int64[{batch}, sequence] ids, int64[{batch}, sequence] token_type_ids"
    two = np.concatenate([np.zeros((1, 8)), np.full((1, 8), 1e6)]).astype(np.float32)
    onnx.save(of_ids(nodes, inputs, two=two), "m.onnx")
    _, out, _ = run("m.onnx", "--certify", "tokens", "--no-validate", "--report", "r.json")
    assert "each of 200 tokens alone, in FP32 with token_type_ids 0: within" in out
    told = json.loads(Path("r.json").read_text())["first_rows"]
    assert told == {"tokens": 200, "inputs": {"token_type_ids": 0.0}}
