"""Damaged models through the whole job: the fuzzer's first mutants of one seed end well."""

import random
import subprocess
import sys

import onnx
import pytest

from benchmarks.fuzz import make_mutants
from benchmarks.mutants import CHANGES, damaged_bytes
from benchmarks.seeds import seeds
from tests.models.four_norms import four_norms
from tests.places import ROOT


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_models_end_with_a_status_and_no_traceback(count: int) -> None:
    """In a process of its own: a mutant may end the one that it runs in."""
    command = [sys.executable, "-m", "benchmarks.fuzz", "--count", str(count), "--seed", "11"]
    command += ["--seconds", "200"]  # no mutant hangs because the machine is busy
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "| structure |" in done.stdout


def test_a_number_is_always_the_same_mutant() -> None:
    models = seeds()
    first, again = (make_mutants(3, models) for _ in range(2))
    assert [first(n) for n in (5, 2, 9)] == [again(n) for n in (5, 2, 9)]
    assert first(5) != make_mutants(4, models)(5)


def test_every_change_changes_a_model_at_some_draw() -> None:
    before = four_norms().SerializeToString(deterministic=True)
    for change in CHANGES:
        made = set()
        for seed in range(20):
            model = four_norms()
            change(model, random.Random(seed))
            made.add(model.SerializeToString(deterministic=True))
        assert made - {before}, change.__name__


def test_damaged_bytes_are_other_bytes() -> None:
    before = onnx.ModelProto(ir_version=8, producer_name="exporter").SerializeToString()
    assert any(damaged_bytes(before, random.Random(seed)) != before for seed in range(3))
