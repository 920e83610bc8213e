"""Options as a file states them: a table whose keys are the fields of `Options`, as values.

The types of the fields say what a key may hold, so that a new option needs no line here.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.errors import SlancError, no_file
from slanc_onnx.feed import Feed, read_feed
from slanc_onnx.graph import Array
from slanc_onnx.targets import profile_of, target
from slanc_onnx.tokens import Tokens, read_tokens

SUFFIXES = (".toml", ".json")
IN_PYTHON = ("executor", "isolate")  # options that no file states
SEQUENCES = ("sequence_length", "max_sequences", "bos")  # of token ids
LENGTH, MOST = 1024, 4  # of sequences, and how many


def read_table(path: Path) -> dict[str, object]:
    """The table in a TOML or JSON file.

    Raises:
        SlancError: it cannot be read, or holds something else.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise SlancError(f"its name ends in none of {', '.join(SUFFIXES)}.")
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise SlancError(f"is {what}. Give the name of a file.")
    kind = path.suffix[1:].upper()
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text) if kind == "TOML" else json.loads(text)
    except OSError as error:
        raise SlancError(f"{error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:  # numbers of many digits, and lists in lists
        raise SlancError(f"no {kind}: {error}.") from error
    if not isinstance(table, dict):
        raise SlancError(f"holds no table of options, but {_shown(table)}.")
    return table


def options_of(
    table: Mapping[str, object], types: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """The values of options.

    Args:
        table: What a file states.
        types: The type of each option.
        folder: What the names of files are relative to.

    Raises:
        SlancError: an option is not known, or is no such value.
    """
    known = [name for name in types if name not in IN_PYTHON]
    found = {}
    for key, value in table.items():
        if key in IN_PYTHON:
            raise SlancError(f"{key}: is given in Python, not in a file.")
        if key in _COMMAND_ALONE:
            raise SlancError(f"{key}: which files are written is said by the command alone.")
        if key not in known:
            near = _CALLED.get(key) or difflib.get_close_matches(key, known, 1, 0.0)[0]
            raise SlancError(f"{key}: is no option. The nearest is {near}.")
        read = _BY_NAME.get(key)
        found[key] = _as(key, value, types[key]) if read is None else read(key, value, folder)
    return found


_COMMAND_ALONE = ("models", "output", "report", "html", "sidecar", "config")
# What the command line calls options that are called otherwise here.
_CALLED = {
    **dict.fromkeys(("target", "target_file", "accumulate", "flush_subnormals"), "accelerator"),
    **dict.fromkeys(SEQUENCES, "tokens, as a table with the keys file and this one"),
    "no_validate": "validate",
}


def _as(key: str, value: object, hint: Any) -> Any:
    """A value of a type.

    Raises:
        SlancError: it is none.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        (hint,) = [one for one in inner if one is not NoneType]
        return _as(key, value, hint)
    if origin is Literal:
        if value in inner:
            return value
        near = difflib.get_close_matches(value, inner, 1, 0.0) if isinstance(value, str) else []
        more = "".join(f" The nearest is {name}." for name in near)
        raise _no(key, value, f"one of {', '.join(inner)}", more)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        table = _table(key, value)
        return {name: _as(f"{key}.{name}", one, inner[1]) for name, one in table.items()}
    if origin is tuple:
        if not (isinstance(value, list) and len(value) == len(inner)):
            raise _no(key, value, f"a list of {len(inner)}")
        return tuple(_as(key, one, of) for one, of in zip(value, inner, strict=True))
    if isinstance(origin, type) and issubclass(origin, Collection):
        if not isinstance(value, list):
            raise _no(key, value, "a list")
        return tuple(_as(key, one, inner[0]) for one in value)
    words, fits = _PLAIN[hint]
    if not fits(value):
        raise _no(key, value, words)
    return hint(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_PLAIN: Mapping[type, tuple[str, Callable[[object], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: ("a number", _is_number),
    str: ("text", lambda value: isinstance(value, str)),
}


def _table(key: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _no(key, value, "a table")
    return value


def _no(key: str, value: object, what: str, more: str = "") -> SlancError:
    return SlancError(f"{key}: must be {what}, not {_shown(value)}.{more}")


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return json.dumps(value, default=str)


def power_of_two(text: str) -> float:
    """The number that 2^K, or a power of two in figures, names; 0 for none."""
    base, power, exponent = text.partition("^")
    try:
        scale = math.ldexp(1.0, int(exponent)) if power and base == "2" else float(text)
    except (ValueError, OverflowError):
        return 0.0
    return scale if 0 < scale < math.inf and math.frexp(scale)[0] == 0.5 else 0.0


def _scales(key: str, value: object, _: Path) -> dict[str, float]:
    table = _table(key, value)
    found = {name: power_of_two(str(one)) for name, one in table.items()}
    for name, scale in found.items():
        if not scale:
            raise _no(f"{key}.{name}", table[name], "2^K with a whole number K")
    return found


def _feeds(key: str, value: object, folder: Path) -> dict[str, Feed]:
    found = {}
    for name, spec in _table(key, value).items():
        text = str(_as(f"{key}.{name}", spec, str))
        if Path(text).suffix == ".npy":
            text = str(folder / text)
        try:
            found[name] = read_feed(text)
        except SlancError as error:
            raise SlancError(f"{key}.{name}: {error}") from error
    return found


def _accelerator(key: str, value: object, _: Path) -> Accelerator:
    """A target by its name, or as a target file describes one."""
    if isinstance(value, str):
        return target(value)
    if not isinstance(value, dict):
        raise _no(key, value, "the name of a target or a table as in a target file")
    try:
        return profile_of(value, "")
    except SlancError as error:
        raise SlancError(f"{key}: {error}") from error


def read_arrays(name: str, option: str) -> dict[str, Array]:
    """The arrays of an .npz file; `option` is how messages call it.

    Raises:
        SlancError: it is none.
    """
    if not Path(name).is_file():
        raise no_file(f"{option} {name}", Path(name), ".npz")
    try:
        with open(name, "rb") as opened:
            file = np.load(opened, allow_pickle=False)
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # NumPy raises whatever zipfile, zlib and its parsers do
        raise SlancError(
            f"{option} {name}: not an .npz file of arrays. Write one with numpy.savez(file, "
            "name=array, ...)."
        ) from error
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy gives the bytes of what is no .npy
            raise SlancError(
                f"{option} {name}: its member {key!r} is no array. Write the file with "
                "numpy.savez(file, name=array, ...)."
            )
    return arrays


def data_file(key: str, value: object, folder: Path) -> tuple[str, dict[str, int]]:
    """The name of a file of inputs or token ids, and how these are cut.

    It is text, or for token ids a table with the keys "file" and those of `SEQUENCES`.

    Raises:
        SlancError: it is neither.
    """
    if not isinstance(value, dict):
        return str(folder / _as(key, value, str)), {}
    known = ("file", *SEQUENCES)
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.0)[0]
            raise SlancError(f"{key}.{name}: is not known. The nearest is {near}.")
    if "file" not in value:
        raise SlancError(f"{key}.file: is missing, the name of the file.")
    cut = {name: int(_as(f"{key}.{name}", value[name], int)) for name in value if name != "file"}
    return str(folder / _as(f"{key}.file", value["file"], str)), cut


def _inputs(key: str, value: object, folder: Path) -> dict[str, Array]:
    return read_arrays(str(folder / _as(key, value, str)), key)


def _tokens(key: str, value: object, folder: Path) -> Tokens:
    name, cut = data_file(key, value, folder)
    length, most = cut.get("sequence_length", LENGTH), cut.get("max_sequences", MOST)
    return read_tokens(Path(name), length, most, cut.get("bos"), key)


def _observed(key: str, value: object, folder: Path) -> dict[str, Array] | Tokens:
    """Token ids or inputs, by how the file's name ends."""
    name, _ = data_file(key, value, folder)
    ids = Path(name).suffix == ".npy"
    return _tokens(key, value, folder) if ids else _inputs(key, value, folder)


_BY_NAME: Mapping[str, Callable[[str, object, Path], Any]] = {
    "accelerator": _accelerator,
    "feeds": _feeds,
    "set_scale": _scales,
    "inputs": _inputs,
    "tokens": _tokens,
    "observe": _observed,
}
