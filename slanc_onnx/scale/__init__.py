"""Scales: one decision per norm.

Takes the estimate and the bound of each norm and gives a power of two between overflow and
underflow, or the reason why there is none. A decision is a `ScaledNorm`; nothing is changed yet.
The other rules, the paper's and calibration, end in the same value.
"""

from slanc_onnx.scale.as_written import certified_as_written
from slanc_onnx.scale.assumed import Assumption
from slanc_onnx.scale.decide import (
    compute_scales_in,
    with_conditions,
)
from slanc_onnx.scale.extents import with_safe_radius
from slanc_onnx.scale.json_form import to_json
from slanc_onnx.scale.minimal import instead_of_one, keeps_epsilon, without_one
from slanc_onnx.scale.scaled_norm import ScaledNorm, scales_to_apply
from slanc_onnx.scale.window import ELEMENT_BITS, faintest, least_exponent

__all__ = [
    "ELEMENT_BITS",
    "Assumption",
    "ScaledNorm",
    "certified_as_written",
    "compute_scales_in",
    "faintest",
    "instead_of_one",
    "keeps_epsilon",
    "least_exponent",
    "scales_to_apply",
    "to_json",
    "with_conditions",
    "with_safe_radius",
    "without_one",
]
