"""The command line as a fixture, how hypothesis runs for mutants, what Python's collector skips."""

import gc
import math
import os
from collections.abc import Callable, Generator
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, Phase, settings

from slanc_onnx.cli import main
from tests.models.four_norms import four_norms

# A machine that is busy fails no test; nor does a change for an example that none met before it.
quiet = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("suite", quiet, derandomize=True)
settings.load_profile("suite")
settings.register_profile("search", quiet, derandomize=False)  # other examples each time
# For mutmut: the same examples each time, and no search for the smallest one that fails.
settings.register_profile(
    "mutants", derandomize=True, database=None, phases=(Phase.explicit, Phase.generate)
)

Run = Callable[..., tuple[int, str, str]]


def pytest_configure() -> None:
    """Workers share the processors: more threads of BLAS in each, and in what it starts, wait."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What pytest collects stays, so that there is nothing to look for while it does."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def kept() -> None:
    """What is there before a module, ten thousand tests above all, is looked through once.

    Each validation of a model calls `gc.collect`, which else took most of the time of the suite.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in a folder with model.onnx; gives the status, stdout and stderr.

    On a busy machine too it is not said to take long.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("slanc_onnx.report.watching.UNSEEN", math.inf)
    onnx.save(four_norms(leaky=False), "model.onnx")

    def of(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return of
