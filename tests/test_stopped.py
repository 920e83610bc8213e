"""A run that is killed, interrupted or out of space at any moment: old or new, whole."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, job
from slanc_onnx.arguments import places
from slanc_onnx.cli import main
from slanc_onnx.graph.temporary import left_over
from slanc_onnx.norms.model import ReadModel
from slanc_onnx.scale import ScaledNorm
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph, normal
from tests.oracles.stopped_writes import How, at_once, each_once, in_a_child, stopped

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")

TEXT = f"""
    e = Gather(table, ids)
    [n1] h1 = {RMS}(e, g1)
    m1 = MatMul(h1, big)
    r1 = Add(e, m1)
    [n2] y = {RMS}(r1, g2)
"""
QUICK = ["--no-validate", "--estimate", "weights", "--certify", "off", "--jobs", "1", "-qq"]
DIV, FOLD, OTHER_FOLD = ["--apply", "div"], ["--apply", "fold"], ["--apply", "fold", "--target"]
OTHER_FOLD = [*OTHER_FOLD, "fp8-e4m3"]
FP16 = ["--to", "fp16"]
REPORTS = ("r.json", "r.html")
Files = dict[str, bytes]


@dataclass(frozen=True)
class Scenario:
    """An output, what was there before, and whether reports are written as well.

    The model's weights lie in a data file, or, `inline`, in the model.
    """

    apply: list[str]
    older: list[str] | None = None
    output: str = "out.onnx"
    reports: bool = False
    inline: bool = False

    def run(self, folder: Path) -> int:
        return in_a_child(lambda: self.main(folder))

    def main(self, folder: Path) -> int:
        """The command in the folder, in a process of its own."""
        os.chdir(folder)
        given = ["model.onnx", "-o", self.output, *self.apply, *QUICK]
        return main([*given, "--report", "r.json", "--html", "r.html"] if self.reports else given)

    def prepare(self, folder: Path) -> None:
        if self.inline:
            onnx.save(onnx.load(folder / "model.onnx"), folder / "model.onnx")
        if self.older is not None:
            older = Scenario(self.older, output=self.output, reports=self.reports)
            assert older.run(folder) == 0


SCENARIOS = {
    "div, beside": Scenario(DIV),
    "div, elsewhere": Scenario(DIV, output="new/folder/out.onnx"),
    "div over div": Scenario([*DIV, "--scale", "paper"], DIV),
    "div over fold": Scenario(DIV, FOLD),
    "div over fold, elsewhere": Scenario(DIV, FOLD, "new/out.onnx"),
    "fold, beside": Scenario(FOLD),
    "fold, elsewhere": Scenario(FOLD, output="new/folder/out.onnx"),
    "fold over div": Scenario(FOLD, DIV),
    "fold over another fold": Scenario(FOLD, OTHER_FOLD),
    "fold over another fold, elsewhere": Scenario(FOLD, OTHER_FOLD, "new/out.onnx"),
    "fold over the same": Scenario(FOLD, FOLD),
    "fold over another, with reports": Scenario(FOLD, OTHER_FOLD, reports=True),
    "inline, div, beside": Scenario(DIV, inline=True),
    "inline, fold over div": Scenario(FOLD, DIV, inline=True),
    "inline, fold over another fold, elsewhere": Scenario(
        FOLD, OTHER_FOLD, "new/out.onnx", inline=True
    ),
    "FP16 over fold, elsewhere": Scenario(FP16, FOLD, "new/out.onnx"),
    "inline, FP16 over div": Scenario(FP16, DIV, inline=True),
    "div, elsewhere, with reports": Scenario(DIV, output="new/out.onnx", reports=True),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what takes long and changes no file: pictures, the disk, deciding once more."""
    decided: dict[str, list[ScaledNorm]] = {}
    really = job.decide

    def decide(read: ReadModel, options: Options, *_: object) -> list[ScaledNorm]:
        key = f"{options.scale} {options.accelerator}"
        if key not in decided:
            decided[key] = really(read, options)
        return decided[key]

    monkeypatch.setattr("slanc_onnx.job.files.decide", decide)
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("slanc_onnx.graph.inline.LEAST", 64)  # bytes of a weight that is not read
    monkeypatch.setattr("slanc_onnx.report.html.page.page", lambda _: "<!doctype html>\n")
    monkeypatch.setitem(places._BEGINNINGS, "--html", ("<!doctype html>\n",))
    monkeypatch.setattr("slanc_onnx.progress.Clock.lap", lambda *_: None)  # in the report


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The folder of a model with its data in a file below it."""
    folder = tmp_path / "before"
    (folder / "sub").mkdir(parents=True)
    model = graph(TEXT, weights(big=normal(3, D, D, spread=3000.0), table=normal(0, 11, D) * 900))
    onnx.save(
        model,
        folder / "model.onnx",
        save_as_external_data=True,
        location="sub/w.bin",
        size_threshold=0,
    )
    return folder


def warm_up(before: Path, scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run once in this process, so that each child begins with what it decides."""
    folder = before.with_name("warm")
    shutil.copytree(before, folder)
    monkeypatch.chdir(folder)
    scenario.main(folder)
    shutil.rmtree(folder)


