"""What is said of FP32 outputs at another level, and of constants and tensors beyond FP16."""

from __future__ import annotations

from collections.abc import Sequence

from slanc_onnx.verify import BesideFold, Beyond, Difference, TensorSize


def default_level_text(difference: Difference | None) -> str:
    """How far FP32 outputs are apart at ONNX Runtime's default optimisation level."""
    if difference is None:
        return "not run"
    if difference.identical:
        return "bit-identical"
    if difference.reshaped is not None:
        return "{} has the shape {} before and {} after".format(*difference.reshaped.facts)
    return f"differ by at most {difference.absolute:.3g}, relative {difference.relative:.3g}"


def as_written_text(difference: Difference | None, no_kernel: str | None) -> str:
    """How far a file of 16 bits is from the original, run as it is, and what that does not say."""
    if no_kernel is not None:
        return f"not run, as its CPU provider has no {no_kernel} in BF16"
    if difference is None:
        return "loads, not compared"
    hides = "which hides overflow: no evidence"
    return f"runs, differs by at most {difference.absolute:.3g}, {hides}"


def beside_fold_text(beside: BesideFold) -> str:
    """What the rounded outputs of a merged file are held against, and how far these are apart."""
    told = f"the fold alone RMS {beside.error:.3g} + noise {beside.moves:.3g}"
    if beside.ways:
        told += f", rounded in {len(beside.ways)} other ways up to {beside.furthest:.3g}"
    return f"{told}, {beside.difference:.3g} apart"


def beyond_text(beyond: Beyond, form: str) -> str:
    """What was tried with constants that a format does not hold."""
    first = f"{len(beyond.names)} constants beyond {form}, first {beyond.names[0]!r}"
    tried = "and with what is computed of it infinite"
    if beyond.difference is None:
        tried = "alone, it did not run otherwise"
    return f"{first} ({beyond.value:.3g}): tried as its largest number {tried}"


def tensors_text(sizes: Sequence[TensorSize], form: str) -> str:
    """How many tensors are beyond a format, and which leaves it first; "" for no tensors."""
    if not sizes:
        return ""
    beyond = sum(size.largest > size.limit for size in sizes)
    told = (
        f"{beyond} of {len(sizes)} tensors that depend on the inputs are beyond {form}, whose "
        f"largest number is {sizes[0].limit:g}, in FP32."
    )
    first = next((size for size in sizes if size.left), None)
    if first is None:
        return f"{told} With everything rounded none leaves it."
    return (
        f"{told} With everything rounded the first to leave it is {first.tensor} ({first.op}), "
        f"with {first.largest:.3g}."
    )
