"""Journals: the data files that a run puts beside its output, until it is known who needs them.

A run notes what it is about to put there, or to leave there unused. When it ends, or after it was
killed, what no model in the folder refers to is removed; everything else there is not ours.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePath

from slanc_onnx.graph.load import stays_inside
from slanc_onnx.graph.temporary import (
    is_temporary,
    left_over,
    locked,
    remove,
    temporary,
    write_new,
)


def write_journal(journal: Path, files: Mapping[str, Path], folders: list[str]) -> None:
    """Note files that may have to go.

    Args:
        journal: The file to write.
        files: By their name in the folder of the journal: where each is now.
        folders: Folders that are to be made there, the outer ones first.
    """
    known = {name: _identity(file) for name, file in files.items()}
    write_new(journal, json.dumps({"files": known, "folders": folders}).encode())


def close_journal(journal: Path) -> None:
    """Remove the files that a journal notes and no model refers to, then the journal.

    The folder is to be locked meanwhile. Where a file cannot be removed, or only a draft refers to
    it, the journal becomes a left-over: of this, or of the next run there.
    """
    files, folders = _read(journal)
    pending = False
    for name, identity in files.items():
        file = journal.parent / name
        try:
            if _identity(file) == identity:
                users = list(models_with(file, journal.parent))
                if not users:
                    file.unlink()
                pending |= bool(users) and all(map(is_temporary, users))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError:
            pending = True
    for name in reversed(folders):
        with suppress(OSError):  # it holds something
            os.rmdir(journal.parent / name)
    if pending:
        with suppress(OSError):
            os.replace(journal, temporary(journal.parent, "journal", nobody=True))
    else:
        remove(journal)


def clear_left_overs(folder: Path) -> None:
    """Remove what runs that were killed left in a folder."""
    if not left_over(folder):
        return
    with locked(folder):
        found = left_over(folder)
        journals = [file for file in found if file.suffix == ".journal"]
        for file in found:
            if file not in journals:
                remove(file)
        for journal in journals:
            close_journal(journal)


def models_with(file: Path, folder: Path) -> Iterator[Path]:
    """The models that refer to a data file, from its own folder or one above, up to `folder`."""
    name = os.fsencode(file.name)
    for place in (file.parent, *file.parent.parents):
        for other in place.iterdir():
            if other.is_file() and other.name != file.name and mentions(other, name):
                yield other
        if place == folder:
            return


def mentions(model: Path, name: bytes) -> bool:
    """Whether a file is a model that holds these bytes; one that cannot be read may."""
    try:
        with model.open("rb") as file:
            # Every writer begins with the IR version, the first field.
            if file.read(1) != b"\x08" and model.suffix != ".onnx":
                return False
            if os.fstat(file.fileno()).st_size == 0:
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
                return pages.find(name) >= 0
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _identity(file: Path) -> list[int]:
    """By which a file is known again under another name."""
    found = file.lstat()
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def _read(journal: Path) -> tuple[dict[str, list[int]], list[str]]:
    """Files and folders of a journal; nothing of one that was cut short, before anything was put.

    Names that lead elsewhere are passed over.
    """
    try:
        noted = json.loads(journal.read_bytes())
        files, folders = dict(noted["files"]), list(noted["folders"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}, []
    return (
        {name: identity for name, identity in files.items() if _is_inside(name)},
        [name for name in folders if _is_inside(name)],
    )


def _is_inside(name: object) -> bool:
    return ".." not in PurePath(str(name)).parts and stays_inside(str(name))
