"""Adversarial rows at the bound of every certified norm, in every target: none may be lost.

    python -m benchmarks.adversary MODEL.onnx ... [--rows 100000] [--target NAME ...]

Of each model, scaled for each target, every certified norm is computed by the emulator on rows of
the largest length that its bound allows: spikes, flat and alternating rows, decays, heavy tails,
rows whose squares all round up. A result that is not finite is a counterexample.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.markdown import count, span, table
from benchmarks.missing import positive, told
from slanc_onnx import Options, ScaledNorm, compute_scales
from slanc_onnx.accelerator import Accelerator
from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.load import load_model
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.run.session import Session
from slanc_onnx.targets import TARGETS
from slanc_onnx.verify.emulate.norms import emulate
from tests.oracles.adversarial import Double, adversarial_rows, random_rows


@dataclass(frozen=True)
class Attempt:
    """What a model was tried with on one target, and what was found."""

    certified: int
    norms: int
    rows: int
    counterexamples: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row per model; exit status 1 if there is a counterexample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--rows", type=positive, default=100_000, help="per model and target")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    options = parser.parse_args(arguments)
    tried: dict[str, list[Attempt]] = {}
    for path in options.models:
        attempts = tried.setdefault(path.stem, [])
        for name in options.target:
            found = attempt(path, TARGETS[name], options.rows)
            attempts.append(found)
            print(
                f"{path.stem:20} {name:24} certified {found.certified:3d} of {found.norms:3d}, "
                f"{found.rows:7d} rows, counterexamples {found.counterexamples}",
                file=sys.stderr,
                flush=True,
            )
    print(summary(tried))
    return int(any(a.counterexamples for attempts in tried.values() for a in attempts))


def attempt(path: Path, device: Accelerator, at_least: int) -> Attempt:
    """Try at least so many rows on the certified norms of a model, scaled for a target."""
    scaled = compute_scales(load_model(path), Options(accelerator=device), folder=path.parent)
    certified = [s for s in scaled if s.certificate and s.certificate.certified]
    found = tried = 0
    for norm in certified:
        for rows in batches(norm, math.ceil(at_least / len(certified))):
            tried += len(rows)
            found += counterexamples(norm, device, rows)
    return Attempt(len(certified), len(scaled), tried, found)


def summary(tried: Mapping[str, Sequence[Attempt]]) -> str:
    """The table: of each model, its attempts on all targets."""
    header = (
        "",
        "targets",
        "norms",
        "certified, least to most over the targets",
        "rows tried",
        "counterexamples",
    )
    return table(
        header,
        (
            (
                model,
                len(all_of),
                all_of[0].norms,
                span([a.certified for a in all_of]),
                count(sum(a.rows for a in all_of)),
                sum(a.counterexamples for a in all_of),
            )
            for model, all_of in tried.items()
        ),
    )


def batches(scaled: ScaledNorm, count: int) -> Iterator[Double]:
    """Rows within the norm's bound, some thousands at a time, `count` or more in all."""
    assert scaled.certificate is not None and scaled.certificate.bound.length is not None
    width, length = scaled.certificate.bound.width, scaled.certificate.bound.length
    rng = np.random.default_rng(0)
    shares = [1.0, 0.999, 0.5, 0.1, 1e-3]
    made = 0
    while made < count:
        centred = length * rng.choice(shares) if scaled.norm.centred else None
        rows = np.concatenate(
            [adversarial_rows(rng, width, length, centred), random_rows(rng, width, length, 2000)]
        )
        yield rows[: count - made]
        made += len(rows)


def counterexamples(scaled: ScaledNorm, device: Accelerator, rows: Double) -> int:
    """How many rows give a mean square or an output that is not finite, emulated."""
    assert scaled.certificate is not None
    norm, scale = scaled.norm, scaled.certificate.scale  # 1 where the file divides it already
    op = "LayerNormalization" if norm.centred else "SimplifiedLayerNormalization"
    width = rows.shape[1]
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        one (float[rows, {width}] x, float[{width}] g) => (float[rows, {width}] y)
        {{ y = {op}<axis = -1, epsilon = {norm.epsilon!r}>(x, g) }}
    """)
    del model.graph.input[1]
    model.graph.initializer.append(numpy_helper.from_array(np.ones(width, np.float32), "g"))
    (found,) = find_norms_in(read_graph(model))
    apply_scales_in(model, [found], {found.name: scale})
    again = [replace(n, scaled_by=None) for n in find_norms_in(read_graph(model))]
    emulated = emulate(model, again, device)
    outputs = Session(emulated.model, None).run({"x": rows.astype(np.float32)})
    fine = np.isfinite(outputs["y"]).all(axis=1)
    for output in emulated.mean_squares.values():
        fine &= np.isfinite(outputs[output]).reshape(-1)
    return int(np.count_nonzero(~fine))


if __name__ == "__main__":
    sys.exit(told(main))
