"""The whole job: in memory as on files, twice as once, and never half."""

import itertools
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from slanc_onnx import (
    Options,
    SlancError,
    apply_scales,
    compute_scales,
    find_norms,
    protect,
    protect_file,
)
from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph import is_inside
from slanc_onnx.graph.load import all_tensors, load_model
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.job import draft
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.options import ApplyRule, Merge, ScaleRule
from slanc_onnx.reasons import Note
from tests.models.four_norms import four_norms
from tests.oracles.proto_diff import differences
from tests.places import SAMPLES

FAST = Options(estimate="weights", validate=False)
MERGED: tuple[Merge, ...] = ("all",)


def saved(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    onnx.save(four_norms(), folder / "model.onnx")
    return folder / "model.onnx"


def saved_with_external_data(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    onnx.save(
        four_norms(),
        folder / "model.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    return folder / "model.onnx"


@pytest.mark.parametrize(
    "options", [Options(), FAST, Options(scale="paper")], ids=["default", "fast", "paper"]
)
def test_files_and_models_in_memory_become_the_same(tmp_path: Path, options: Options) -> None:
    outcome = protect_file(saved(tmp_path), tmp_path / "out.onnx", options)
    model, by_steps = four_norms(), four_norms()
    decided = protect(model, options)
    assert decided == outcome.norms
    assert differences(onnx.load(tmp_path / "out.onnx"), model) == []
    scales = compute_scales(by_steps, options)
    assert differences(four_norms(), by_steps) == []
    assert scales == decided
    assert apply_scales(by_steps, scales)
    assert differences(model, by_steps) == []


@pytest.mark.parametrize("name", ["bert_like", "llama_like", "sandwich_like"])
@pytest.mark.parametrize("options", [Options(validate=False), FAST], ids=["probe", "weights"])
def test_a_second_run_writes_the_same_bytes(tmp_path: Path, name: str, options: Options) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    protect_file(SAMPLES / f"{name}.onnx", first, options)
    again = protect_file(first, second, options)
    assert {norm.status for norm in again.norms} == {"unchanged"}
    assert second.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("apply", ["div", "fold"])
@pytest.mark.parametrize("source", sorted(SAMPLES.glob("*.onnx")), ids=lambda path: path.stem)
def test_a_file_that_is_its_own_data_file_becomes_what_it_does_in_memory(
    source: Path, apply: ApplyRule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the smallest tensors are ranges of the file; the output is the same byte by byte."""
    model = onnx.load(source)
    options = Options(estimate="weights", validate=False, apply=apply)
    decided = protect(model, options)
    monkeypatch.setattr("slanc_onnx.graph.inline.LEAST", 64)
    inside = [t for t in all_tensors(load_model(source)) if is_inside(t)]
    assert inside
    outcome = protect_file(source, tmp_path / "out.onnx", options)
    assert outcome.norms == decided
    assert (tmp_path / "out.onnx").read_bytes() == model.SerializeToString()


@pytest.mark.parametrize("apply", ["div", "fold"])
def test_a_file_that_is_its_own_data_file_is_validated(
    apply: ApplyRule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for least in (1 << 20, 64):
        monkeypatch.setattr("slanc_onnx.graph.inline.LEAST", least)
        source, output = SAMPLES / "bert_like.onnx", tmp_path / "out.onnx"
        outcome = protect_file(source, output, Options(apply=apply))
        found = outcome.validation
        assert found is not None and found.passed and found.fp32_identical
        measured = found.rounded_error_before, found.rounded_error_after, found.rounded_rms_error
        told.append((measured, outcome.norms, output.read_bytes()))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("options", "files"),
    [
        (Options(certify="off"), 1),
        (Options(to="fp16", certify="off"), 1),
        (Options(apply="fold", merge=MERGED, certify="off"), 2),
        (Options(to="fp16", merge=MERGED, certify="off"), 2),
    ],
    ids=["div", "to", "merged", "to and merged"],
)
def test_each_file_that_is_written_is_read_again_once(
    options: Options, files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def noted(path: Path) -> onnx.ModelProto:
        read.append(path)
        return load_model(path)

    monkeypatch.setattr(draft, "load_model", noted)
    outcome = protect_file(SAMPLES / "llama_like.onnx", tmp_path / "new.onnx", options)
    assert outcome.validation is not None and outcome.validation.passed
    assert len(read) == len(set(read)) == files


def test_a_second_run_leaves_what_the_first_left(tmp_path: Path) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    before = protect_file(saved(tmp_path), first, FAST)
    again = protect_file(first, second, FAST)
    assert [n.status for n in before.norms] == ["scaled", "scaled", "skipped", "scaled"]
    assert [n.status for n in again.norms] == ["unchanged", "unchanged", "skipped", "unchanged"]
    assert [n.scale for n in again.norms] == [n.scale for n in before.norms]
    assert second.read_bytes() == first.read_bytes()


def test_a_second_run_with_other_options_keeps_the_scales(tmp_path: Path) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    protect_file(SAMPLES / "bert_like.onnx", first, FAST)
    protect_file(first, second, Options(scale="paper", validate=False))
    assert second.read_bytes() == first.read_bytes()


def test_external_data_stays_as_it_is(tmp_path: Path) -> None:
    source = saved_with_external_data(tmp_path)
    data = tmp_path / "w.bin"
    before = (data.stat().st_ino, data.stat().st_mtime_ns, data.read_bytes(), source.read_bytes())
    outcome = protect_file(source, tmp_path / "out.onnx")
    assert before == (
        data.stat().st_ino,
        data.stat().st_mtime_ns,
        data.read_bytes(),
        source.read_bytes(),
    )
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "out.onnx", "w.bin"]
    inline = four_norms()
    assert protect(inline) == outcome.norms
    written = onnx.load(tmp_path / "out.onnx")
    values = {t.name: numpy_helper.to_array(t) for t in written.graph.initializer}
    for tensor in inline.graph.initializer:
        assert np.array_equal(values[tensor.name], numpy_helper.to_array(tensor))


@pytest.mark.parametrize("apply", ["div", "fold"])
def test_a_download_cache_of_links_is_validated_and_told_of(
    tmp_path: Path, apply: ApplyRule
) -> None:
    """As huggingface_hub keeps models: links beside each other, to names that are hashes."""
    (tmp_path / "blobs").mkdir()
    snapshot = tmp_path / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    saved_with_external_data(tmp_path / "plain")
    for name, blob in (("model.onnx", "5d41"), ("w.bin", "7d79")):
        (tmp_path / "plain" / name).rename(tmp_path / "blobs" / blob)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    options = Options(apply=apply, certify="off")
    beside = protect_file(snapshot / "model.onnx", snapshot / "out.onnx", options)
    (tmp_path / "out").mkdir()
    apart = protect_file(snapshot / "model.onnx", tmp_path / "out" / "out.onnx", options)
    for outcome in (beside, apart):
        assert {n.estimate.by for n in outcome.norms if n.estimate is not None} == {"probe"}
        assert outcome.validation is not None and outcome.validation.fp32_identical
    assert [(note.kind, note.facts) for note in beside.notes] == [
        (Note.EPSILON_ROUNDED_AWAY, ("hot", "inner")),
        (Note.DATA_BEHIND_LINKS, ("w.bin",)),
    ]
    assert apart.notes == beside.notes[:1]  # they came along, as files
    assert onnxruntime.InferenceSession(tmp_path / "out" / "out.onnx").get_outputs()


def test_a_model_in_memory_reads_external_data_from_the_folder(tmp_path: Path) -> None:
    source = saved_with_external_data(tmp_path)
    model = onnx.load(source, load_external_data=False)
    with pytest.raises(SlancError, match="Pass folder="):
        protect(model)
    decided = protect(model, folder=tmp_path)
    assert decided == protect(four_norms())
    assert [norm.name for norm in find_norms(model, tmp_path)] == ["hot", "mild", "plain", "inner"]


def test_what_a_model_says_of_itself_is_kept(tmp_path: Path) -> None:
    protect_file(saved(tmp_path), tmp_path / "out.onnx", FAST)
    model = onnx.load(tmp_path / "out.onnx")
    assert (model.producer_name, model.doc_string) == ("exporter", "four norms")
    assert {p.key: p.value for p in model.metadata_props} == {"author": "someone"}
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize(
    "stage", ["graph.save.os.replace", "scale.decide.trace", "graph.temporary.os.write"]
)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()], ids=["Ctrl-C", "memory"])
def test_an_interruption_leaves_input_and_older_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, error: BaseException
) -> None:
    source, output = saved(tmp_path), tmp_path / "out.onnx"
    output.write_bytes(b"older")
    before = source.read_bytes()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(f"slanc_onnx.{stage}", fail)
    with pytest.raises(type(error)):
        protect_file(source, output, FAST)
    assert (source.read_bytes(), output.read_bytes()) == (before, b"older")
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "out.onnx"]


def test_without_norms_nothing_is_written(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]> main (float[2] x) => (float[2] y) { y = Neg(x) }""")
    onnx.save(model, tmp_path / "model.onnx")
    outcome = protect_file(tmp_path / "model.onnx", tmp_path / "out.onnx")
    assert (outcome.norms, outcome.notes, outcome.passed) == ([], [], True)
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_scales_for_another_model_are_refused() -> None:
    scales = compute_scales(four_norms(), FAST)
    (in_a_branch,) = [scale for scale in scales if scale.norm.path]
    shifted, shorter = four_norms(), four_norms()
    shifted.graph.node.insert(0, onnx.helper.make_node("Identity", ["ids"], ["unused"]))
    del shorter.graph.node[2:]
    for model, some in itertools.product((shifted, shorter), (scales, [in_a_branch])):
        before = model.SerializeToString()
        with pytest.raises(SlancError, match="is not where it was found"):
            apply_scales(model, some)
        assert model.SerializeToString() == before


def test_scales_are_applied_once() -> None:
    model = four_norms()
    scales = compute_scales(model, FAST)
    assert apply_scales(model, scales)
    with pytest.raises(SlancError, match="is not where it was found"):
        apply_scales(model, scales)
    assert not apply_scales(model, compute_scales(model, FAST))


def test_a_norm_with_a_reason_to_skip_it_is_never_scaled() -> None:
    before, model = four_norms(), four_norms()
    norms = find_norms_in(read_graph(model))
    assert [norm.name for norm in norms if norm.skip_reason] == ["plain"]
    assert not apply_scales_in(model, norms, {"plain": 64.0})
    assert differences(before, model) == []


@pytest.mark.parametrize("scale", ["window", "paper"])
def test_a_scale_fits_into_the_type_that_it_divides(scale: ScaleRule) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        main (int64[1, rows] ids) => (float16[1, rows, 32] y) {
            h = Gather(table, ids) big = MatMul(h, w) y = LayerNormalization<axis = -1>(big, g)
        }""")
    random = np.random.default_rng(4)
    for name, shape, size in (("table", (9, 32), 2e4), ("w", (32, 32), 2e4), ("g", (32,), 1)):
        values = (random.normal(size=shape) * size).clip(-6e4, 6e4).astype(np.float16)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    (decided,) = protect(model, Options(scale=scale, estimate="weights"))
    assert (decided.status, decided.scale) == ("scaled", 2.0**15)  # 2^16 is infinite in FP16
