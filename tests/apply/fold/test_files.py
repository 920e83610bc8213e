"""Files: what folding writes, and where, and the command line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import external_data_helper, numpy_helper

from slanc_onnx import (
    Options,
    apply_scales,
    compute_scales,
    protect,
    protect_file,
)
from slanc_onnx.apply.fold.folding import apply_fold, fold
from slanc_onnx.cli import main
from slanc_onnx.errors import SlancError
from slanc_onnx.graph.flow import Tensor
from slanc_onnx.graph.load import external_location, load_model, read_tensor
from slanc_onnx.graph.own_data import OwnData, holds_what_it_says
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.norms.model import ReadModel, read_model
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.verify.audit import Audit
from tests.models.fold_models import RMS, decided, same_bits, weights
from tests.models.small_graphs import D, graph, normal

HOT = f"""
    e = Gather(table, ids)
    [n1] h1 = {RMS}(e, g1)
    m1 = MatMul(h1, big)
    r1 = Add(e, m1)
    [n2] h2 = {RMS}(r1, g2)
    y = MatMul(h2, w2)
"""
FOLD = Options(apply="fold")
IN_A_FUNCTION = """
    <ir_version: 10, opset_import: ["": 17, "own": 1]>
    main (float[2, 2] x) => (float[2, 2] y)
        <float[2] w = {3, 5}> { h = Mul(x, w) y = own.norm(h) }
    <domain: "own", opset_import: ["": 17]>
    norm (x) => (y) {
        ones = Constant<value_floats = [1.0, 1.0]>()
        y = LayerNormalization<axis = -1>(x, ones)
    }
