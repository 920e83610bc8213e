"""The data file that an output has of its own, for the tensors that it changes."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from slanc_onnx.graph.load import Array
from slanc_onnx.graph.temporary import new_file, temporary, write_all

PAGE = 4096  # where large tensors begin, so that they can be mapped
_AT_ONCE = 1 << 24  # bytes that are read to compare
_MOST_OF_A_NAME = 200  # bytes of the 255 that a file name may have


class OwnData:
    """A data file that holds the changed tensors of an output, one after the other.

    It is written under a temporary name, which tensors refer to until its own is known: that has
    a hash of what it holds, so that another content never takes the place of this one.

    Args:
        folder: Where it is written.
        mode: The most that its mode may allow.
    """

    def __init__(self, folder: Path, mode: int = 0o666) -> None:
        self.path = temporary(folder, "data")
        self.size = 0
        self._mode = mode
        self._handle: int | None = None
        self._hash = hashlib.blake2b(digest_size=8)

    @property
    def name(self) -> str:
        """What tensors refer to while it is written."""
        return self.path.name

    def add(self, values: Array) -> tuple[int, int]:
        """Append a tensor; returns its offset and length in bytes."""
        if self._handle is None:
            self._handle = new_file(self.path, self._mode)
        offset = -(-self.size // PAGE) * PAGE
        data = values.tobytes()
        for piece in (b"\0" * (offset - self.size), data):
            write_all(self._handle, piece)
            self._hash.update(piece)
        self.size = offset + len(data)
        return offset, len(data)

    def finish(self) -> str:
        """Bring it down to the disk; returns the hash, "" where nothing was added."""
        if self._handle is None:
            return ""
        os.fsync(self._handle)
        self.close()
        return self._hash.hexdigest()

    def close(self) -> None:
        """End writing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


def own_name(output: Path, digest: str, number: int = 0) -> str:
    """What the data file of an output is called.

    Args:
        output: The .onnx file.
        digest: Of what the data file holds.
        number: To tell it from others that have the name and hold something else.
    """
    return f"{_stem(output)}.fold-{digest}{f'-{number}' if number else ''}.data"


def is_own_name(name: str, output: Path) -> bool:
    """Whether the data file of an output could be called so."""
    pattern = re.escape(_stem(output)) + r"\.fold-[0-9a-f]{16}(-[0-9]+)?\.data"
    return re.fullmatch(pattern, name) is not None


def holds_what_it_says(file: Path) -> bool:
    """Whether the hash in the name of a data file is that of what it holds."""
    found = hashlib.blake2b(digest_size=8)
    with file.open("rb") as opened:
        while block := opened.read(_AT_ONCE):
            found.update(block)
    return f".fold-{found.hexdigest()}" in file.name


def _stem(output: Path) -> str:
    """The name of an output as text that fits into a name and into a model."""
    return os.fsencode(output.stem)[:_MOST_OF_A_NAME].decode(errors="ignore")
