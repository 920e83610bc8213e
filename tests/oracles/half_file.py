"""What a file whose floats were narrowed has to be, seen with ONNX's own eyes."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto

from tests.oracles.unoptimised import Values


def types(model: onnx.ModelProto) -> dict[str, int]:
    """The element types that ONNX's shape inference gives the tensors of the main graph."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    infos: list[ValueInfoProto] = [*inferred.input, *inferred.value_info, *inferred.output]
    found = {info.name: info.type.tensor_type.elem_type for info in infos}
    return found | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def round_trips(model: onnx.ModelProto, narrow: int = TensorProto.FLOAT16) -> list[str]:
    """Casts of the main graph that lose what FP32 has, or do nothing: each is a fault."""
    kinds, makers = types(model), {o: n for n in model.graph.node for o in n.output}

    def to(node: NodeProto) -> int:
        return int(next(a.i for a in node.attribute if a.name == "to"))

    def faults() -> Iterator[str]:
        for node in model.graph.node:
            if node.op_type != "Cast" or to(node) not in (TensorProto.FLOAT, narrow):
                continue
            before = makers.get(node.input[0])
            read = kinds.get(node.input[0])
            if read == to(node):
                yield f"{node.name} does nothing"
            if before is None or before.op_type != "Cast" or {read, to(node)} != {1, narrow}:
                continue
            if kinds.get(before.input[0]) == to(node):
                yield f"{node.name} goes back"

    return list(faults())


def apart(expected: Values, actual: Values) -> dict[str, float]:
    """The error of each output that is off: relative to its largest element."""
    assert expected.keys() == actual.keys()
    found = {}
    for name, value in expected.items():
        assert (value.dtype, value.shape) == (actual[name].dtype, actual[name].shape)
        error = _error(value, actual[name])
        if error > 0:
            found[name] = error
    return found


def _error(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    if expected.dtype.kind not in "fV" or not expected.size:
        return float(np.any(expected != actual))
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    assert (np.isfinite(a) == np.isfinite(b)).all()
    known = np.isfinite(a)
    if not known.any():
        return 0.0
    return float(np.abs(a - b)[known].max() / (np.abs(a[known]).max() or 1))


def narrowed_feeds(feeds: Mapping[str, NDArray[Any]]) -> Values:
    """Inputs with FP16 instead of FP32."""
    return {n: v.astype(np.float16) if v.dtype == np.float32 else v for n, v in feeds.items()}
