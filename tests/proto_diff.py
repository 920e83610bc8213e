"""Compare two protobuf messages field by field."""

from typing import Any

from onnx import NodeProto


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
