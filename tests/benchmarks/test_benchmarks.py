"""What the benchmarks compute by themselves: ranks, resumed runs, tokens and rows of scales."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.interactions import TRANSFORMATIONS, row
from benchmarks.minilm import spearman
from benchmarks.order import cells
from benchmarks.scales import MODES, Version, read_source, scales_by, version_by
from benchmarks.table1 import Column, State, feeds_of, measure
from slanc_onnx.errors import SlancError
from slanc_onnx.run.session import Feeds
from tests.places import SAMPLES

IDS = np.random.default_rng(2).integers(0, 200, (3, 1, 12))


def test_rank_correlation_of_small_lists() -> None:
    a = np.array([0.1, 0.5, 0.2, 0.9])
    assert spearman(a, a**3) == pytest.approx(1.0)
    assert spearman(a, -a) == pytest.approx(-1.0)
    other = np.array([0.2, 0.1, 0.5, 0.9])  # ranks 1 0 2 3 against 0 2 1 3: 1 - 6 * 6 / 60
    assert spearman(a, other) == pytest.approx(0.4)
    assert np.isnan(spearman(a, np.array([1.0, np.nan, 2.0, 3.0])))


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    source = read_source(SAMPLES / "llama_like.onnx")
    path, device = tmp_path / "state.json", MODES["pairwise, kept"]
    version = Version(source.model, source.norms)
    whole = measure(source, version, device, list(IDS), "none", State(None, ""))
    first = State(path, "key")
    measure(source, version, device, list(IDS[:2]), "none", first)
    resumed = State(path, "key")
    resumed.columns["none"].losses[0] = -1.0  # to see that it is not computed again
    column = measure(source, version, device, list(IDS), "none", resumed)
    assert column.losses == [-1.0, *whole.losses[1:]]
    assert column.lost == whole.lost and sum(whole.lost) > 0
    assert len(json.loads(path.read_text())["columns"]["none"]["losses"]) == 3
    with pytest.raises(SlancError, match="of another run"):
        State(path, "other")


def test_a_loss_that_is_not_finite_makes_the_perplexity_so() -> None:
    assert np.isnan(Column([1.0, None], [0, 3]).perplexity())
    assert Column([1.0, 3.0], [0, 0]).perplexity() == pytest.approx(np.exp(2.0))


@pytest.mark.parametrize("kind", ["paper", "weights", "probe", "calibrated", "dmx"])
def test_every_kind_of_scales_reaches_the_model(kind: str) -> None:
    source = read_source(SAMPLES / "llama_like.onnx")
    data = [feeds_of(source, ids) for ids in IDS]
    scales = scales_by(source, kind, MODES["fp32, kept"], data, 16)  # type: ignore[arg-type]
    assert len(scales) in (len(source.norms), len(source.norms) - 1)  # dmx has none for the first
    version = version_by(source, kind, MODES["fp32, kept"], data, 16)  # type: ignore[arg-type]
    assert version is not None
    assert [n.name for n in version.norms] == [n.name for n in source.norms]
    stamps = [n for n in version.norms if n.scaled_by is not None]
    assert {n.name: n.scaled_by for n in stamps} == scales
    assert len(version.model.graph.node) > len(source.model.graph.node)


def test_folded_scales_are_in_the_weights_and_dmx_has_no_formula_for_sandwich_norms() -> None:
    device = MODES["fp32, kept"]
    llama, sandwich = (read_source(SAMPLES / f"{n}_like.onnx") for n in ("llama", "sandwich"))
    folded = version_by(llama, "folded", device)
    assert folded is not None and len(folded.norms) == len(llama.norms)
    assert all(norm.scaled_by is not None for norm in folded.norms)
    assert len(folded.model.graph.node) <= len(llama.model.graph.node) + 2
    assert version_by(sandwich, "dmx", device) is None


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_scaling_before_and_after_a_transformation_is_the_same(name: str) -> None:
    import onnx

    model = onnx.load(SAMPLES / "bert_like.onnx")
    ids = np.random.default_rng(0).integers(0, 200, (2, 10))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}
    norms, scaled, same, alone, after, before, *_ = row(model, TRANSFORMATIONS[name], feeds)
    assert (norms, scaled, same) == ("5, 5", "5, 5", "yes, yes")
    assert int(alone) > 0
    assert (after, before) == ("0", "0")


def test_a_tool_before_and_after_scaling_as_cells() -> None:
    model = onnx.load(SAMPLES / "llama_like.onnx")
    feeds = {"input_ids": IDS[0]}

    def without_notes(given: onnx.ModelProto, _: Feeds) -> onnx.ModelProto:
        for node in given.graph.node:
            del node.metadata_props[:]
        return given

    plain = cells(model, lambda given, _: given, feeds, "div")
    assert (plain[0], plain[2:]) == ("7, 7", ["0", "0", "the same", "the same", "7 of 7"])
    assert int(plain[1]) > 0
    assert cells(model, without_notes, feeds, "div")[-1] == "0 of 7"

    def missing(given: onnx.ModelProto, _: Feeds) -> onnx.ModelProto:
        raise ImportError("No module named 'tool'")

    told = cells(model, missing, feeds, "div")
    assert told[0] == "not run: No module named 'tool'" and len(told) == len(plain)
