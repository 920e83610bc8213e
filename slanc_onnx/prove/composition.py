"""Composition: a certificate holds only with those of the norms that its bound leans on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from slanc_onnx.prove.certificate import Certificate
from slanc_onnx.prove.condition import Condition
from slanc_onnx.reasons import Reason, Unproved

_SUMMED = 2.0**-20  # what adding them up in FP32 may add
Radius = Callable[[str], float | None]


def composed(
    found: Mapping[str, Certificate], inputs: Mapping[str, Sequence[str]], radius: Radius
) -> dict[str, Certificate]:
    """The certificates with what those of the norms before ask.

    A norm without a certificate has a finite output while its rows stay within its safe radius:
    that is a condition of every norm after it. Where it has no safe radius, they have none either.
    Where rows are sums of those of several tensors, each of these may have its share of it.

    Args:
        found: Certificates by norm name, in topological order.
        inputs: The tensors whose sum each norm normalises, by its name; none where its rows are no
            sums of rows of these.
        radius: Gives the safe radius of a norm.
    """
    made: dict[str, Certificate] = {}
    held: dict[str, float] = {}
    asked: dict[str, frozenset[Condition] | None] = {}
    for name, certificate in found.items():
        conditions = frozenset(certificate.bound.conditions)
        missing = None
        for behind in certificate.bound.leans:
            inherited = asked.get(behind)
            if inherited is None:
                missing = behind
            else:
                conditions |= inherited
        if certificate.certified and missing is not None:
            why = Reason(Unproved.LEANS_ON, (missing,))
            certificate = replace(certificate, certified=False, reason=why)
        elif certificate.certified:
            certificate = replace(certificate, conditions=tuple(sorted(conditions)))
        least = [held[behind] for behind in certificate.bound.leans if behind in held]
        if certificate.epsilon_at_least is not None:
            least.append(certificate.epsilon_at_least)
        if least:
            held[name] = max(least)
            certificate = replace(certificate, epsilon_at_least=max(least))
        made[name] = certificate
        if certificate.certified:
            asked[name] = conditions
        else:
            length = radius(name)
            parts = inputs[name] if length is not None else ()
            share = (length or 0.0) / max(1, len(parts))
            share = share / (1 + _SUMMED) if len(parts) > 1 else share
            own = frozenset(Condition(part, "length", 0.0, share) for part in parts)
            asked[name] = own or None
    return made
