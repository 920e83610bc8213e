"""Files on their way: under temporary names that say which process writes them, then in place.

A process that was killed leaves such files behind. The next run in the folder knows by their names
that they are nobody's any more, and removes them.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # as on Windows, where folders cannot be locked
    fcntl = None  # type: ignore[assignment]

# Host, process, number; "onnx" so that whoever looks for models finds a model that is being made.
_NAME = re.compile(r"\.slanc-([0-9a-f]{8})-([0-9]+)-[0-9a-f]{8}\.(onnx|data|journal|tmp|folder)")
_HOST = hashlib.sha256(platform.node().encode(errors="replace")).hexdigest()[:8]
_in_use: set[str] = set()  # names that this process gave
_AT_ONCE = 1 << 24  # bytes that are compared


def temporary(folder: Path, kind: str, nobody: bool = False) -> Path:
    """A new temporary name in a folder.

    Args:
        folder: Where.
        kind: How it ends.
        nobody: Whether the file is left over as soon as it is there.
    """
    process = 0 if nobody else os.getpid()
    name = f".slanc-{_HOST}-{process}-{secrets.token_hex(4)}.{kind}"
    if not nobody:
        _in_use.add(name)
    return folder / name


def surely(tidy: Callable[[], None]) -> None:
    """Remove what is left of a work, and where that is interrupted once more."""
    try:
        tidy()
    except BaseException:
        tidy()
        raise


def is_temporary(path: Path) -> bool:
    """Whether a file is on its way, by its name."""
    return _NAME.fullmatch(path.name) is not None


def left_over(folder: Path) -> list[Path]:
    """Temporary files in a folder whose process on this host is dead."""
    return sorted(Path(e.path) for e in _nobodys(folder) if e.is_file(follow_symlinks=False))


def left_over_folders(folder: Path) -> list[Path]:
    """Temporary folders in a folder whose process on this host is dead."""
    return sorted(Path(e.path) for e in _nobodys(folder) if e.is_dir(follow_symlinks=False))


def _nobodys(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What has a temporary name and belongs to no process any more."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match is None or match[1] != _HOST or entry.name in _in_use:
                continue
            if _runs(int(match[2])):
                continue
            owner = entry.stat(follow_symlinks=False).st_uid
            if not hasattr(os, "geteuid") or owner == os.geteuid():
                yield entry


def _runs(process: int) -> bool:
    """Whether another process runs; in a container every run has the number of the one before."""
    if process in (0, os.getpid()):
        return False
    if os.name != "posix":
        return True  # there, asking ends it
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time, where a folder can be locked; the lock ends with the process."""
    handle = None
    try:
        if fcntl is not None:
            with suppress(OSError):
                handle = os.open(folder, os.O_RDONLY)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def not_a_file(path: Path) -> str:
    """What stands at a path that must not be replaced; "" where a file or nothing does."""
    return _other_than(path, stat.S_ISREG)


def not_a_folder(path: Path) -> str:
    """What stands at a path that must not be replaced; "" where a folder or nothing does."""
    return _other_than(path, stat.S_ISDIR)


def _other_than(path: Path, right: Callable[[int], bool]) -> str:
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if right(mode):
        return ""
    if stat.S_ISLNK(mode):
        return f"a link to {os.readlink(path)}"
    return (
        "a file" if stat.S_ISREG(mode) else "a folder" if stat.S_ISDIR(mode) else "no regular file"
    )


def new_file(path: Path, mode: int = 0o666) -> int:
    """Make a file that must not be there yet; returns a handle to write to."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, mode)


def write_all(handle: int, data: bytes | memoryview) -> None:
    """Write all of it, in as many pieces as it takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def write_new(path: Path, data: bytes, mode: int | None = None) -> None:
    """Write a new file down to the disk; without a mode it has that of any other new file."""
    handle = new_file(path, 0o666 if mode is None else 0o600)
    try:
        write_all(handle, data)
        if mode is not None:
            os.chmod(path, mode)
        os.fsync(handle)
    finally:
        os.close(handle)


def mode_of(path: Path) -> int | None:
    """The mode of a file that is there."""
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else None


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder down to the disk, where a folder can be."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def same_content(one: Path, other: Path) -> bool | None:
    """Whether two paths lead to files with the same bytes; None if there is no `other`."""
    try:
        found = other.stat()
        if not stat.S_ISREG(found.st_mode) or one.stat().st_size != found.st_size:
            return False
        with one.open("rb") as first, other.open("rb") as second:
            while block := first.read(_AT_ONCE):
                if block != second.read(_AT_ONCE):
                    return False
    except FileNotFoundError:
        return None
    return True


def remove(path: Path) -> None:
    """Remove a file if it is there and can be."""
    with suppress(OSError):
        try:
            path.unlink(missing_ok=True)
        except PermissionError:  # Windows keeps files that may not be written to
            path.chmod(0o600)
            path.unlink(missing_ok=True)


def real_path(path: Path) -> Path:
    """The path behind all links; of links in a circle the path itself, and no error.

    `Path.resolve` raises one there up to Python 3.12.
    """
    try:
        return Path(os.path.realpath(path))
    except UnicodeEncodeError:  # whoever reads it says so: `no_name`
        return path


def same_place(one: Path, other: Path) -> bool:
    """Whether two files that need not be there have one name, where case does not count either."""
    return str(real_path(one)).casefold() == str(real_path(other)).casefold()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that at any moment its content is the old or the new one, whole.

    Raises:
        OSError: it cannot be written, or what stands there is no file of its own; nothing changed.
    """
    for file in left_over(path.parent):
        if file.suffix == ".tmp":
            remove(file)
    file = temporary(path.parent, "tmp")
    try:
        write_new(file, data, mode_of(path))
        what = not_a_file(path)
        if what:
            raise FileExistsError(f"{path}: is {what}")
        os.replace(file, path)
        sync_folder(path.parent)
    finally:
        remove(file)
