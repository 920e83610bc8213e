"""Emulating: a model whose arithmetic is rounded as the accelerator rounds it.

Takes a model with its norms and gives a copy in FP32 with a rounding after every step that the
accelerator rounds. That is exactly the narrow arithmetic, on a provider that has none. The norms
alone are rounded, or everything.
"""

from slanc_onnx.verify.emulate.everything import (
    CONTAINERS,
    MOVES,
    Everything,
    OfConstants,
)
from slanc_onnx.verify.emulate.inputs import float_inputs
from slanc_onnx.verify.emulate.kept import names_of
from slanc_onnx.verify.emulate.lost import Watched, What, largest_finite
from slanc_onnx.verify.emulate.norms import Emulated, can_emulate, emulate

__all__ = [
    "CONTAINERS",
    "MOVES",
    "Emulated",
    "Everything",
    "OfConstants",
    "Watched",
    "What",
    "can_emulate",
    "emulate",
    "float_inputs",
    "largest_finite",
    "names_of",
]
