"""The one exception the library raises on bad input.

Beside it, what the errors of others say where memory is short.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

_MOST_NAMED = 3  # files of a folder
_ARTICLES = {".toml": "a"}
# As C++, ONNX Runtime, Python's threads, and what loads libraries on Linux and Windows say it. The
# loader says "failed to map" too where a file system forbids it; NumPy is refused before us there.
_NO_MEMORY = (
    "bad_alloc", "bad allocation", "failed to allocate memory", "pthread_create failed",
    "can't start new thread", "failed to map segment", "cannot allocate memory",
    "paging file is too small",
)  # fmt: skip


class SlancError(Exception):
    """Bad input or bad usage. The message says what is wrong and what to do about it."""


def no_file(told: str, path: Path, wanted: str) -> SlancError:
    """The error that nothing can be read at a path, and what to give instead.

    Args:
        told: How messages call it: the option and the path.
        path: What is no file.
        wanted: How the name of what is wanted ends: ".onnx".
    """
    if (foreign := no_name(told, path)) is not None:
        return foreign
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


def no_name(told: str, path: Path) -> SlancError | None:
    """The error of a path that the locale cannot write, so that its file seems to be missing.

    Returns:
        None for any other path.
    """
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        return SlancError(
            f"{told}: the locale writes names of files in {encoding}, which has no such name. "
            "Set PYTHONUTF8=1, or a locale in UTF-8."
        )
    return None


def says_no_memory(text: str) -> bool:
    """Whether the text of an error says that memory is short."""
    return any(words in text.lower() for words in _NO_MEMORY)


def is_no_memory(error: BaseException) -> bool:
    """Whether memory is short, by whatever error: of a library that is loaded, or a thread."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    named = isinstance(error, (ImportError, RuntimeError)) and says_no_memory(str(error))
    return named or isinstance(error, MemoryError)
