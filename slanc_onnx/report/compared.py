"""What the last line says of the FP32 comparison at another level, and of constants beyond FP16."""

from __future__ import annotations

from slanc_onnx.verify import Beyond, Difference


def default_level_text(difference: Difference | None) -> str:
    """How far FP32 outputs are apart at ONNX Runtime's default optimisation level."""
    if difference is None:
        return "not run"
    if difference.identical:
        return "bit-identical"
    if difference.reshaped is not None:
        return "{} has the shape {} before and {} after".format(*difference.reshaped.facts)
    return f"differ by at most {difference.absolute:.3g}, relative {difference.relative:.3g}"


def beyond_text(beyond: Beyond, form: str) -> str:
    """What was tried with constants that a format does not hold."""
    first = f"{len(beyond.names)} constants beyond {form}, first {beyond.names[0]!r}"
    tried = "and with what is computed of it infinite"
    if beyond.difference is None:
        tried = "alone, it did not run otherwise"
    return f"{first} ({beyond.value:.3g}): tried as its largest number {tried}"
