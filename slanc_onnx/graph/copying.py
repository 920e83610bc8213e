"""Copy bytes from file to file: by the kernel where it can, without taking them into memory."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from slanc_onnx.graph.inline import Span
from slanc_onnx.graph.temporary import new_file, write_all
from slanc_onnx.progress import Meter

COPIED_AT_ONCE = 1 << 26  # bytes
_NOT_BETWEEN_THESE = (
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.ENOTSOCK,
)


def copy_file(source: Path, target: Path, meter: Meter) -> None:
    """Copy a data file to a new name, with its mode, down to the disk."""
    with source.open("rb", buffering=0) as read:
        handle = new_file(target, 0o600)
        try:
            while count := copied(read.fileno(), handle, COPIED_AT_ONCE):
                meter.add(count)
            os.chmod(target, stat.S_IMODE(source.stat().st_mode) & 0o777)
            os.fsync(handle)
        finally:
            os.close(handle)


def copied(source: int, target: int, most: int) -> int:
    """Copy the next bytes from one file to another; returns how many, 0 at the end.

    The kernel copies, and shares the blocks where the file system can.
    """
    for by_kernel in (_by_range, _by_sending):
        with suppress(AttributeError, NotImplementedError):  # no such call there
            try:
                return by_kernel(source, target, most)
            except OSError as error:
                if error.errno not in _NOT_BETWEEN_THESE:
                    raise
    data = os.read(source, most)
    write_all(target, data)
    return len(data)


def _by_range(source: int, target: int, most: int) -> int:
    return os.copy_file_range(source, target, most)


def _by_sending(source: int, target: int, most: int) -> int:
    if sys.platform != "linux":  # elsewhere to sockets alone, and with other arguments
        raise NotImplementedError
    return os.sendfile(target, source, None, most)


def write_spliced(
    path: Path,
    pieces: Iterable[bytes | Span],
    source: Path,
    made: Callable[[Span], memoryview],
    mode: int | None = None,
) -> None:
    """Write a new file down to the disk, with ranges of another in it.

    Args:
        path: The new file.
        pieces: What it holds, in order.
        source: The file whose ranges they are, where they have its name.
        made: Gives the bytes of other ranges.
        mode: Of the file; None for that of any other new file.

    Raises:
        OSError: it cannot be written, or the other file was cut short meanwhile.
    """
    handle = new_file(path, 0o666 if mode is None else 0o600)
    try:
        with source.open("rb", buffering=0) as read:
            for piece in pieces:
                if isinstance(piece, bytes):
                    write_all(handle, piece)
                elif piece.file == source.name:
                    _copy_range(read.fileno(), handle, piece)
                else:
                    write_all(handle, made(piece))
        if mode is not None:
            os.chmod(path, mode)
        os.fsync(handle)
    finally:
        os.close(handle)


def _copy_range(source: int, target: int, span: Span) -> None:
    os.lseek(source, span.offset, os.SEEK_SET)
    left = span.length
    while left:
        count = copied(source, target, min(left, COPIED_AT_ONCE))
        if not count:
            raise OSError(errno.EIO, "the input was cut short while it was copied")
        left -= count
