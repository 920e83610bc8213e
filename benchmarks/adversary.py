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
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.markdown import count, span, table
from slanc_onnx import Options, ScaledNorm, compute_scales
from slanc_onnx.accelerator import Accelerator
from slanc_onnx.emulate import emulate
from slanc_onnx.graph import read_graph
from slanc_onnx.load import load_model
from slanc_onnx.norms import find_norms_in
from slanc_onnx.rewrite import apply_scales_in
from slanc_onnx.runtime import Session
from slanc_onnx.targets import TARGETS

Double = NDArray[np.float64]


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
    parser.add_argument("--rows", type=int, default=100_000, help="per model and target")
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
    norm, scale = scaled.norm, scaled.scale or 1.0
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


def random_rows(rng: np.random.Generator, width: int, length: float, count: int) -> Double:
    """Rows at the bound: of heavy tails, of few elements, and flat with a little noise."""
    kind = rng.integers(0, 4, (count, 1))
    rows = rng.standard_normal((count, width))
    rows = np.where(kind == 1, rows**5, rows)
    kept = rng.random((count, width)) < rng.uniform(0.0, 0.3, (count, 1))
    kept[np.arange(count), rng.integers(0, width, count)] = True
    rows = np.where(kind == 2, rows * kept, rows)
    rows = np.where(kind == 3, np.sign(rows) * rng.uniform(0.8, 1.2, (count, width)), rows)
    rows *= length / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows * (1 - 1e-7))


def adversarial_rows(
    rng: np.random.Generator, width: int, length: float, centred: float | None
) -> Double:
    """Rows within a bound, most of them at it.

    Args:
        rng: Of the random ones.
        width: Elements per row.
        length: Their L2 norm at most.
        centred: And after the mean is subtracted; None for an RMSNorm.
    """
    spike, signs = np.eye(width)[0], np.resize([1.0, -1.0], width)
    flat = np.ones(width)
    ramp = np.arange(width) - (width - 1) / 2
    shapes = [
        spike,
        -spike,
        spike[::-1],
        flat,
        signs,
        ramp,
        2.0 ** -np.arange(width),
        np.where(np.arange(width) < width // 2, 1.0, -1.0),
        spike + 1e-3 * signs,
        *rng.standard_normal((4, width)),
        *rng.standard_t(2, (4, width)),
        *rng.uniform(0.9, 1.1, (4, width)),
    ]
    rows = [row / max(float(np.linalg.norm(row)), 1e-30) * length for row in shapes]
    if centred is not None:
        away = [row - row.mean() for row in shapes]
        away = [row / max(float(np.linalg.norm(row)), 1e-30) * centred for row in away]
        mean = math.sqrt(max(length**2 - centred**2, 0.0) / width)
        rows = [row + sign * mean for row in away for sign in (1, -1)]
        rows += [flat * mean * part for part in (1.0, 0.5, 0.1, 1e-3)]
    sizes = [1.0, 0.7, 0.5, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 0.0]
    stacked = np.array([size * row for row in rows for size in sizes])
    shrink = length / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-300)
    return np.asarray(stacked * np.minimum(shrink, 1.0) * (1 - 1e-7))


if __name__ == "__main__":
    sys.exit(main())
