"""Certificates: how large a row can be, whatever the data, and what that proves.

Takes expressions and an accelerator and gives a bound on each norm's input, and from it the largest
number in every step of its arithmetic. Sets of rows stand for all rows that an expression can give.
Every rounding counts, in the device and in the bounds themselves.
"""

from slanc_onnx.prove.certificate import Certificate, Proof, bounds_for, certify_at, proofs

__all__ = [
    "Certificate",
    "Proof",
    "bounds_for",
    "certify_at",
    "proofs",
]
