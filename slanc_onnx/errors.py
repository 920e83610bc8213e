"""The one exception the library raises on bad input."""

from __future__ import annotations

from pathlib import Path

_MOST_NAMED = 3  # files of a folder
_ARTICLES = {".toml": "a"}


class SlancError(Exception):
    """Bad input or bad usage. The message says what is wrong and what to do about it."""


def no_file(told: str, path: Path, wanted: str) -> SlancError:
    """The error that nothing can be read at a path, and what to give instead.

    Args:
        told: How messages call it: the option and the path.
        path: What is no file.
        wanted: How the name of what is wanted ends: ".onnx".
    """
    give = f"Give the path of {_ARTICLES.get(wanted, 'an')} {wanted} file."
    if str(path) == "-":
        return SlancError(f"{told}: standard input is not read. {give}")
    if path.is_dir():
        inside = [str(file) for file in sorted(path.glob(f"*{wanted}")) if file.is_file()]
        named = ", ".join(inside[:_MOST_NAMED]) + (" ..." if len(inside) > _MOST_NAMED else "")
        return SlancError(f"{told}: is a folder. {give}" + (f" It has {named}." if named else ""))
    if path.exists():  # a pipe, to which nobody may ever write, or a device, which may never end
        return SlancError(f"{told}: is no regular file. {give}")
    if not path.parent.is_dir():
        return SlancError(f"{told}: no such file, nor is there a folder {path.parent}. {give}")
    return SlancError(f"{told}: no such file. {give}")
