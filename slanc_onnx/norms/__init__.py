"""Finding every norm of a model, as plain values.

Takes the scopes of a model and gives one `Norm` for each LayerNorm, RMSNorm, GroupNorm and L2
normalisation, by indices and names; what only looks like one is a `Suspect`. Functions that hold
norms are inlined first. Norms that cannot be scaled have the reason with them.
"""

from slanc_onnx.norms.called import called_as
from slanc_onnx.norms.constants import sizes_in, small_value
from slanc_onnx.norms.find import unmatched_means
from slanc_onnx.norms.functions import inline_functions_with
from slanc_onnx.norms.model import ReadModel, read_model
from slanc_onnx.norms.norm import Deferred, Limit, Norm, Place, as_computed
from slanc_onnx.norms.notes import (
    APPLIED_KEY,
    NORM_KEY,
    SCALE_KEY,
    TARGET_KEY,
    drop_notes,
    notes_of,
    with_notes,
    without_notes,
)
from slanc_onnx.norms.row_axes import RowAxes
from slanc_onnx.norms.scaled import lost_limit, residual_name, rounded, scaled_epsilon
from slanc_onnx.norms.suspects import Suspect

__all__ = [
    "APPLIED_KEY",
    "NORM_KEY",
    "SCALE_KEY",
    "TARGET_KEY",
    "Deferred",
    "Limit",
    "Norm",
    "Place",
    "ReadModel",
    "RowAxes",
    "Suspect",
    "as_computed",
    "called_as",
    "drop_notes",
    "inline_functions_with",
    "lost_limit",
    "notes_of",
    "read_model",
    "residual_name",
    "rounded",
    "scaled_epsilon",
    "sizes_in",
    "small_value",
    "unmatched_means",
    "with_notes",
    "without_notes",
]
