"""Applying scales: decisions become edits of the model.

Takes a model and the scales of its norms and gives the model with a Div in front of each norm and
epsilon divided to match. Weights, names, metadata and the order of nodes stay. `apply.fold` puts
the scales into the weights instead.
"""

from slanc_onnx.apply.div import apply_scales_in, plan_edits
from slanc_onnx.apply.undo import without_scales_of_others

__all__ = [
    "apply_scales_in",
    "plan_edits",
    "without_scales_of_others",
]
