"""The tables of the benchmarks: groups of norms, sums over models, settings side by side."""

import re
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from benchmarks.adversary import Attempt, summary
from benchmarks.certificates import Bounded, grouped, of_groups
from benchmarks.folds import Folding, folding, folds_table
from benchmarks.markdown import count, number, of, size, span, table
from benchmarks.peers import HEADER, command_of
from benchmarks.size import weight_bytes
from benchmarks.zoo import comparison, main, targets
from benchmarks.zoo_rows import Row, exports_in
from slanc_onnx import Options, ScaledNorm, compute_scales, find_norms
from slanc_onnx.errors import SlancError
from tests.places import SAMPLES


def cells(text: str) -> list[list[str]]:
    """The rows of a Markdown table below its header, as GitHub reads them."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines()]
    assert len({len(line) for line in lines}) == 1
    assert all(re.fullmatch("-+", cell) for cell in lines[1])
    return [[cell.strip() for cell in line] for line in lines[2:]]


def test_a_table_keeps_its_columns() -> None:
    assert table(("", "a"), [("x", 1)]) == "| | a |\n|---|---|\n| x | 1 |"
    assert cells(table(("", "a"), [("x|y", "1\n2"), ("", "")])) == [["x\\|y", "1 2"], ["", ""]]
    with pytest.raises(ValueError, match="1 cells in a table of 2"):
        table(("", "a"), [("x",)])


def test_numbers_are_short() -> None:
    values = (0, 0.004, 1.0099, 84, 999.6, 1863, 99_949, 131_072, 4.8e11)
    shown = ["0", "0.004", "1.01", "84", "1 000", "1 860", "99 900", "1.3e5", "4.8e11"]
    assert [number(value) for value in values] == shown
    assert (count(1_600_000), count(12)) == ("1 600 000", "12")
    assert (size(13_477_000_000), size(538_060_032), size(280_000)) == (
        "13.5 GB",
        "538 MB",
        "0.28 MB",
    )
    assert (of(737, 737), of(1, 8), of(0, 0)) == ("737 of 737", "1 of 8 (12.5 %)", "0 of 0")
    assert (span([7, 5, 6]), span([7, 7])) == ("5 to 7", "7")


def scaled_norms() -> list[ScaledNorm]:
    return compute_scales(onnx.load(SAMPLES / "llama_like.onnx"), Options())


def test_norms_are_grouped_by_name_or_gamma() -> None:
    norms = find_norms(onnx.load(SAMPLES / "llama_like.onnx"))
    first = {"gamma": re.compile("input_layernorm"), "name": re.compile(r"layers\.[01]/")}
    found = grouped(norms, first)
    assert list(found) == ["gamma", "name", "the others"]
    assert [n.gamma for n in found["gamma"]] == [
        f"model.layers.{layer}.input_layernorm.weight" for layer in range(3)
    ]  # those of layers 0 and 1 would fit the second regex too
    assert [n.name for n in found["name"]] == ["/model.layers.0/Mul_2", "/model.layers.1/Mul_2"]
    assert sum(len(members) for members in found.values()) == len(norms)
    assert list(grouped(norms, {"each": re.compile("")})) == ["each"]  # nobody is left over
    assert grouped(norms, {}) == {"all": norms}
    with pytest.raises(SystemExit, match="--group none: no norm is left that 'q_norm' finds"):
        grouped(norms, {"none": re.compile("q_norm")})


def test_a_group_shows_its_spread() -> None:
    norms = scaled_norms()[:3]
    known = [Bounded(n, 1.0) for n in norms]
    squares = [b.square for b in known]
    known = [Bounded(n, u / r) for n, u, r in zip(norms, squares, (2.0, 8.0, 3.0), strict=True)]
    ((name, how_many, certified, *spread, bits),) = cells(of_groups({"g": known}))
    assert (name, how_many, certified, spread) == ("g", "3", "3", ["2", "3", "8"])
    assert float(bits) > 0
    proof = norms[0].certificate
    assert proof is not None
    unbounded = replace(
        norms[0],
        certificate=replace(proof, certified=False, bound=replace(proof.bound, length=None)),
    )
    group = [Bounded(unbounded, 1.0), known[1], Bounded(norms[2], 0.0)]
    ((_, how_many, certified, *spread, _),) = cells(of_groups({"g": group}))
    assert (how_many, certified) == ("3 (1 not seen)", "2")
    assert (spread[0], spread[2]) == ("8", "no bound")


def test_folds_of_the_sample_models_add_up() -> None:
    names = ("bert_like", "sandwich_like")
    folds = {name: folding(SAMPLES / f"{name}.onnx", Options()) for name in names}
    assert [f.norms for f in folds.values()] == [5, 13]
    assert [f.inserted_by_div for f in folds.values()] == [5, 13]
    assert all(f.folded + f.divided == f.norms for f in folds.values())
    assert all(f.identical and 0 < f.rewritten <= f.weights for f in folds.values())
    rows = cells(folds_table(folds, list(folds.values())))
    assert [row[0] for row in rows[:2]] == list(names)
    for column in range(1, 6):
        assert sum(int(row[column]) for row in rows[:2]) == int(rows[2][column])
    assert rows[2][0] == "2 exports; no node inserted in 2 of them"
    assert [row[-1] for row in rows] == ["yes", "yes", "2 of 2 that run"]


def test_folds_that_differ_or_were_not_compared_are_told() -> None:
    made = Folding(4, 3, 1, 2, 4, 28_000_000, 1_072_000_000, False)
    unknown = replace(made, inserted=0, identical=None)
    rows = cells(folds_table({"a": made, "b": unknown}, [made, unknown]))
    assert rows[0] == ["a", "4", "3", "1", "2", "4", "28 MB of 1.1 GB", "no"]
    assert rows[1][-1] == "not compared"
    assert rows[2][0] == "2 exports; no node inserted in 1 of them"
    assert rows[2][-1] == "0 of 1 (0.0 %) that run"
    assert len(cells(folds_table({"a": made}, []))) == 1  # no sums without exports


def test_settings_of_the_zoo_stand_side_by_side() -> None:
    fine = Row("a", 0, "PASSED", identical=True, before=5, seconds=1.26)
    lossy = replace(fine, name="b", identical=False, after=2, idempotent=False)
    columns = {"stored inputs": [fine, fine], "default inputs": [fine, lossy]}
    text = comparison(columns)
    assert text.startswith("| 2 models | stored inputs | default inputs |\n")
    shown = {label: figures for label, *figures in cells(text)}
    assert shown["FP32 outputs bit-identical, of the models that run"] == [
        "2 of 2",
        "1 of 2 (50.0 %)",
    ]
    assert shown["a second run writes the identical file"] == ["2 of 2", "1 of 2 (50.0 %)"]
    overflows = "rows that overflow in FP16 (sequential, flushed), before → after"
    assert shown[overflows] == ["10 → 0", "10 → 2"]
    assert shown["slowest model, validation included"] == ["1.3 s", "1.3 s"]
    assert "verdicts" not in shown  # only beside the targets
    beside = {label: figures for label, *figures in cells(targets([fine, lossy]))}
    assert beside["verdicts"] == ["2 PASSED", "no TRACEBACK"]
    assert set(shown) < set(beside)
    broken = [replace(fine, verdict=told) for told in ("not validated", "ERROR: no", "ERROR: nor")]
    told = {label: figures for label, *figures in cells(targets(broken))}["verdicts"]
    assert told[0] == "1 not validated, 2 ERROR"


def test_settings_exclude_single_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--settings", "stored", "--default-inputs"])
    assert "give only one of these" in capsys.readouterr().err
    with pytest.raises(SlancError, match="holds no folder with a model"):
        exports_in(tmp_path)


def test_attempts_of_all_targets_make_one_row() -> None:
    attempts = [Attempt(5, 7, 100_000, 0), Attempt(7, 7, 100_001, 2)]
    rows = cells(summary({"a": attempts, "b": attempts[:1]}))
    assert rows == [["a", "2", "7", "5 to 7", "200 001", "2"], ["b", "1", "7", "5", "100 000", "0"]]


def test_a_peer_whose_package_is_missing_has_no_command() -> None:
    assert command_of("load + save") is not None and len(HEADER) == 9
    assert command_of("modelopt autocast") is None, "it is in no environment of the tests"


def test_weights_count_as_they_are_stored(tmp_path: Path) -> None:
    path = tmp_path / "external.onnx"
    model = onnx.load(SAMPLES / "bert_like.onnx")
    inside = weight_bytes(SAMPLES / "bert_like.onnx")
    assert inside == sum(len(t.raw_data) for t in model.graph.initializer)
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="data")
    assert weight_bytes(path) == inside
