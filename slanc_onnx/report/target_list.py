"""The table of targets, as `--list-targets` prints it."""

from __future__ import annotations

from rich.table import Table

from slanc_onnx.targets import TARGETS


def targets_table() -> Table:
    """A row per target."""
    table = Table(
        "target",
        "steps and sums",
        "inputs",
        "accumulate",
        "subnormals",
        "variance",
        "steps left in FP32",
    )
    for name, profile in TARGETS.items():
        table.add_row(
            name,
            str(profile.format),
            str(profile.input_format or profile.format),
            profile.sums,
            "flushed" if profile.flush_subnormals else "kept",
            profile.variance,
            " ".join(profile.steps_in_fp32),
        )
    return table
