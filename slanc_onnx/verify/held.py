"""Held: certificates against the rows that were seen, which withdraw those that they contradict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from slanc_onnx.prove import Certificate, held_against
from slanc_onnx.reasons import Reason, Seen
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.verify.audit import Audit
from slanc_onnx.verify.first_rows import FirstRows
from slanc_onnx.verify.validation import Validation


def held_against_rows(
    norms: Sequence[ScaledNorm],
    validation: Validation | None,
    audits: Sequence[Audit],
    first_rows: FirstRows | None,
    *,
    as_written: bool = False,
) -> list[ScaledNorm]:
    """The norms, whose certificates are withdrawn where a row contradicts them.

    Args:
        norms: With their certificates.
        validation: The rows that it saw; None where nothing was run.
        audits: The largest rows of the user's data.
        first_rows: The longest row of each token alone; None where that was not run.
        as_written: Whether the certificates are of the file that was written, whose weights are
            others: then its rows count, which the validation alone saw.
    """
    tried = [] if validation is None else validation.observed_on_each
    audited = {} if as_written else {audit.name: audit for audit in audits}
    alone = {} if as_written or first_rows is None else first_rows.longest
    held = []
    for decided in norms:
        certificate, name = decided.certificate, decided.norm.name
        for seen in [observed[name] for observed in tried if name in observed]:
            if certificate is not None:
                certificate = held_against(
                    certificate,
                    seen.scaled * certificate.scale**2 if as_written else seen.sum_of_squares,
                    lambda row: Reason(Seen.IN_VALIDATION, (row,)),
                    seen.overflowed - seen.arrived,
                )
        if certificate is not None:
            for row in audited[name].worst if name in audited else ():
                certificate = _held(certificate, row.sum_of_squares, row.place)
            if name in alone:
                certificate = _held(certificate, alone[name].length ** 2, alone[name].place)
        held.append(replace(decided, certificate=certificate))
    return held


def _held(certificate: Certificate, sum_of_squares: float, place: Reason) -> Certificate:
    return held_against(certificate, np.array([sum_of_squares]), lambda _: place)
