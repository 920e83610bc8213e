"""Compare two protobuf messages field by field, and fill a model with all that can be lost."""

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Every difference between two messages of one type, as `path: old -> new`; [] if none.

    Elements of a list of messages are paired by what names them, so that an insertion is one
    difference; a changed order of the paired ones is a difference too.
    """
    found: list[str] = []
    for field in before.DESCRIPTOR.fields:
        old, new = getattr(before, field.name), getattr(after, field.name)
        where = f"{path}.{field.name}" if path else field.name
        if hasattr(old, "extend"):  # a repeated field
            if field.message_type is not None:
                found += _of_lists(list(old), list(new), where)
            elif list(old) != list(new):
                found.append(f"{where}: {list(old)} -> {list(new)}")
        elif before.HasField(field.name) != after.HasField(field.name):
            found.append(f"{where}: {'added' if after.HasField(field.name) else 'removed'}")
        elif field.message_type is not None and before.HasField(field.name):
            found += differences(old, new, where)
        elif field.message_type is None and old != new:
            found.append(f"{where}: {old!r} -> {new!r}")
    serialized = [m.SerializeToString(deterministic=True) for m in (before, after)]
    if not found and serialized[0] != serialized[1]:
        found.append(f"{path}: fields that this version of onnx does not know")
    return found


def _of_lists(before: list[Any], after: list[Any], path: str) -> list[str]:
    old, new = _by_key(before), _by_key(after)
    found = [f"{path}[{key}]: removed" for key in old if key not in new]
    found += [f"{path}[{key}]: added" for key in new if key not in old]
    paired = [key for key in old if key in new]
    if paired != [key for key in new if key in old]:
        found.append(f"{path}: reordered")
    for key in paired:
        found += differences(old[key], new[key], f"{path}[{key}]")
    return found


def _by_key(messages: list[Any]) -> dict[str, Any]:
    """The messages by name, key, domain or first output; by index too where that is not unique."""
    keyed: dict[str, Any] = {}
    for index, message in enumerate(messages):
        if isinstance(message, NodeProto):
            key = next((name for name in message.output if name), "")
        else:
            names = ("name", "tensor_name", "key", "domain")
            key = next((getattr(message, n) for n in names if hasattr(message, n)), "")
        keyed[f"{key}#{index}" if key in keyed or not key else key] = message
    return keyed


def fill(model: ModelProto) -> None:
    """Put into a model what a careless rewrite drops: notes of all kinds, sparse and empty data."""
    graph = model.graph
    graph.doc_string = "the graph"
    graph.metadata_props.add(key="kind", value="tiny")
    graph.input[0].doc_string = "rows"
    graph.input[0].type.tensor_type.shape.dim[1].denotation = "DATA_FEATURE"
    graph.output[0].metadata_props.add(key="from", value="last")
    graph.value_info[0].metadata_props.add(key="k", value="v")
    graph.initializer.append(numpy_helper.from_array(np.zeros((3, 0), np.int8), "empty"))
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [7.0])
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [2])
    graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    annotation = graph.quantization_annotation.add(tensor_name="x")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="eps")
    for node in (*graph.node, *(node for f in model.functions for node in f.node)):
        node.doc_string = f"makes {node.output[0]}"
        node.metadata_props.add(key="namespace", value=f"model/{node.op_type}")
    for function in model.functions:
        function.doc_string = "a function"
        function.metadata_props.add(key="f", value="1")
