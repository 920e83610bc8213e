"""Verifying: is the rewritten model the same, and does it survive FP16?

Takes both models and inputs and gives a `Validation`: FP32 outputs compared bit by bit, and outputs
with every step of the norms rounded as the accelerator rounds. With token ids it also gives
perplexities. An `Audit` holds the scales against the user's own data, and `FirstRows` against every
token alone.
"""

from slanc_onnx.verify.audit import Audit, audit_scales
from slanc_onnx.verify.beside_fold import BesideFold
from slanc_onnx.verify.beyond import Beyond
from slanc_onnx.verify.compare import Difference
from slanc_onnx.verify.default_level import as_written
from slanc_onnx.verify.first_rows import FirstRow, FirstRows, run_every_token, vocabulary
from slanc_onnx.verify.fp32_nodes import HEALED, Fp32Nodes, find_fp32_nodes
from slanc_onnx.verify.held import held_against_rows
from slanc_onnx.verify.left import Left
from slanc_onnx.verify.observed import Observed
from slanc_onnx.verify.tensor_sizes import TensorSize
from slanc_onnx.verify.tolerance import Exactness
from slanc_onnx.verify.trials import validate_on
from slanc_onnx.verify.validation import Trial, Validation
from slanc_onnx.verify.worse import kept_at_one, with_scales_again

__all__ = [
    "HEALED",
    "Audit",
    "BesideFold",
    "Beyond",
    "Difference",
    "Exactness",
    "FirstRow",
    "FirstRows",
    "Fp32Nodes",
    "Left",
    "Observed",
    "TensorSize",
    "Trial",
    "Validation",
    "as_written",
    "audit_scales",
    "find_fp32_nodes",
    "held_against_rows",
    "kept_at_one",
    "run_every_token",
    "validate_on",
    "vocabulary",
    "with_scales_again",
]
