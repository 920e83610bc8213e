"""Small models whose divisions are deferred, and what became of each."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from slanc_onnx import Options, compute_scales, find_norms
from slanc_onnx.apply.merge import Merges, Part, merge_in_memory
from slanc_onnx.options import Certify, Merge
from slanc_onnx.reasons import Reason
from slanc_onnx.scale import ScaledNorm
from tests.models.merge_models import EVERY, IDS

EPSILON = float(np.float32(1e-5))
CLOSE = 2e-6  # of FP32 outputs: as many roundings, in another order


def deferred(
    before: onnx.ModelProto, *parts: Merge, certify: bool = False, **options: Any
) -> tuple[onnx.ModelProto, Merges]:
    """A model with its scales at 1 and parts of its norms merged; and what was merged."""
    given = Options(apply="fold", merge=parts or ("all",), **options)
    rule: Certify = "auto" if certify else "off"
    names = dict.fromkeys((norm.name for norm in find_norms(before)), 1.0)
    decided = compute_scales(before, Options(estimate="weights", certify=rule, set_scale=names))
    return with_rows(before, given, decided)


def with_rows(
    before: onnx.ModelProto, options: Options, decided: list[ScaledNorm]
) -> tuple[onnx.ModelProto, Merges]:
    """A merged model of which the rows are known, and what was merged."""
    after = onnx.ModelProto()
    after.CopyFrom(before)
    merges = merge_in_memory(after, None, options, decided)
    if not any(node.op_type.startswith("Simpl") for node in after.graph.node):
        onnx.checker.check_model(after)
    return after, merges


def division(merges: Merges, name: str = "n") -> Part:
    """What became of the division of a norm."""
    (found,) = (norm.division for norm in merges.norms if norm.name == name)
    assert found is not None
    return found


def reason(merges: Merges, name: str = "n") -> Reason:
    """Why the division of a norm is left."""
    found = division(merges, name)
    assert found.state == "left" and found.reason is not None
    return found.reason


def normalised(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Rows over their roots, in FP64."""
    wide = rows.astype(np.float64)
    return np.asarray(wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + EPSILON))


def by_numpy(*weights: NDArray[Any]) -> list[NDArray[Any]]:
    """The embedding rows over their roots times weights, in FP64."""
    return [normalised(EVERY["table"][IDS]) @ weight.astype(np.float64) for weight in weights]
