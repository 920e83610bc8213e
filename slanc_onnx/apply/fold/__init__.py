"""Folding the scales of norms into the weights before them.

Takes a model with the scales of its norms and gives a `Fold`: the weights to divide, and the few
nodes to insert where no weight can be divided. Tensors that are added or rearranged into each other
form a group with one power of two. All of it is exact.
"""

from slanc_onnx.apply.fold.folding import (
    Fold,
    apply_fold,
    fold,
    write_folded,
)
from slanc_onnx.apply.fold.weights import HALF, Weights
from slanc_onnx.apply.fold.words import FoldedGroup

__all__ = [
    "HALF",
    "Fold",
    "FoldedGroup",
    "Weights",
    "apply_fold",
    "fold",
    "write_folded",
]
