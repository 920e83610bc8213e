"""What the installed onnx and ONNX Runtime are too old for: such tests skip, and say so."""

import onnx
import onnxruntime
import pytest


def _of(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))


ONNX, ONNX_RUNTIME = _of(onnx.__version__), _of(onnxruntime.__version__)


def needs_onnx_runtime(*least: int, for_what: str) -> None:
    """Skip the test where ONNX Runtime is older.

    Args:
        least: Major and minor version.
        for_what: What the older one does wrong or lacks.
    """
    if least > ONNX_RUNTIME:
        wanted = ".".join(map(str, least))
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__}, not {wanted}: {for_what}")
