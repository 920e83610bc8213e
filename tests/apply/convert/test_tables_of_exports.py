"""Over the graphs of real exporters: positions get tables, and the outputs stay what they are."""

import numpy as np
import onnx
import pytest

from slanc_onnx.accelerator import FLOAT16, FLOAT32
from slanc_onnx.apply.convert.angles import read_circular
from slanc_onnx.apply.convert.tables import write_tables
from slanc_onnx.reasons import Untabled
from tests.oracles.unoptimised import Values, run
from tests.places import ZOO

# From the positions in a mask, divided by their largest.
BY_MASK = {"detr__dynamo18"}
# ONNX Runtime's CPU provider does not run these files as they came.
CANNOT_RUN = {"cohere__ts17", "bert__dynamo23bf16", "unet_groupnorm__ts17_opt_unet"}
MODELS = sorted(path.parent.name for path in ZOO.glob("*/model.onnx"))


def circular(model: onnx.ModelProto) -> int:
    return sum(node.op_type in ("Cos", "Sin") for node in model.graph.node)


def outputs(model: onnx.ModelProto, name: str) -> Values:
    stored = np.load(ZOO / name / "io.npz")
    feeds = {key.removeprefix("in__"): stored[key] for key in stored if key.startswith("in__")}
    return run(model, **{info.name: feeds[info.name] for info in model.graph.input})


def off(got: Values, expected: Values) -> float:
    """The largest RMS error of an output of floats, relative."""
    floats = [name for name, value in expected.items() if value.dtype.kind == "f" and value.size]
    errors = [np.mean((got[n].astype(np.float64) - expected[n]) ** 2) for n in floats]
    sizes = [np.mean(expected[n].astype(np.float64) ** 2) for n in floats]
    return float(np.sqrt(np.max(np.divide(errors, sizes))))


@pytest.mark.skipif(not MODELS, reason="no ../shared/zoo beside the checkout")
@pytest.mark.parametrize("name", MODELS)
def test_an_export_with_tables(name: str) -> None:
    model = onnx.load(ZOO / name / "model.onnx")
    count = circular(model)
    before = onnx.ModelProto()
    before.CopyFrom(model)
    found = write_tables(model, read_circular(model, None), FLOAT32, 512)
    assert len(found.made) + len(found.kept) == count
    assert len(found.kept) == circular(model) == (count if name in BY_MASK else 0)
    assert {kept.why.kind for kept in found.kept} <= {Untabled.NOT_BY_POSITION}
    if not found.made:
        return
    onnx.checker.check_model(model)
    if name in CANNOT_RUN:
        return
    expected = outputs(before, name)
    assert off(outputs(model, name), expected) < 2e-6
    narrow = onnx.ModelProto()
    narrow.CopyFrom(before)
    write_tables(narrow, read_circular(narrow, None), FLOAT16, 512)
    assert off(outputs(narrow, name), expected) < 5e-4
