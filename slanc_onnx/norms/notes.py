"""Notes: what an earlier run says of a node, in its metadata or behind its name.

Tools that keep no metadata keep names, so `passes/graphsurgeon.py` writes the notes there, as in
`first/slanc_Div?slanc.scale=128.0&slanc.target=...`.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

from onnx import NodeProto

SCALE_KEY = "slanc.scale"
NORM_KEY = "slanc.norm"
TARGET_KEY = "slanc.target"  # beside the scale: for which accelerator it was placed
APPLIED_KEY = "slanc.applied"  # on the last node of a norm in a folded model: "fold" or "div"

_READ = (SCALE_KEY, APPLIED_KEY, TARGET_KEY)
_BEGIN = "?slanc."  # what begins the notes in a name


def notes_of(node: NodeProto) -> dict[str, str]:
    """The notes of a node by their keys; what its metadata says counts more than its name."""
    _, found = _parted(node.name)
    found |= {entry.key: entry.value for entry in node.metadata_props}
    return {key: found[key] for key in _READ if key in found}


def without_notes(name: str) -> str:
    """The name of a node without the notes behind it."""
    return _parted(name)[0]


def with_notes(node: NodeProto) -> str:
    """The name of a node with its notes behind it."""
    notes = notes_of(node)
    name = without_notes(node.name)
    return f"{name}?{urlencode(notes)}" if notes else name


def _parted(name: str) -> tuple[str, dict[str, str]]:
    before, begin, rest = name.rpartition(_BEGIN)
    notes = dict(parse_qsl(begin[1:] + rest)) if begin else {}
    return (before, notes) if notes.keys() & {*_READ} else (name, {})


def drop_notes(node: NodeProto) -> None:
    """Take the notes off a node."""
    kept = [entry for entry in node.metadata_props if entry.key not in _READ]
    del node.metadata_props[:]
    node.metadata_props.extend(kept)
    node.name = without_notes(node.name)
