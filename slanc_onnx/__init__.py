"""Make the LayerNorms and RMSNorms of an ONNX model safe on hardware that computes them in FP16.

    model = onnx.load("model.onnx")
    for norm in slanc_onnx.protect(model):
        print(norm.norm.name, norm.scale, norm.status, slanc_onnx.reasons_text(norm.reasons))
    onnx.save(model, "model.slanc.onnx")

The steps of `protect` are there one by one: `find_norms`, `compute_scales`, `apply_scales` and
`validate`. `protect_file` does the whole job from file to file, as the command line does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from slanc_onnx._version import __version__ as __version__

if TYPE_CHECKING:
    from slanc_onnx.public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """A name of `public`, which is read when one is asked for: --version waits for no library."""
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    public = importlib.import_module("slanc_onnx.public")
    found: list[str] = getattr(public, "__all__", [])  # not there yet while it is read itself
    globals().update({known: getattr(public, known) for known in found}, __all__=found)
    if name not in globals():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *importlib.import_module("slanc_onnx.public").__all__})
