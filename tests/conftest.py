"""The command line as a fixture, how hypothesis runs for mutants, and what is not collected."""

import gc
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import Phase, settings

from slanc_onnx.cli import main
from tests.models.four_norms import four_norms

# For mutmut: the same examples each time, and no search for the smallest one that fails.
settings.register_profile(
    "mutants", derandomize=True, database=None, phases=(Phase.explicit, Phase.generate)
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in a folder with model.onnx; gives the status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    onnx.save(four_norms(leaky=False), "model.onnx")

    def of(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return of


def pytest_collection_finish() -> None:
    """Leave thousands of tests alone: no collection looks at them, no fork copies them for one."""
    gc.collect()
    gc.freeze()
