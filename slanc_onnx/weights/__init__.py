"""Weights as references, read once and block by block when a stage asks for their numbers.

Takes initializers and gives products with rows, upper bounds of matrix norms and a check for nan,
each from one read. Memory is that of a block, whatever the size of the matrix. Any executor may
work on the blocks; the result does not depend on it.
"""

from slanc_onnx.weights.blocks import Blocks, Layout, Read, dequantize_blocks, fit
from slanc_onnx.weights.matrix_norms import (
    MatrixSizes,
    about,
    cheap_spectral_bound,
    frobenius_norm,
    largest_eigenvalue_bound,
    lengths,
    spectral_bound,
)
from slanc_onnx.weights.nan_check import check_weights, holds_nan
from slanc_onnx.weights.stored import Stored, stored_matrix, whole
from slanc_onnx.weights.streamed import read_once, workers

__all__ = [
    "Blocks",
    "Layout",
    "MatrixSizes",
    "Read",
    "Stored",
    "about",
    "cheap_spectral_bound",
    "check_weights",
    "dequantize_blocks",
    "fit",
    "frobenius_norm",
    "holds_nan",
    "largest_eigenvalue_bound",
    "lengths",
    "read_once",
    "spectral_bound",
    "stored_matrix",
    "whole",
    "workers",
]
