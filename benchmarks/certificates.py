"""How far above the largest observed sum the bounds of norms are.

    python -m benchmarks.certificates MODEL.onnx [IDS.npy] [--sequence-length N] [--bos ID]
        [--max-sequences N] [--target NAME] [--exact] [--group NAME=REGEX ...] [--details]

A row per group of norms: those that a regex finds in the norm's name or in that of its gamma, and
that no group before it has. U is the bound on the L2 norm of a norm's input, "seen" the largest sum
of squares over the sequences of token ids; over random inputs where no IDS.npy is given.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.markdown import number, table
from benchmarks.missing import positive, told
from slanc_onnx import ScaledNorm
from slanc_onnx.graph.inputs import input_specs
from slanc_onnx.graph.load import load_model
from slanc_onnx.graph.scope import Scope
from slanc_onnx.norms.model import read_model
from slanc_onnx.norms.norm import Norm
from slanc_onnx.options import Certify, Options
from slanc_onnx.report.wording import reason_text
from slanc_onnx.run.inputs import make_feeds
from slanc_onnx.run.observe import observe_rows
from slanc_onnx.run.session import Feeds
from slanc_onnx.run.sizes import Sizes
from slanc_onnx.scale.decide import compute_scales_in
from slanc_onnx.targets import DEFAULT, target
from slanc_onnx.tokens import read_tokens
from slanc_onnx.weights.streamed import workers

TOKENS, RANDOM = 1024, 512  # ids per sequence where --sequence-length is left out
Groups = Mapping[str, re.Pattern[str]]


@dataclass(frozen=True)
class Bounded:
    """A norm beside what was seen of it: its largest sum of squares, 0 where it was not reached."""

    scaled: ScaledNorm
    seen: float

    @property
    def certified(self) -> bool:
        certificate = self.scaled.certificate
        return certificate is not None and bool(certificate.certified)

    @property
    def square(self) -> float:
        """U^2; infinite where there is no bound."""
        certificate = self.scaled.certificate
        length = None if certificate is None else certificate.bound.length
        return math.inf if length is None else length**2

    @property
    def ratio(self) -> float | None:
        """U^2 to what was seen; None where nothing was."""
        return self.square / self.seen if self.seen > 0 else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row per group of norms, and with --details one per norm too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", nargs="?", type=Path)
    parser.add_argument("--sequence-length", type=positive)
    parser.add_argument("--max-sequences", type=positive, default=4)
    parser.add_argument("--bos", type=int)
    parser.add_argument("--target", default=DEFAULT)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--group", action="append", default=[], type=_group, metavar="NAME=REGEX")
    parser.add_argument("--details", action="store_true", help="a row per norm too")
    options = parser.parse_args(arguments)
    folder = options.model.parent
    read = read_model(load_model(options.model), folder)
    by_group = grouped(read.norms, dict(options.group))
    feeds = _feeds(read.scopes[0], options)
    largest = dict.fromkeys((norm.name for norm in read.norms), 0.0)
    for run in observe_rows(read.model, read.norms, feeds, folder):
        print(".", end="", file=sys.stderr, flush=True)
        for name, sums in run.sums.items():
            largest[name] = max(largest[name], float(sums.max()))
    print(file=sys.stderr)
    device = target(options.target)
    certify: Certify = "exact" if options.exact else "auto"
    with workers() as executor:  # as the command does: the linear algebra on one thread is faster
        how = Options(accelerator=device, certify=certify, executor=executor)
        decided = compute_scales_in(read, how)
        known = {s.norm.name: Bounded(s, largest[s.norm.name]) for s in decided}
        groups = {name: [known[norm.name] for norm in of] for name, of in by_group.items()}
    inputs = "tokens" if options.tokens else "random inputs"
    length = _length(options)
    print(f"{options.model.stem}, {device}; seen over {len(feeds)} x {length} {inputs}\n")
    print(of_groups(groups))
    if options.details:
        print(f"\n{_of_norms(list(known.values()))}")
    return 0


def _length(options: argparse.Namespace) -> int:
    return options.sequence_length or (TOKENS if options.tokens else RANDOM)


def _feeds(main_graph: Scope, options: argparse.Namespace) -> list[Feeds]:
    """Inputs by name, one dict per sequence: of the token ids, or random."""
    specs, rng = input_specs(main_graph), np.random.default_rng(0)
    length, most = _length(options), options.max_sequences
    if options.tokens is None:
        return [make_feeds(specs, rng, Sizes(sequence=length), draw=draw) for draw in range(most)]
    tokens = read_tokens(options.tokens, length, most, options.bos)
    return [make_feeds(specs, rng, Sizes(sequence=length), ids=ids) for ids in tokens.sequences]


def _group(text: str) -> tuple[str, re.Pattern[str]]:
    """A group as --group takes it."""
    name, equals, pattern = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=REGEX")
    try:
        return name, re.compile(pattern)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{pattern!r} is no regular expression: {error}") from None


def grouped(norms: Sequence[Norm], groups: Groups) -> dict[str, list[Norm]]:
    """The norms of each group, each norm in the first that finds it; then the others, if any.

    Raises:
        SystemExit: a group has no norm, so that its regex cannot be what was meant.
    """
    if not groups:
        return {"all": list(norms)}
    found: dict[str, list[Norm]] = {name: [] for name in groups}
    others: list[Norm] = []
    for norm in norms:
        fits = (g for g, p in groups.items() if p.search(norm.name) or p.search(norm.gamma or ""))
        found.get(next(fits, ""), others).append(norm)
    for name, members in found.items():
        if not members:
            raise SystemExit(f"--group {name}: no norm is left that {groups[name].pattern!r} finds")
    return {**found, "the others": others} if others else found


def of_groups(groups: Mapping[str, Sequence[Bounded]]) -> str:
    """The table of the groups."""
    header = (
        "",
        "norms",
        "certified",
        "U² / seen: least",
        "median",
        "most",
        "bits of typical rows above underflow, least",
    )
    return table(header, (_of_group(name, of) for name, of in groups.items()))


def _of_group(name: str, members: Sequence[Bounded]) -> tuple[object, ...]:
    ratios = [m.ratio for m in members if m.ratio is not None]
    spread = [_size(f(ratios)) if ratios else "" for f in (min, statistics.median, max)]
    unseen = len(members) - len(ratios)
    norms = f"{len(members)} ({unseen} not seen)" if unseen else len(members)
    certified = sum(m.certified for m in members)
    proofs = [m.scaled.certificate for m in members]
    bits = [p.underflow_bits for p in proofs if p is not None and p.underflow_bits is not None]
    return name, norms, certified, *spread, _bits(min(bits, default=None))


def _size(value: float) -> str:
    return number(value) if math.isfinite(value) else "no bound"


def _of_norms(norms: Sequence[Bounded]) -> str:
    """The table of the norms, one by one."""
    header = (
        "",
        "U²",
        "largest seen",
        "U² / seen",
        "certified",
        "bits to overflow",
        "typical row's bits above underflow",
        "why not",
    )
    return table(header, (_of_norm(norm) for norm in norms))


def _of_norm(norm: Bounded) -> tuple[object, ...]:
    proof, ratio = norm.scaled.certificate, norm.ratio
    over, under = (None, None) if proof is None else (proof.overflow_bits, proof.underflow_bits)
    told = reason_text(proof.reason) if proof is not None and proof.reason is not None else ""
    return (
        norm.scaled.norm.name,
        _size(norm.square),
        number(norm.seen),
        "" if ratio is None else _size(ratio),
        "yes" if norm.certified else "no",
        _bits(over),
        _bits(under),
        told,
    )


def _bits(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(told(main))
