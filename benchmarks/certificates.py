"""How far above the largest observed sum each norm's bound is, and which addend limits it.

    python -m benchmarks.certificates MODEL.onnx IDS.npy [--sequence-length N] [--max-sequences N]
                                      [--bos ID] [--target NAME] [--exact]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from slanc_onnx.bound import Certify, bounds_of
from slanc_onnx.describe import describe
from slanc_onnx.expression import Expr, Sum
from slanc_onnx.graph import Scope, read_graph
from slanc_onnx.inputs import input_specs, make_feeds
from slanc_onnx.load import load_model
from slanc_onnx.norm import Norm
from slanc_onnx.norms import find_norms_in
from slanc_onnx.perplexity import read_tokens
from slanc_onnx.scale import compute_scales_in
from slanc_onnx.targets import DEFAULT, target
from slanc_onnx.trace import trace
from slanc_onnx.watch import watch


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row per norm, then how many are certified."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--sequence-length", type=int, default=1024)
    parser.add_argument("--max-sequences", type=int, default=4)
    parser.add_argument("--bos", type=int)
    parser.add_argument("--target", default=DEFAULT)
    parser.add_argument("--exact", action="store_true")
    options = parser.parse_args(arguments)
    folder = options.model.parent
    model = load_model(options.model)
    scopes = read_graph(model, folder)
    norms = find_norms_in(scopes)
    tokens = read_tokens(
        options.tokens, options.sequence_length, options.max_sequences, options.bos
    )
    specs, rng = input_specs(scopes[0]), np.random.default_rng(0)
    feeds = [make_feeds(specs, rng, sequence=ids.shape[1], ids=ids) for ids in tokens.sequences]
    largest = dict.fromkeys((norm.name for norm in norms), 0.0)
    for run in watch(model, norms, feeds, folder):
        for name, sums in run.sums.items():
            largest[name] = max(largest[name], float(sums.max()))
    device = target(options.target)
    certify: Certify = "exact" if options.exact else "auto"
    decided = compute_scales_in(
        model, scopes, norms, folder=folder, accelerator=device, certify=certify
    )
    limits = _limits(scopes, norms, options.exact)
    print("norm | bound^2 | largest seen | ratio | certified | bits to overflow | "
          "typical row's bits above underflow | largest addend (its bound^2)")  # fmt: skip
    for scaled in decided:
        name, certificate = scaled.norm.name, scaled.certificate
        if certificate is None or certificate.bound.length is None:
            print(f"{name} | no bound: {certificate.reason if certificate else ''}")
            continue
        square, seen = certificate.bound.length**2, largest[name]
        over, under = certificate.overflow_bits, certificate.underflow_bits
        print(
            f"{name} | {square:.3g} | {seen:.3g} | {square / seen:.3g} | {certificate.certified} | "
            f"{_bits(over)} | {_bits(under)} | {limits.get(name, '')}"
        )
    proved = sum(bool(s.certificate and s.certificate.certified) for s in decided)
    print(f"certified {proved} of {len(decided)} norms on {device}")
    return 0


def _bits(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _limits(scopes: Sequence[Scope], norms: Sequence[Norm], exact: bool) -> dict[str, str]:
    """By norm, the addend of its input with the largest bound, and that bound's square."""
    traced = trace(scopes, norms, input_specs(scopes[0]))
    residuals: dict[int, str] = {}
    parts: dict[str, tuple[str, Expr]] = {}
    for norm in norms:
        expr = traced.inputs[norm.name]
        for i, addend in enumerate(_addends(expr, residuals)):
            parts[f"{norm.name}|{i}"] = norm.name, addend
        residuals[expr.serial] = norm.name
    inner = replace(traced, inputs={name: addend for name, (_, addend) in parts.items()})
    asked = [replace(norms[0], name=name) for name in parts]
    bounds = bounds_of(inner, asked, exact=exact)
    found: dict[str, tuple[float, str]] = {}
    for name, (norm_name, addend) in parts.items():
        length = bounds[name].length or 0.0
        if length > found.get(norm_name, (0.0, ""))[0]:
            text = describe(addend, {s: n for s, n in residuals.items() if n != norm_name})
            found[norm_name] = length, f"{text} ({length**2:.3g})"
    return {name: text for name, (_, text) in found.items()}


def _addends(expr: Expr, residuals: dict[int, str]) -> list[Expr]:
    if isinstance(expr, Sum) and expr.serial not in residuals:
        return [e for part in expr.parts for e in _addends(part, residuals)]
    return [expr]


if __name__ == "__main__":
    sys.exit(main())
