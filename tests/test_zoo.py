"""Over the graphs of real exporters: every norm is found, and scaling changes nothing else.

The graphs lie beside the checkout, each with the inputs to feed it and what its framework says of
its norms; without them these tests are skipped.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, protect_file
from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.load import load_model
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.norms.norm import Norm
from slanc_onnx.options import Merge
from slanc_onnx.run.float32 import as_float32
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.run.session import Session
from tests.oracles.proto_diff import differences
from tests.oracles.unoptimised import Values, different
from tests.places import ZOO
from tests.versions import needs_onnx_runtime

MODELS = sorted(path.parent.name for path in ZOO.glob("*/truth.json"))

# ONNX Runtime's CPU provider does not run these files as they came.
CANNOT_RUN = {
    "unet_groupnorm__ts17_opt_unet": "no NhwcConv",
    "cohere__ts17": "it broadcasts 4 to 8, at every optimisation level",
}

pytestmark = pytest.mark.skipif(not MODELS, reason="no ../shared/zoo beside the checkout")
each_model = pytest.mark.parametrize("name", MODELS)


def norms_of(path: Path) -> list[Norm]:
    return find_norms_in(read_graph(load_model(path), path.parent))


@each_model
def test_every_norm_is_found(name: str) -> None:
    truth = json.loads((ZOO / name / "truth.json").read_text())
    found = norms_of(ZOO / name / "model.onnx")
    assert len(found) == truth["norm_sites_in_graph"]
    assert len({norm.name for norm in found}) == len(found)
    in_graph = [norm for norm in truth["norms"] if norm["in_graph"]]
    assert {norm.width for norm in found} <= {None, *(norm["dim"] for norm in in_graph)}
    groups = sum(norm["kind"] == "groupnorm" for norm in in_graph)
    assert sum(norm.kind == "group" for norm in found) == groups


def outputs(path: Path, feeds: Values) -> Values:
    """The outputs in FP32, but for `present.*`, which hold memory that nothing wrote.

    FP16 and BF16 tensors become FP32: how ONNX Runtime's CPU provider rounds an FP16 graph depends
    on which nodes stand beside each other.
    """
    values = Session(as_float32(load_model(path), path.parent), path.parent).run(feeds)
    return {name: v for name, v in values.items() if not name.startswith("present")}


def feeds_of(name: str) -> Values:
    with np.load(ZOO / name / "io.npz") as stored:
        return {key[4:]: stored[key] for key in stored if key.startswith("in__")}


def needs_to_run(name: str) -> None:
    """Skip from here on where the installed ONNX Runtime does not run the file as it came."""
    if name in CANNOT_RUN:
        pytest.skip(CANNOT_RUN[name])
    model = onnx.load(ZOO / name / "model.onnx", load_external_data=False)
    if any(opset.domain == "" and opset.version > 23 for opset in model.opset_import):
        needs_onnx_runtime(1, 24, for_what="opset 24")
    if any(a.name == "sliding_window_cache" for node in model.graph.node for a in node.attribute):
        needs_onnx_runtime(1, 29, for_what="a cache of a sliding window")


@each_model
def test_scaling_changes_no_bit_of_an_output(name: str, tmp_path: Path) -> None:
    source, rewritten = ZOO / name / "model.onnx", tmp_path / "model.onnx"
    feeds = feeds_of(name)
    if name in CANNOT_RUN:
        with pytest.raises(CannotRun, match=r"NOT_IMPLEMENTED|broadcast|BroadcastIterator"):
            outputs(source, feeds)
    needs_to_run(name)
    model, norms = onnx.load(source, load_external_data=False), norms_of(source)
    apply_scales_in(model, norms, {n.name: 16.0 for n in norms if not n.skip_reason})
    for data in source.parent.glob("*.data"):  # ONNX Runtime follows no link out of the folder
        shutil.copyfile(data, tmp_path / data.name)
    rewritten.write_bytes(model.SerializeToString())
    assert different(outputs(source, feeds), outputs(rewritten, feeds)) == []


@each_model
def test_folding_changes_no_bit(name: str, tmp_path: Path) -> None:
    source, once, twice = ZOO / name / "model.onnx", tmp_path / "1.onnx", tmp_path / "2.onnx"
    options = Options(apply="fold", validate=False)
    protect_file(source, once, options)
    protect_file(once, twice, options)
    assert twice.read_bytes() == once.read_bytes()
    needs_to_run(name)
    feeds = feeds_of(name)
    assert different(outputs(source, feeds), outputs(once, feeds)) == []


def far(expected: Values, actual: Values) -> float:
    """The largest RMS difference of an output, relative to its RMS, in float64."""
    assert expected.keys() == actual.keys()
    worst = 0.0
    for name, value in expected.items():
        assert value.shape == actual[name].shape and value.dtype == actual[name].dtype
        x, y = value.astype(np.float64), actual[name].astype(np.float64)
        there = np.isfinite(x)
        size = float(np.sqrt(np.mean(x[there] ** 2))) or 1.0
        worst = max(worst, float(np.sqrt(np.mean((x[there] - y[there]) ** 2))) / size)
    return worst


@each_model
def test_merging_rounds_and_a_second_run_changes_nothing(name: str, tmp_path: Path) -> None:
    source, once, twice = ZOO / name / "model.onnx", tmp_path / "1.onnx", tmp_path / "2.onnx"
    parts: tuple[Merge, ...] = ("all",)
    options = Options(apply="fold", merge=parts, validate=False, certify="off")
    outcome = protect_file(source, once, options)
    again = protect_file(once, twice, options)
    assert twice.read_bytes() == once.read_bytes()
    # A norm stands where its first division does: that of an encoder may be in the decoder now.
    assert sorted(n.norm.name for n in again.norms) == sorted(n.norm.name for n in outcome.norms)
    assert again.merges is not None and not again.merges.changes
    needs_to_run(name)
    feeds = feeds_of(name)
    types = {t.data_type for t in onnx.load(source, load_external_data=False).graph.initializer}
    half = types & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    error = 0.0 if outcome.merges is None else outcome.merges.error
    allowed = 2 * error * len(outcome.norms) ** 0.5 if half else 0.0
    assert error < 2.0**-8 and far(outputs(source, feeds), outputs(once, feeds)) < max(
        1e-5, allowed
    )


# What scaling may change: a Div or Mul, a number, what a norm reads, its epsilon, and notes.
MEANT = re.compile(
    r"graph\.initializer\[slanc\.(scale|epsilon)_[^]]+\]: added"
    r"|.*node\[.*\]: added"
    r"|.*node\[[^]]*\]\.(input|output): \[.*\] -> \[.*\]"
    r"|.*node\[.*\]\.attribute\[epsilon\](\.f: .*|: added)"
    r"|.*node\[.*\]\.metadata_props\[slanc\.(scale|norm)\]: added"
)


def is_meant(difference: str) -> bool:
    if not MEANT.fullmatch(difference):
        return False
    changed = re.search(r"\.(input|output): (\[.*\]) -> (\[.*\])$", difference)
    if changed is None:
        return True
    before, after = (re.findall(r"'([^']*)'", names) for names in changed.groups()[1:])
    pairs = zip(before, after, strict=True)
    return all(old == new or "slanc" in new for old, new in pairs)


@each_model
def test_the_file_differs_in_the_norms_alone_and_a_second_run_changes_nothing(
    name: str, tmp_path: Path
) -> None:
    source, once, twice = ZOO / name / "model.onnx", tmp_path / "1.onnx", tmp_path / "2.onnx"
    outcome = protect_file(source, once, Options(validate=False))
    before, after = (onnx.load(file, load_external_data=False) for file in (source, once))
    found = differences(before, after)
    assert [text for text in found if not is_meant(text)] == []
    made = [{name for node in m.graph.node for name in node.output} for m in (before, after)]
    assert made[0] <= made[1]
    assert all("slanc" in name for name in made[1] - made[0])
    again = protect_file(once, twice, Options(validate=False))
    assert twice.read_bytes() == once.read_bytes()
    for first, second in zip(outcome.norms, again.norms, strict=True):
        expected = "unchanged" if first.status == "scaled" else first.status
        assert (second.status, second.scale) == (expected, first.scale)
