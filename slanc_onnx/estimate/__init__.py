"""Estimates of how large the rows of each norm's input are.

Takes a model, its norms and their expressions, and gives one `Estimate` per norm: a typical sum of
squares and an upper one. They come from a run on random ids, from sample rows through the weights,
from the paper's equations, or from the user's data. None of them is a bound.
"""

from slanc_onnx.estimate.choose import Estimates, estimating, runs_probe
from slanc_onnx.estimate.estimate import TYPICAL_QUANTILE, Estimate
from slanc_onnx.estimate.tensor_ranges import TensorRange, probe_tensors

__all__ = [
    "TYPICAL_QUANTILE",
    "Estimate",
    "Estimates",
    "TensorRange",
    "estimating",
    "probe_tensors",
    "runs_probe",
]
