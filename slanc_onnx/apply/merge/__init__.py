"""Merging what is left of a norm into the weights around it.

Takes a model whose scales are folded and gives `Merges`: gammas and betas that the next weights
take, means that are centred away in the weights before, so that a LayerNorm is an RMSNorm, and
divisions that come after the products. What cannot be merged is left with its reason. Weights are
rounded once, from FP64.
"""

from slanc_onnx.apply.merge.changes import MergedNorm, Merges, Part, ProductSize
from slanc_onnx.apply.merge.held import cast
from slanc_onnx.apply.merge.merging import without_proofs
from slanc_onnx.apply.merge.write import write_changes
from slanc_onnx.apply.merge.written import merge_in_memory, plan_merges, write_merged

__all__ = [
    "MergedNorm",
    "Merges",
    "Part",
    "ProductSize",
    "cast",
    "merge_in_memory",
    "plan_merges",
    "without_proofs",
    "write_changes",
    "write_merged",
]