"""


def hot() -> onnx.ModelProto:
    return graph(HOT, weights(big=normal(3, D, D, spread=3000.0), table=normal(0, 11, D) * 900))


def external(folder: Path) -> Path:
    """The model with all of its weights in weights.bin."""
    model = hot()
    folder.mkdir(parents=True, exist_ok=True)
    external_data_helper.convert_model_to_external_data(
        model, location="weights.bin", size_threshold=0
    )
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def locations(path: Path) -> dict[str, str]:
    return {t.name: external_location(t) for t in load_model(path).graph.initializer}


def test_changed_weights_go_into_a_file_of_their_own(tmp_path: Path) -> None:
    source, output = external(tmp_path), tmp_path / "folded.onnx"
    data = (tmp_path / "weights.bin").read_bytes()
    outcome = protect_file(source, output, FOLD)
    assert outcome.passed
    assert outcome.validation is not None and outcome.validation.fp32_identical
    assert outcome.fold is not None and outcome.fold.inserted == 0
    assert (tmp_path / "weights.bin").read_bytes() == data
    found = locations(output)
    (own,) = tmp_path.glob("folded.fold-*.data")
    changed = {name for name, where in found.items() if where == own.name}
    assert changed == {"table", "big"}
    assert {found[name] for name in ("g1", "g2", "w2")} == {"weights.bin"}
    assert own.stat().st_size < 3 * 4096 and holds_what_it_says(own)
    assert not list(tmp_path.glob(".*"))
    before = {t.name: read_tensor(t, tmp_path) for t in load_model(source).graph.initializer}
    for tensor in load_model(output).graph.initializer:
        if tensor.name in changed:
            ratio = before[tensor.name] / read_tensor(tensor, tmp_path)
            assert np.unique(ratio).size == 1 and np.log2(ratio.flat[0]) % 1 == 0


def test_in_another_folder_all_data_is_there(tmp_path: Path) -> None:
    source, output = external(tmp_path / "in"), tmp_path / "out" / "model.onnx"
    outcome = protect_file(source, output, FOLD)
    assert outcome.passed
    names = {path.name for path in output.parent.iterdir()}
    (own,) = output.parent.glob("model.fold-*.data")
    assert names == {"model.onnx", own.name, "weights.bin"}
    full = onnx.load(output)
    assert same_bits(onnx.load(source), full)


def test_a_second_run_writes_the_same_file(tmp_path: Path) -> None:
    source = external(tmp_path)
    protect_file(source, tmp_path / "once.onnx", FOLD)
    outcome = protect_file(tmp_path / "once.onnx", tmp_path / "twice.onnx", FOLD)
    assert (tmp_path / "once.onnx").read_bytes() == (tmp_path / "twice.onnx").read_bytes()
    assert not list(tmp_path.glob("twice.fold*"))
    assert [found.status for found in outcome.norms] == ["unchanged"] * 2


def test_a_run_with_div_leaves_a_folded_model_alone(tmp_path: Path) -> None:
    source = external(tmp_path)
    protect_file(source, tmp_path / "once.onnx", FOLD)
    protect_file(tmp_path / "once.onnx", tmp_path / "twice.onnx", Options())
    assert (tmp_path / "once.onnx").read_bytes() == (tmp_path / "twice.onnx").read_bytes()


def test_tensors_lie_one_after_the_other_on_pages(tmp_path: Path) -> None:
    data = OwnData(tmp_path)
    assert data.add(np.arange(3.0)) == (0, 24)
    assert data.add(np.arange(2.0)) == (4096, 16)
    digest = data.finish()
    assert data.path.stat().st_size == data.size == 4112
    assert holds_what_it_says(data.path.rename(tmp_path / f"m.fold-{digest}.data"))
    empty = OwnData(tmp_path)
    assert empty.finish() == "" and not empty.path.exists()


def test_nothing_is_left_where_the_output_cannot_be_written(tmp_path: Path) -> None:
    source = external(tmp_path / "in")
    blocked = tmp_path / "out"
    blocked.mkdir()
    (blocked / "weights.bin").write_bytes(b"another")
    with pytest.raises(SlancError, match="in the way"):
        protect_file(source, blocked / "model.onnx", FOLD)
    assert [path.name for path in blocked.iterdir()] == ["weights.bin"]


def test_in_memory(tmp_path: Path) -> None:
    model = hot()
    decided = protect(model, FOLD)
    assert [node.op_type for node in model.graph.node] == [n.op_type for n in hot().graph.node]
    assert all(found.scale and found.scale > 1 for found in decided)
    assert same_bits(hot(), model)
    stepwise = hot()
    assert apply_scales(stepwise, compute_scales(stepwise), apply="fold")
    assert stepwise.SerializeToString() == model.SerializeToString()
    again = protect(model, FOLD)
    assert [found.status for found in again] == ["unchanged"] * 2
    assert [n.scaled_by for n in find_norms_in(read_graph(model))] == [d.scale for d in decided]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, report = external(tmp_path), tmp_path / "report.json"
    arguments = [str(source), "-o", str(tmp_path / "out.onnx"), "--report", str(report)]
    assert main([*arguments, "--apply", "fold", "--explain-groups"]) == 0
    printed = capsys.readouterr().out
    assert "2 norms: 2 folded, 0 Div; 0 nodes inserted, 2 weights rewritten" in printed
    assert "group 1: 3 tensors, divided by" in printed
    written = json.loads(report.read_text())
    assert [norm["applied"] for norm in written["norms"]] == ["fold", "fold"]
    assert (written["fold"]["norms_folded"], written["fold"]["inserted_nodes"]) == (2, 0)
    assert written["fold"]["groups"][0]["folded"] == ["n1", "n2"]
    assert main(arguments) == 0
    assert [n["applied"] for n in json.loads(report.read_text())["norms"]] == ["div", "div"]
    assert json.loads(report.read_text())["fold"] is None


@pytest.mark.parametrize("extra", [["--apply", "fold", "--scale", "paper"], ["--explain-groups"]])
def test_what_does_not_go_together(tmp_path: Path, extra: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "m.onnx"), *extra])
    assert stopped.value.code == 2


def test_paper_scales_are_not_folded() -> None:
    with pytest.raises(SlancError, match="power of two"):
        protect(hot(), Options(scale="paper", apply="fold"))


def test_a_model_whose_functions_hold_norms_is_unchanged_where_folding_is_refused() -> None:
    model = onnx.parser.parse_model(IN_A_FUNCTION)
    before = model.SerializeToString(deterministic=True)
    with pytest.raises(SlancError, match="power of two"):
        protect(model, Options(scale="paper", apply="fold"))
    assert model.SerializeToString(deterministic=True) == before
    scales = compute_scales(model, Options(scale="paper"))
    with pytest.raises(SlancError, match="power of two"):
        apply_scales(model, scales, apply="fold")
    assert model.SerializeToString(deterministic=True) == before
    assert apply_scales(model, scales) and not model.functions  # with Divs they can be applied


def test_the_audit_is_of_the_scales_that_norms_have_after_folding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grows = 10 ** np.linspace(-1, 1, 200)[:, None]
    table = (normal(0, 200, D) * 30 * grows).astype(np.float32)
    model = graph(HOT, weights(big=normal(1, D, D, spread=90.0), table=table))
    onnx.save(model, tmp_path / "m.onnx")
    audited: list[ScaledNorm] = []

    def audit_scales(_: ReadModel, norms: list[ScaledNorm], *rest: object) -> list[Audit]:
        audited.extend(norms)
        return []

    monkeypatch.setattr("slanc_onnx.job.files.audit_scales", audit_scales)
    ids = {"ids": np.array([[3, 1, 4]])}
    outcome = protect_file(
        tmp_path / "m.onnx", tmp_path / "o.onnx", Options(apply="fold", observe=ids)
    )
    alone = [d.scale for d in compute_scales(model)]
    assert [d.scale for d in outcome.norms] != alone  # the group's scale is another one
    assert audited == outcome.norms


@pytest.mark.parametrize(("gamma", "exponent", "certified"), [(3e4, 6, True), (8.0, -14, False)])
def test_the_certificate_is_of_the_gamma_that_the_norm_has_then(
    gamma: float, exponent: int, certified: bool
) -> None:
    """sqrt(8) times 3e4 overflows and a 64th of it does not; sqrt(8) times 8 does with 2^14."""
    text = f"e = Gather(table, ids) [n1] h = {RMS}(e, g) [n2] y = {RMS}(h, g2)"
    model = graph(text, weights(g=np.full(D, gamma, np.float32)))
    proved = {d.norm.name: d.certificate for d in compute_scales(model)}
    first = proved["n1"]
    assert first is not None and first.certified != certified
    windows = {"n1": (0, 0), "n2": (exponent, exponent)}
    asked = [replace(d, certificate=proved[d.norm.name]) for d in decided(model, windows)]
    found, norms = fold(read_model(model), asked, Options())
    assert found.weights == {Tensor((), "g"): exponent}
    assert norms[0].scale == 1.0 and norms[0].certificate is not None
    assert norms[0].certificate.certified == certified
    apply_fold(model, found, None)
    again = compute_scales(model)[0].certificate
    assert again is not None and again.certified == certified


def test_inline_weights_stay_inline(tmp_path: Path) -> None:
    onnx.save(hot(), tmp_path / "m.onnx")
    protect_file(tmp_path / "m.onnx", tmp_path / "o.onnx", FOLD)
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "o.onnx"}
    tensors = load_model(tmp_path / "o.onnx").graph.initializer
    (big,) = [numpy_helper.to_array(tensor) for tensor in tensors if tensor.name == "big"]
    assert (np.log2(normal(3, D, D, spread=3000.0) / big) % 1 == 0).all()


@pytest.mark.parametrize("option", ["--report", "--html"])
@pytest.mark.parametrize("name", ["out.fold.data", "weights.bin"])
def test_a_report_does_not_take_the_name_of_data_that_is_to_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, name: str
) -> None:
    if option == "--html":
        pytest.importorskip("matplotlib")
    source, folder = external(tmp_path / "in"), tmp_path / "out"
    folder.mkdir()
    arguments = [str(source), "-o", str(folder / "out.onnx"), "--apply", "fold", "--no-validate"]
    assert main([*arguments, option, str(folder / name)]) == 2
    assert f"{option} {folder / name}: is no report of an earlier run" in capsys.readouterr().err
    assert list(folder.iterdir()) == []
    assert main([*arguments, option, str(tmp_path / name)]) == 0  # in another folder it is free
    assert read_tensor(load_model(folder / "out.onnx").graph.initializer[0], folder).size
    (tmp_path / "in" / "r").write_bytes((tmp_path / name).read_bytes())
    assert main([*arguments, option, str(folder / "r")]) == 0  # as is one with a report beside it
