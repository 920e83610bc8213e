"""Sidecar: what a kernel or a compiler has to know of each norm of the written file, as JSON.

`sidecar.schema.json` beside this file is its JSON Schema.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from slanc_onnx.apply.merge import Merges
from slanc_onnx.norms import Norm
from slanc_onnx.report.as_json import write_report
from slanc_onnx.report.columns import finite
from slanc_onnx.report.outcome import Outcome
from slanc_onnx.report.rows import NormRow
from slanc_onnx.scale import to_json

SIDECAR_VERSION = "1"
SIDECAR_START = '{\n "sidecar": "'  # by which one is known again


def write_sidecar(outcome: Outcome, path: Path) -> None:
    """Write the sidecar, atomically."""
    write_report(sidecar(outcome), path)


def sidecar(outcome: Outcome) -> dict[str, Any]:
    """The sidecar of what the job did."""
    return {
        "sidecar": SIDECAR_VERSION,
        "model": str(outcome.source),
        "output": None if outcome.dry_run or outcome.nothing_to_do else str(outcome.output),
        "target": outcome.accelerator.as_dict(),
        "norms": [_norm(row, outcome.merges) for row in outcome.rows],
    }


def schema() -> dict[str, Any]:
    """The JSON Schema of a sidecar."""
    text = Path(__file__).with_name("sidecar.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _products(norm: Norm, merges: Merges | None) -> list[str]:
    """What products are divided to instead of the norm's row; none where the row is divided."""
    before = [one.output for one in norm.deferred]
    return before if merges is None else list(merges.outputs.get(norm.name, before))


def _norm(row: NormRow, merges: Merges | None) -> dict[str, Any]:
    form = to_json(row.decided, finite)
    norm, certificate = form["norm"], form["certificate"]
    scale = None if form["status"] == "skipped" else form["scale"]
    mantissa, exponent = math.frexp(scale or 0.0)
    proved = certificate is not None and certificate["certified"]
    return {
        "name": norm["name"],
        "path": [{"node": index, "graph": attribute} for index, attribute in norm["path"]],
        "tensor": norm["input"],
        "products": _products(row.decided.norm, merges),
        "kind": "rms" if merges is not None and norm["name"] in merges.mean_free else norm["kind"],
        "width": norm["width"],
        "status": form["status"],
        "applied": row.applied,
        "scale": scale,
        "exponent": exponent - 1 if mantissa == 0.5 else None,
        "epsilon": norm["epsilon"],
        "scaled_epsilon": row.decided.scaled_epsilon,
        "safe_radius": form["safe_radius"],
        "certified": proved,
        "conditions": certificate["conditions"] if proved else [],
    }
