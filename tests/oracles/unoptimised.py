"""Run a model on ONNX Runtime as it is written: graph optimisation off, nothing fused."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

Values = dict[str, NDArray[Any]]


def run(model: onnx.ModelProto, **feeds: NDArray[np.generic]) -> Values:
    """The outputs by name."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(np.asarray, session.run(names, feeds)), strict=True))


def different(expected: Values, actual: Values) -> list[str]:
    """The names of the outputs that are not bit for bit the same; [] if all are."""
    assert expected.keys() == actual.keys()
    return [
        name
        for name, value in expected.items()
        if value.dtype != actual[name].dtype
        or value.shape != actual[name].shape
        or value.tobytes() != actual[name].tobytes()
    ]
