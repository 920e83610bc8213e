"""Refusals: what the job ends with as bad input, once norms are found and scales decided."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from slanc_onnx.errors import SlancError
from slanc_onnx.norms import ReadModel
from slanc_onnx.options import Options
from slanc_onnx.report import reasons_text
from slanc_onnx.run import broken_rule
from slanc_onnx.scale import ScaledNorm


def refuse_broken(read: ReadModel) -> None:
    """Refuse to run a model that breaks the rules of an op that its norms depend on.

    Raises:
        SlancError: it does.
    """
    broken = broken_rule(read.norms, read.scopes)
    if broken is not None:
        told = reasons_text(broken[1:])
        raise SlancError(
            f"{broken[0]}: {told}. The file is not right as it is: export it again, or use "
            "--no-validate, which leaves that out and scales the other norms."
        )


def check_set(decided: Sequence[ScaledNorm], options: Options) -> None:
    """Whether norms have the scales that were set by hand.

    Raises:
        SlancError: there is no such norm, or it cannot have that scale.
    """
    by_name = {d.norm.name: d for d in decided}
    for name, scale in options.set_scale.items():
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, 1, 0.0)
            like = f" The most similar name is {near[0]!r}." if near else ""
            raise SlancError(f"--set-scale: no norm is named {name!r}.{like}")
        found = by_name[name]
        if not found.set_by_hand or found.scale != scale:
            why = reasons_text(found.reasons)
            if found.set_by_hand and found.scale is not None:
                why = f"{found.scale:g} is the nearest that the type of its input holds"
            raise SlancError(f"--set-scale: {name!r} cannot be scaled by {scale:g}: {why}.")
