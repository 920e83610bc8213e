"""What the installed onnx and ONNX Runtime are too old for: such tests skip, and say so."""

import re

import onnx
import onnxruntime
import pytest


def _of(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


ONNX, ONNX_RUNTIME = _of(onnx.__version__), _of(onnxruntime.__version__)


def needs_onnx_runtime(*least: int, for_what: str) -> None:
    """Skip the test where ONNX Runtime is older.

    Args:
        least: Major and minor version, and the third number where that matters.
        for_what: What the older one does wrong or lacks.
    """
    if least > ONNX_RUNTIME:
        _skip("ONNX Runtime", onnxruntime.__version__, least, for_what)


def needs_onnx(*least: int, for_what: str) -> None:
    """Skip the test where onnx is older: as `needs_onnx_runtime`."""
    if least > ONNX:
        _skip("onnx", onnx.__version__, least, for_what)


def _skip(package: str, version: str, least: tuple[int, ...], for_what: str) -> None:
    wanted = ".".join(map(str, least))
    pytest.skip(f"{package} {version}, not {wanted}: {for_what}")
