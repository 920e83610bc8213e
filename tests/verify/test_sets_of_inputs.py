"""Several sets of inputs: each version of a model is loaded once, and each set has its own say."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from slanc_onnx import Options, protect
from slanc_onnx.norms import read_model
from slanc_onnx.run import CannotRun, Feeds, InputSet, Session
from slanc_onnx.verify import validate_on
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph, normal

ROWS = f"float[a, b, {D}] x"
X = normal(9, 1, 64, D, spread=100.0)
PICKED = "[n] h = {} (x, g1) k = Cast<to = 7>(p) y = Gather<axis = 1>(h, k)"


def one(feeds: Feeds) -> InputSet:
    return InputSet([feeds], ())


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    made, begin = [], Session.__init__

    def init(session: Session, *given: Any, **named: Any) -> None:
        made.append(session)
        begin(session, *given, **named)

    monkeypatch.setattr(Session, "__init__", init)
    return made


def test_each_version_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = (graph(f"[n] y = {RMS}(x, g1)", weights(), ROWS) for _ in range(2))
    protect(after, Options(inputs={"x": X}))
    reads = read_model(before), read_model(after)
    alone = [validate_on(*reads, Options(), [one({"x": X * k})]) for k in (1, 10, 0.1)]
    made = counted(monkeypatch)
    result = validate_on(*reads, Options(), [one({"x": X * k}) for k in (1, 10, 0.1)])
    assert len(made) == 4 + 2  # FP32 and rounded, of both files; and both at the default level
    assert [t.observed["n"].overflowed_before for t in result.trials] == [
        v.observed["n"].overflowed_before for v in alone
    ]
    assert [bool(t.failures) for t in result.trials] == [not v.passed for v in alone]
    assert result.rounded_rms_error == alone[0].rounded_rms_error


def test_a_set_that_the_original_refuses_is_passed_over_unless_it_is_the_first() -> None:
    nodes = PICKED.format(RMS)
    before, after = (graph(nodes, weights(), f"{ROWS}, float[n] p") for _ in range(2))
    good: dict[str, NDArray[np.float32]] = {"x": X, "p": np.ones(1, np.float32)}
    bad = {"x": X, "p": np.full(1, 1000.0, np.float32)}  # an index out of range
    protect(after, Options(inputs=good))
    reads = read_model(before), read_model(after)
    assert len(validate_on(*reads, Options(), [one(good), one(bad), one(good)]).trials) == 2
    with pytest.raises(CannotRun, match="out of data bounds"):
        validate_on(*reads, Options(), [one(bad), one(good)])
