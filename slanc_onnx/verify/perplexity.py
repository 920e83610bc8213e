"""Perplexity of a causal language model from its logits."""

from __future__ import annotations

import math

import numpy as np

from slanc_onnx.graph import Array

_CACHED = 1 << 20  # float64 logits at a time: what a processor's cache holds, twice as fast


def negative_log_likelihood(logits: Array, ids: Array) -> float:
    """Mean over a sequence of -log p(next id), natural logarithm; nan where a logit is not finite.

    Args:
        logits: Shape [1, length, vocabulary].
        ids: Shape [1, length].
    """
    total, rows = 0.0, logits[0, :-1]
    count = max(1, _CACHED // rows.shape[-1])
    for start in range(0, len(rows), count):
        chunk = rows[start : start + count].astype(np.float64)
        with np.errstate(invalid="ignore"):
            shifted = chunk - chunk.max(axis=-1, keepdims=True)
        targets = ids[0, 1 + start : 1 + start + len(chunk)]
        chosen = shifted[np.arange(len(chunk)), targets]
        total += float(np.sum(np.log(np.exp(shifted).sum(axis=-1)) - chosen))
    return total / len(rows)


def perplexity(losses: list[float]) -> float:
    """exp of the mean loss of sequences of equal length."""
    mean = sum(losses) / len(losses)
    return math.exp(mean) if math.isfinite(mean) and mean < 700 else math.nan
