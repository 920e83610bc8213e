"""Certificates: proofs that no input drives a norm's arithmetic to inf or nan.

Takes a model and an accelerator and gives a bound on each norm's input, and from it the largest
number in every step of its arithmetic. Sets of rows stand for all rows that a tensor can have.
Every rounding counts, in the device and in the bounds themselves.
"""

from slanc_onnx.prove.affine import Affine, affine_of
from slanc_onnx.prove.certificate import Certificate, Proof, certify, certify_at
from slanc_onnx.prove.composition import composed
from slanc_onnx.prove.condition import Condition
from slanc_onnx.prove.deferred import holds_products, keeps_root
from slanc_onnx.prove.gated import with_joint_bounds
from slanc_onnx.prove.radius import safe_radius
from slanc_onnx.prove.step_bounds import output_radius
from slanc_onnx.prove.trusted import Assumed, proofs
from slanc_onnx.prove.withdrawn import WITHDRAWN, certified_again, held_against

__all__ = [
    "WITHDRAWN",
    "Affine",
    "Assumed",
    "Certificate",
    "Condition",
    "Proof",
    "affine_of",
    "certified_again",
    "certify",
    "certify_at",
    "composed",
    "held_against",
    "holds_products",
    "keeps_root",
    "output_radius",
    "proofs",
    "safe_radius",
    "with_joint_bounds",
]
