"""Estimates: how large the rows of each norm's input are.

Takes a model, its norms and their expressions, and gives one `Estimate` per norm: a typical sum of
squares and an upper one. They come from a run on random ids, from sample rows through the weights,
from the paper's equations, or from the user's data. None of them is a bound.
"""

from slanc_onnx.estimate.calibration import calibrate
from slanc_onnx.estimate.estimate import TYPICAL_QUANTILE, Estimate
from slanc_onnx.estimate.multiply import checked_product_of, refuse_nan
from slanc_onnx.estimate.paper import paper_estimates
from slanc_onnx.estimate.probing import MOST_AT_ONCE, probe
from slanc_onnx.estimate.sample_rows import estimate_from_rows, stored_matrices

__all__ = [
    "MOST_AT_ONCE",
    "TYPICAL_QUANTILE",
    "Estimate",
    "calibrate",
    "checked_product_of",
    "estimate_from_rows",
    "paper_estimates",
    "probe",
    "refuse_nan",
    "stored_matrices",
]
