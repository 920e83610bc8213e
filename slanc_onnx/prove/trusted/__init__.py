"""The trusted prover: reads a graph with symbolic sizes, by a table of rules.

Takes a model and a device and gives the premises of each norm's certificate. What no rule names,
op, attribute or type, is unknown. Nothing here knows how long a sequence is.
"""

from __future__ import annotations

from slanc_onnx.norms import ReadModel
from slanc_onnx.progress import Progress
from slanc_onnx.prove.certificate import Proof
from slanc_onnx.prove.trusted.known import Assumed
from slanc_onnx.prove.trusted.prover import Prover


def proofs(read: ReadModel, assumed: Assumed, progress: Progress) -> dict[str, Proof]:
    """The premises of each norm's certificate, by norm name."""
    prover = Prover(read, assumed)
    found = prover.run(progress)
    return {
        norm.name: Proof(
            norm, found[norm.name], prover.affine.get(norm.name), norm.name in prover.misread
        )
        for norm in read.norms
    }


__all__ = ["Assumed", "proofs"]
