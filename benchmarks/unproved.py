"""Which norms of a folder of exports are not certified, by kind of reason.

    python -m benchmarks.unproved FOLDER [--norms]

Scales come from the weights alone and no model is run. The device, and the range of inputs of
floats, are those of `benchmarks.zoo`. A row per kind of reason and op; `--norms`
prints every norm that is not certified, too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.markdown import of, table
from benchmarks.missing import told
from benchmarks.zoo_rows import DEVICE, exports_in, ranges_of, stored_inputs
from slanc_onnx import Options, ScaledNorm, SlancError, compute_scales
from slanc_onnx.graph.load import load_model
from slanc_onnx.reasons import Reason
from slanc_onnx.report.wording import reason_text


@dataclass(frozen=True)
class Unproved:
    """A norm without a certificate: in which export, its name, and why."""

    export: str
    norm: str
    reason: Reason


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the count and the table of reasons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--norms", action="store_true", help="a row per norm too")
    args = parser.parse_args(arguments)
    norms, lost = 0, []
    for folder in exports_in(args.folder):
        decided = scales_of(folder)
        norms += len(decided)
        lost += [u for u in (unproved(folder.name, each) for each in decided) if u is not None]
    print(f"certified with `--estimate weights`: {of(norms - len(lost), norms)} norms\n")
    print(by_reason(lost))
    if args.norms:
        rows = ((each.export, each.norm, reason_text(each.reason)) for each in lost)
        print(f"\n{table(('export', 'norm', 'why'), rows)}")
    return 0


def scales_of(folder: Path) -> list[ScaledNorm]:
    """The decisions for an export; none where the tool refuses it."""
    feeds, _ = stored_inputs(folder)
    said = ranges_of(feeds)
    options = Options(estimate="weights", accelerator=DEVICE, feeds=said)
    try:
        return compute_scales(load_model(folder / "model.onnx"), options, folder=folder)
    except SlancError as error:
        print(f"{folder.name}: {error}", file=sys.stderr)
        return []


def unproved(export: str, scaled: ScaledNorm) -> Unproved | None:
    """Why a norm is not certified; None where it is."""
    certificate = scaled.certificate
    if certificate is None or certificate.certified or certificate.reason is None:
        return None
    return Unproved(export, scaled.norm.name, certificate.reason)


def by_reason(lost: Iterable[Unproved]) -> str:
    """The table, the most frequent reason first."""
    kinds: dict[object, list[Unproved]] = {}
    for each in lost:
        kinds.setdefault((each.reason.kind, each.reason.op), []).append(each)
    rows = []
    for members in sorted(kinds.values(), key=lambda own: -len(own)):
        first = members[0]
        exports = len({each.export for each in members})
        rows.append((len(members), exports, reason_text(first.reason), first.export))
    return table(("norms", "exports", "why, of the first", "the first"), rows)


if __name__ == "__main__":
    sys.exit(told(main))
