"""The table of targets, as `--list-targets` prints it."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from slanc_onnx.targets import TARGETS


def targets_table() -> Group:
    """A row per target, none wider than 80 columns, and below them the steps left in FP32."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("target", "format", "inputs", "sums", "subnormals", "variance"):
        table.add_column(title, no_wrap=True)
    for name, profile in TARGETS.items():
        table.add_row(
            name,
            str(profile.format),
            str(profile.input_format or profile.format),
            profile.sums,
            "flushed" if profile.flush_subnormals else "kept",
            profile.variance,
        )
    lines = [
        Text(f"{name} leaves in FP32: {', '.join(profile.steps_in_fp32)}")
        for name, profile in TARGETS.items()
        if profile.steps_in_fp32
    ]
    return Group(table, *lines)
