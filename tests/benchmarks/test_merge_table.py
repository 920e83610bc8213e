"""The table of merged norms: what it counts of files, of a folder, and of what cannot be done."""

import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from benchmarks import latency, merge
from benchmarks.merge import FASTER, HEADER, PARTS, Source, main, merged
from slanc_onnx.options import Merge
from tests.places import SAMPLES

LLAMA, BERT = SAMPLES / "llama_like.onnx", SAMPLES / "bert_like.onnx"


def rows(text: str) -> list[dict[str, str]]:
    """The lines of the first table, by heading."""
    cells = [
        [c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    return [dict(zip(cells[0], each, strict=True)) for each in cells[2:]]


def test_parts_are_those_of_the_option() -> None:
    assert {*PARTS, "all"} == set(get_args(Merge))
    assert all(merge.WORDS.get(part, part) in HEADER for part in PARTS)


def test_each_file_and_all_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(LLAMA), str(BERT), "--parts", "all"]) == 0
    one, other, both = rows(capsys.readouterr().out)
    assert (one["weightless"], one["mean-free"], one["nodes"]) == ("7 of 7", "-", "+2")
    assert (other["weightless"], other["mean-free"]) == ("0 of 5", "1 of 5")
    assert (one["deferred"], other["deferred"]) == ("7 of 7", "0 of 5")
    assert other["left, and why"].startswith("4 gamma: ")
    assert (both["norms"], both["weightless"], both["mean-free"]) == ("12", "7 of 12", "1 of 5")
    assert (one["rows lost"], both["verdict"]) == ("96 → 0", "2 NORMS PASSED")
    assert 0 < float(one["apart"]) < float(one["noise"])
    assert float(both["FP32 RMS error"]) == max(float(r["FP32 RMS error"]) for r in (one, other))


def test_a_folder_has_its_own_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(LLAMA, tmp_path / name / "model.onnx")
    np.savez(tmp_path / "a" / "io.npz", in__input_ids=np.ones((1, 3), np.int64))
    assert main([str(tmp_path), "--parts", "gamma", "--only", "a"]) == 0
    (row,) = rows(capsys.readouterr().out)
    assert row["model"] == "a" and row["rows lost"] != "96 → 0"  # of 3 positions


def test_a_file_that_is_refused_is_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    assert list(merged(Source("bad", bad), "all").cells())[-1] == "refused"
    assert "bad: " in capsys.readouterr().err


def test_times_are_those_of_files_that_change(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(sessions: dict[str, object], *_: object) -> dict[str, list[float]]:
        known = {"original": [2.0, 4.0], "fold": [1.0, 2.0], "all": [0.5, 1.0], "mean": [9.0, 9.0]}
        return {name: known[name] for name in sessions}

    monkeypatch.setattr(merge, "measure", measured)
    arguments = [str(LLAMA), str(BERT), "--latency", "--parts", "mean", "all"]
    assert main(arguments) == 0
    found = rows(capsys.readouterr().out)
    assert [(r["model"], r["merge"]) for r in found[:3]] == [
        ("llama_like", "all"),  # which has no LayerNorm
        ("bert_like", "mean"),
        ("bert_like", "all"),
    ]
    first = found[0]
    assert [first[k] for k in FASTER[2:]] == ["3e+03 ms", "0.50", "0.25", "0.50"]
    assert found[3]["merge / fold"].startswith("median 0.500")


def test_every_version_is_run_in_every_round() -> None:
    sessions = {n: latency.session_on(LLAMA, 1) for n in ("one", "other")}
    seconds = latency.measure(sessions, latency.feeds_for(LLAMA, 4), 3)
    assert {name: len(times) for name, times in seconds.items()} == {"one": 3, "other": 3}
