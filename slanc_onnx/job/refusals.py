"""Refusals: what the job ends with as bad input, once norms are found and scales decided."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from slanc_onnx.errors import SlancError
from slanc_onnx.norms import ReadModel
from slanc_onnx.options import Options
from slanc_onnx.report import reasons_text
from slanc_onnx.run import Feeds, broken_rule, given_feeds
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


def given_data(read: ReadModel, options: Options) -> list[Feeds]:
    """The data from which scales are taken, one dict of inputs per run; none for the other rules.

    Raises:
        SlancError: there is none.
    """
    if options.scale != "calibrated":
        return []
    data = given_feeds(read.specs, options)
    if not data:
        raise SlancError(
            'scale "calibrated" takes its scales from data. Give it with inputs or tokens.'
        )
    return data


def check_set_names(names: Sequence[str], options: Options) -> None:
    """Whether there are the norms whose scales are set by hand.

    Raises:
        SlancError: there is none of that name.
    """
    for name in options.set_scale:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.0)
            like = f" The most similar name is {near[0]!r}." if near else ""
            raise SlancError(f"--set-scale: no norm is named {name!r}.{like}")


def check_set(decided: Sequence[ScaledNorm], options: Options) -> None:
    """Whether norms have the scales that were set by hand.

    Raises:
        SlancError: there is no such norm, or it cannot have that scale.
    """
    by_name = {d.norm.name: d for d in decided}
    check_set_names(list(by_name), options)
    for name, scale in options.set_scale.items():
        found = by_name[name]
        has_it = found.set_by_hand or found.status == "unchanged"  # of an earlier run
        if not has_it or found.scale != scale:
            why = reasons_text(found.reasons)
            if found.set_by_hand and found.scale is not None:
                why = f"{found.scale:g} is the nearest that the type of its input holds"
            raise SlancError(f"--set-scale: {name!r} cannot be scaled by {scale:g}: {why}.")
