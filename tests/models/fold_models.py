"""Models to fold, and norms with windows that the test gives instead of an estimate."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.apply.fold.folding import Fold, apply_fold, fold
from slanc_onnx.estimate.estimate import Estimate
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms import read_model
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.options import Options
from slanc_onnx.scale import ScaledNorm
from tests.models.small_graphs import D, normal
from tests.oracles.unoptimised import Values, different, run

Windows = Mapping[str, tuple[int, int]]
RMS = "SimplifiedLayerNormalization<axis = -1>"
LN = "LayerNormalization<axis = -1>"
IDS_FED = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]], np.int64)
ACCELERATOR = Accelerator()


def decided(model: onnx.ModelProto, windows: Windows) -> list[ScaledNorm]:
    """The norms; each may have the exponents of its window, and prefers the upper end."""
    found = []
    for norm in find_norms_in(read_graph(model)):
        if norm.name not in windows or norm.scaled_by or norm.skip_reason:
            status = "unchanged" if norm.scaled_by else "skipped"
            found.append(ScaledNorm(norm, norm.scaled_by, None, "", [], status, ""))  # type: ignore[arg-type]
            continue
        low, high = windows[norm.name]
        upper = ACCELERATOR.largest * 4.0**low
        typical = D * ACCELERATOR.smallest_normal * 4.0 ** (high + 3)
        estimate = Estimate(typical, upper, typical, "probe", D)
        found.append(ScaledNorm(norm, 2.0**high, estimate, (), [], "scaled", ()))
    return found


def folded(
    model: onnx.ModelProto, windows: Windows, weight_loss: float = 0.0
) -> tuple[onnx.ModelProto, Fold]:
    """A folded copy, and what was done."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    found, _ = fold(read_model(copy), decided(copy, windows), Options(weight_loss=weight_loss))
    apply_fold(copy, found, None)
    return copy, found


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def same_bits(before: onnx.ModelProto, after: onnx.ModelProto, **feeds: NDArray[Any]) -> bool:
    """Whether ONNX Runtime gives the same outputs, which are not all the same number."""
    given: Values = feeds or {"ids": IDS_FED}
    expected = run(before, **given)
    assert all(np.isfinite(v).all() and np.ptp(v) > 0 for v in expected.values())
    return different(expected, run(after, **given)) == []


def weights(**more: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Parameters of the blocks in the tests, D wide."""
    made = {"table": normal(0, 11, D), "ones": np.ones(D, np.float32)}
    for index in range(1, 8):
        made[f"w{index}"] = normal(index, D, D)
        made[f"b{index}"] = normal(10 + index, D)
        made[f"g{index}"] = normal(20 + index, D)
    return {**made, **more}
