"""Save a folder as a whole: filled under a temporary name, then put in place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from slanc_onnx._version import __version__
from slanc_onnx.errors import SlancError
from slanc_onnx.graph.copying import copy_file
from slanc_onnx.graph.temporary import (
    is_temporary,
    left_over_folders,
    locked,
    not_a_folder,
    real_path,
    surely,
    sync_folder,
    temporary,
    write_new,
)
from slanc_onnx.progress import Meter, no_progress

# Lists what a run wrote, so that a later one knows what it may replace.
LIST = "slanc-onnx.json"


def is_of_a_draft(path: Path) -> bool:
    """Whether a file or folder is on its way, or the list of an earlier output, by its name."""
    return path.name == LIST or is_temporary(path)


class FolderDraft:
    """An output folder that is filled, but not in its place before `keep`.

    It takes the place of an earlier output alone: a folder with the list that `keep` writes, which
    holds nothing else, and nothing that came along and was changed since. As a context it leaves
    nothing behind but what was kept.

    Args:
        source: The folder from which files come along.
        output: The folder to write.

    Attributes:
        path: The folder under its temporary name, beside the output; made with the first file.

    Raises:
        SlancError: the output is no earlier one, lies in the source or around it, or cannot be
            written there.
    """

    def __init__(self, source: Path, output: Path) -> None:
        self.source, self.output = source, Path(os.path.abspath(output))
        self._shown = output
        self._refuse()
        self._missing = [f for f in self.output.parents if not f.exists()]
        self.path = temporary(self.output.parent, "folder")
        self._before = temporary(self.output.parent, "folder")  # where the earlier one goes
        self._digests: dict[str, str] = {}

    def place(self, file: Path) -> Path:
        """Where a file of the output lies meanwhile."""
        return self.path / Path(os.path.abspath(file)).relative_to(self.output)

    def bring(self, files: Iterable[Path], watched: bool = True) -> None:
        """Copy files of the source, by their names in it; those that are there already stay.

        Args:
            files: The files.
            watched: Whether a later run is to keep off where they were changed by then.
        """
        meter = Meter("copying", 0, no_progress)
        for name in files:
            target = self.path / name
            if target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(self.source / name, target, meter)
            if watched:
                self._digests[name.as_posix()] = _digest(target)

    def keep(self) -> None:
        """Put the folder in its place, and remove the earlier output.

        Raises:
            SlancError: something else stands there by now; it is as it was.
        """
        files = {name: self._digests.get(name) for name in _files(self.path)}
        noted = {"written_by": f"slanc-onnx {__version__}", "files": files}
        write_new(self.path / LIST, (json.dumps(noted, indent=1) + "\n").encode())
        sync_folder(self.path)
        with locked(self.output.parent):
            self._refuse()
            if self.output.exists():
                os.rename(self.output, self._before)
            os.rename(self.path, self.output)
            sync_folder(self.output.parent)

    def __enter__(self) -> Self:
        for folder in left_over_folders(self.output.parent):
            shutil.rmtree(folder, ignore_errors=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        surely(self._tidy)
        if isinstance(error, SlancError) and str(self.path) in str(error):
            told = str(error).replace(str(self.path), str(self._shown))
            raise SlancError(told) from error
        if isinstance(error, OSError) and str(self.path) in str(error.filename):
            raise SlancError(
                f"{self._shown}: cannot be written ({error.strerror}). Give another -o."
            ) from error

    def _tidy(self) -> None:
        if self._before.exists() and not self.output.exists():
            os.rename(self._before, self.output)
        for folder in (self.path, self._before):
            if folder.exists():
                shutil.rmtree(folder)
        for folder in self._missing:
            with suppress(OSError):  # it holds something
                folder.rmdir()

    def _refuse(self) -> None:
        """Refuse an output that would lose something, or cannot be.

        Raises:
            SlancError: it is that.
        """
        output, source = real_path(self.output), real_path(self.source)
        if output.is_relative_to(source) or source.is_relative_to(output):
            raise SlancError(
                f"-o {self._shown}: lies in {self.source} or around it. Give a folder beside it."
            )
        what = not_a_folder(self.output)
        if what:
            raise SlancError(f"-o {self._shown}: is {what}. Give the name of a folder.")
        above = next(f for f in self.output.parents if f.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise SlancError(
                f"-o {self._shown}: {above} is no folder that can be written to. Give another -o."
            )
        stranger = _stranger(self.output)
        if stranger:
            raise SlancError(
                f"-o {self._shown}: {stranger}, and the folder is replaced as a whole. Move it "
                "away, or give another -o."
            )


def _stranger(folder: Path) -> str:
    """What in a folder an earlier run did not leave there so; "" for nothing."""
    if not folder.exists():
        return ""
    there = [name for name in _files(folder) if name != LIST]
    known = _noted(folder / LIST)
    if known is None:
        return f"holds {there[0]}, but no list of an earlier run" if there else ""
    for name in there:
        if name not in known:
            return f"holds {name}, which no earlier run wrote"
        if known[name] is not None and _digest(folder / name) != known[name]:
            return f"holds {name}, which was changed since it was written"
    return ""


def _noted(file: Path) -> dict[str, Any] | None:
    """The files of an earlier run; None where there is no list of them."""
    try:
        noted = json.loads(file.read_bytes())
        by, files = noted["written_by"], noted["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return files if str(by).startswith("slanc-onnx ") and isinstance(files, dict) else None


def _files(folder: Path) -> list[str]:
    """Whatever is no folder in a folder and below, by names relative to it, sorted."""
    found = [
        Path(place, name).relative_to(folder).as_posix()
        for place, folders, files in os.walk(folder)
        for name in (*files, *(f for f in folders if Path(place, f).is_symlink()))
    ]
    return sorted(found)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
