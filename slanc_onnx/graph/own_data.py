"""The data file that an output has of its own, for the tensors that it changes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import BinaryIO

from slanc_onnx.graph.load import Array

PAGE = 4096  # where large tensors begin, so that they can be mapped


class OwnData:
    """A data file that holds the changed tensors of an output, one after the other.

    It is written under a temporary name. `keep` gives it its own, `discard` removes it.

    Args:
        output: The .onnx file that it belongs to and is named after.
        taken: Names of other data files that the output refers to.
    """

    def __init__(self, output: Path, taken: set[str]) -> None:
        names = [f"{output.stem}.fold{i or ''}.data" for i in range(len(taken) + 1)]
        self.name = next(name for name in names if name not in taken)
        self.path = output.parent / self.name
        self.size = 0
        self._temporary: Path | None = None
        self._file: BinaryIO | None = None

    def add(self, values: Array) -> tuple[int, int]:
        """Append a tensor; returns its offset and length in bytes."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{self.name}.", dir=self.path.parent)
            self._file, self._temporary = os.fdopen(handle, "wb"), Path(name)
        offset = -(-self.size // PAGE) * PAGE
        self._file.write(b"\0" * (offset - self.size))
        data = values.tobytes()
        self._file.write(data)
        self.size = offset + len(data)
        return offset, len(data)

    def keep(self) -> None:
        """Give the file its name, if anything was added."""
        if self._file is not None and self._temporary is not None:
            self._file.close()
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(self._temporary, 0o666 & ~umask)
            os.replace(self._temporary, self.path)
            self._temporary = None

    def discard(self) -> None:
        """Remove what was written, unless it was kept."""
        if self._file is not None and self._temporary is not None:
            self._file.close()
            self._temporary.unlink(missing_ok=True)
