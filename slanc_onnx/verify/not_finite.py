"""Not finite: the first result that is nan or infinite, and what it reads is not.

Nothing left the format there: a number that rounding made 0, as an epsilon, is divided by, or its
logarithm taken, or one that came out below 0 is under a root.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from slanc_onnx.norms import ReadModel
from slanc_onnx.options import Options
from slanc_onnx.run import PREFIX, CannotRun, Feeds, read_in_float32, session_of
from slanc_onnx.verify.emulate import Emulated, Everything, Watched, emulate


def first_not_finite(read: ReadModel, options: Options, feeds: Sequence[Feeds]) -> Watched | None:
    """The first result of an op, no norm's, with more such elements rounded than in FP32.

    Args:
        read: The rewritten model.
        options: The accelerator; everything is rounded.
        feeds: Inputs by name, one dict per run.

    Returns:
        None where there is none, or ONNX Runtime does not run a model that shows so much.
    """
    model, norms = read_in_float32(read, options.accelerator)
    how = Everything(watch=True, kept=read.kept)
    rounded = emulate(model, norms, options.accelerator, False, how)
    results = results_of_ops(rounded)
    before, after = [show_counts(one, results, infinite=True) for one in (model, rounded.model)]
    try:
        sessions = [session_of(one, read.folder) for one in (model, rounded.model)]
        for feed in feeds:
            plain, found = (session.run(feed) for session in sessions)
            for place, one in enumerate(results):
                if found[after[place]] > plain[before[place]]:
                    return one
    except CannotRun:
        return None
    return None


def results_of_ops(rounded: Emulated) -> list[Watched]:
    """What ops of the main graph compute, in the order of the model; no norm's."""
    made = {name for node in rounded.model.graph.node for name in node.output}
    found = [one for one in rounded.watched if one.what == "made" and not one.norm]
    return [one for one in found if one.tensor in made]


def show_counts(model: onnx.ModelProto, results: Sequence[Watched], infinite: bool) -> list[str]:
    """Let a model show how many elements of each result are nan, or infinite as well.

    Args:
        model: In FP32; it is changed.
        results: The tensors.
        infinite: Whether infinite ones count.

    Returns:
        The outputs with the counts.
    """
    counts = [f"{PREFIX}.nan.{place}" for place in range(len(results))]
    for one, count in zip(results, counts, strict=True):
        x = one.tensor
        if infinite:  # less itself, what is infinite is nan
            model.graph.node.append(helper.make_node("Sub", [x, x], [f"{count}.less"]))
            x = f"{count}.less"
        for op, given, made, more in (
            ("IsNaN", x, f"{count}.is", {}),
            ("Cast", f"{count}.is", f"{count}.one", {"to": TensorProto.FLOAT}),
            ("ReduceSum", f"{count}.one", count, {"keepdims": 0}),
        ):
            model.graph.node.append(helper.make_node(op, [given], [made], **more))
        model.graph.output.add(name=count).type.tensor_type.elem_type = TensorProto.FLOAT
    return counts