def files(folder: Path) -> Files:
    """Every file of a folder; folders too, as nothing."""
    paths = sorted(folder.rglob("*"))
    return {
        str(path.relative_to(folder)): b"" if path.is_dir() else path.read_bytes() for path in paths
    }


def outputs(folder: Path, output: str) -> Iterator[dict[str, bytes]]:
    """The values of an output's tensors and its nodes, or nothing where there is none."""
    if (folder / output).exists():
        model = onnx.load(folder / output)
        values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        assert all(np.isfinite(value).all() for value in values.values())
        nodes = b"".join(node.SerializeToString() for node in model.graph.node)
        yield {"nodes": nodes, **{name: value.tobytes() for name, value in values.items()}}


MOST = (
    "div, elsewhere",
    "fold over another fold, elsewhere",
    "fold over another, with reports",
    "inline, fold over div",
    "FP16 over fold, elsewhere",
)
FEW = ("fold over another, with reports", "inline, fold over div")
HOWS: tuple[How, ...] = ("interrupt", "full")
# What others in the suite have a part of each: they run at every event, which is slow.
JOINED = (
    "div over fold, elsewhere",
    "fold over another fold, elsewhere",
    "inline, fold over another fold, elsewhere",
)
EACH = [(title, "kill", "one of a kind") for title in SCENARIOS if title not in JOINED]
EACH += [(title, how, "one of a kind") for title in FEW for how in HOWS]
EVERY = [(title, "kill", "every one") for title in SCENARIOS]
EVERY += [(title, how, "every one") for title in MOST for how in HOWS]
CASES = [*EACH, *(pytest.param(*case, marks=pytest.mark.slow) for case in EVERY)]


@pytest.mark.parametrize(("title", "how", "which"), CASES)
def test_at_every_event_an_output_is_the_old_or_the_new_one(
    before: Path, tmp_path: Path, title: str, how: How, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario, events = SCENARIOS[title], tmp_path / "events"
    scenario.prepare(before)
    after, otherwise, work = (tmp_path / name for name in ("after", "otherwise", "work"))
    other = replace(scenario, apply=DIV if scenario.apply[:2] == FOLD else FOLD)
    for folder in (after, otherwise):
        shutil.copytree(before, folder)
    warm_up(before, scenario, monkeypatch)
    warm_up(before, other, monkeypatch)

    def counted() -> int:
        with stopped(0, "kill") as stop:
            status = scenario.main(after)
        events.write_text("\n".join(stop.events))
        return status

    assert in_a_child(counted) == 0
    assert other.run(otherwise) == 0
    old, new = files(before), files(after)
    allowed = [list(outputs(folder, scenario.output)) for folder in (before, after)]
    assert allowed[0] != allowed[1] or title == "fold over the same"
    reruns = [(scenario, new), (other, files(otherwise))]
    names = events.read_text().split()
    assert len(names) >= 6  # open, write, sync, rename, sync, remove
    for at in each_once(names) if which == "one of a kind" else range(1, len(names) + 1):
        rerun, result = reruns[at % 2]
        shutil.copytree(before, work)

        def cut(at: int = at) -> int:
            with stopped(at, how):
                return scenario.main(work)

        status = in_a_child(cut)
        assert status in {"kill": [9], "interrupt": [130], "full": [0, 2, 3]}[how], at
        now = files(work)
        assert list(outputs(work, scenario.output)) in allowed, at
        assert all(now[name] == old[name] for name in ("model.onnx", "sub/w.bin"))
        assert all(now.get(name) in (old.get(name), new.get(name)) for name in REPORTS)
        if how == "interrupt":
            assert without_reports(now) in (without_reports(old), without_reports(new)), at
        if how == "full" and status == 2:
            assert {name: now[name] for name in now if "slanc-" not in name} == old, at
        if now != old:  # from there it is the run that is known to give the new ones
            assert rerun.main(work) == 0, at
            assert files(work) == result, at
            assert left_over(work) == []
        shutil.rmtree(work)


def without_reports(found: Files) -> Files:
    return {name: value for name, value in found.items() if name not in REPORTS}


@pytest.mark.parametrize("rounds", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_runs_at_once_to_one_output_end_with_one_of_theirs(
    before: Path, tmp_path: Path, rounds: int
) -> None:
    """And with no file that none of them would leave alone."""
    kinds, alone = [DIV, FOLD, OTHER_FOLD], []
    for number, apply in enumerate(kinds):
        folder = tmp_path / str(number)
        shutil.copytree(before, folder)
        assert Scenario(apply, output="new/out.onnx").run(folder) == 0
        alone.append(files(folder))
    for _ in range(rounds):
        work = tmp_path / "work"
        shutil.copytree(before, work)
        scenarios = [Scenario(apply, output="new/out.onnx") for apply in kinds * 2]
        assert at_once([partial(scenario.main, work) for scenario in scenarios]) == [0] * 6
        assert files(work) in alone
        shutil.rmtree(work)
