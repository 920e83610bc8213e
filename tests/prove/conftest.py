"""A proof that is wrong on purpose, which runs have to find."""

from dataclasses import replace

import pytest

from slanc_onnx.norms.norm import Norm
from slanc_onnx.prove.bound import Bound
from slanc_onnx.prove.trusted.known import Known
from slanc_onnx.prove.trusted.prover import Prover


@pytest.fixture
def too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof that is wrong by a factor of a thousand."""
    right = Prover._bound

    def wrong(prover: Prover, norm: Norm, given: Known | None) -> Bound:
        found = right(prover, norm, given)
        return found if found.length is None else replace(found, length=found.length / 1000)

    monkeypatch.setattr(Prover, "_bound", wrong)
