"""FP32 nodes: the list of nodes that have to stay in FP32, as other people's tools take it.

`ort` is for the converters of ONNX Runtime and onnxconverter-common, `tensorrt` for trtexec,
`autocast` for NVIDIA ModelOpt's AutoCast, and `names` for whatever takes a name a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slanc_onnx.errors import SlancError
from slanc_onnx.graph import write_atomically
from slanc_onnx.reasons import Keeping, Reason
from slanc_onnx.report.wording import reason_text
from slanc_onnx.verify import Fp32Nodes

BY_SUFFIX: Mapping[str, str] = {
    ".json": "ort",
    ".trt": "tensorrt",
    ".autocast": "autocast",
    ".txt": "names",
}
FORMATS = tuple(BY_SUFFIX.values())
NOTE = "slanc-onnx --fp32-nodes: "
# By which a list is known again.
LIST_STARTS = (f'{{\n "note": "{NOTE}', f"# {NOTE}")


def fp32_nodes_text(found: Fp32Nodes, form: str) -> str:
    """What was found, in a sentence."""
    return reason_text(_told(found, form))


def _told(found: Fp32Nodes, form: str) -> Reason:
    if not found.works:
        kind = Keeping.NO_LIST_WORKS if found.complete else Keeping.NO_TIME
        facts = (found.nodes, found.tried) if found.complete else (found.tried,)
        return Reason(kind, facts)
    if not found.names:
        return Reason(Keeping.NOT_NEEDED, (form,))
    kind = Keeping.LIST_WORKS if found.complete else Keeping.LIST_MAY_SHRINK
    return Reason(kind, (len(found.names), found.nodes, form, found.rms_error, found.tried))


def fp32_nodes_entry(found: Fp32Nodes | None, form: str) -> dict[str, Any] | None:
    """The same for programs."""
    if found is None:
        return None
    return {
        "names": list(found.names),
        "op_types": list(found.op_types),
        "nodes": found.nodes,
        "works": found.works,
        "complete": found.complete,
        "tried": found.tried,
        "rms_relative_error": found.rms_error,
        "text": fp32_nodes_text(found, form),
    }


def write_list(found: Fp32Nodes | None, form: str, path: Path, as_format: str) -> None:
    """Write the list, atomically.

    Args:
        found: A list that works; another one is not written.
        form: The narrow format, in words.
        path: Where to.
        as_format: One of `FORMATS`.

    Raises:
        SlancError: there is no such list, or the format cannot hold a name of it.
    """
    if found is None or not found.works:
        raise SlancError(reason_text(Reason(Keeping.NO_LIST)))
    note = NOTE + fp32_nodes_text(found, form)
    if as_format == "ort":
        lists = {"note": note, "node_block_list": found.names, "op_block_list": found.op_types}
        text = json.dumps(lists, indent=1)
    else:
        _check(found.names, as_format)
        text = "\n".join([f"# {note}", *_LINES[as_format](found.names)])
    write_atomically(path, f"{text}\n".encode())


def _tensorrt(names: Sequence[str]) -> list[str]:
    """Options of trtexec, for what a layer computes in and for what it gives."""
    if not names:
        return []
    layers = ",".join(f"{name}:fp32" for name in names)
    options = ("--layerPrecisions", "--layerOutputTypes")
    return ["--precisionConstraints=obey", *(f"{option}={layers}" for option in options)]


def _autocast(names: Sequence[str]) -> list[str]:
    """Patterns, a line each, that match a name from its beginning and to its end."""
    return [f"^{re.escape(name)}$" for name in names]


_LINES: Mapping[str, Callable[[Sequence[str]], Sequence[str]]] = {
    "tensorrt": _tensorrt,
    "autocast": _autocast,
    "names": list,
}
# What would end a name: a line's end, a comment, and what trtexec or the shell cuts at or drops.
_NOT_IN = {"tensorrt": r"[\s,'\"*?\[\]]", "autocast": r"[\r\n]", "names": r"[\r\n]|^#"}


def _check(names: Sequence[str], as_format: str) -> None:
    for name in names:
        if re.search(_NOT_IN[as_format], name):
            raise SlancError(reason_text(Reason(Keeping.UNNAMEABLE, (name, as_format))))
