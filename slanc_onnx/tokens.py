"""Token ids that the user gives, cut into sequences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slanc_onnx.errors import SlancError, no_file
from slanc_onnx.graph import Array


@dataclass(frozen=True)
class Tokens:
    """Token ids to evaluate, cut into sequences.

    Attributes:
        ids: Integers, shape [sequences, length].
    """

    ids: Array

    @property
    def sequences(self) -> list[Array]:
        """One array of shape [1, length] per sequence."""
        return [row[None, :] for row in self.ids]


def read_tokens(
    path: Path,
    sequence_length: int = 1024,
    max_sequences: int | None = None,
    bos: int | None = None,
    option: str = "--tokens",
) -> Tokens:
    """Read token ids from an .npy file: a text as one row, or sequences of equal length.

    A text is cut into consecutive sequences of `sequence_length` ids, `bos` at the head of each
    included; what is left over at the end is dropped. `option` is how messages call the file.

    Raises:
        SlancError: not an .npy of integers, or too short for one sequence.
    """
    if not path.is_file():
        raise no_file(f"{option} {path}", path, ".npy")
    try:
        with path.open("rb") as file:
            ids = np.load(file, allow_pickle=False)
    except Exception as error:  # NumPy raises whatever its parsers do
        raise SlancError(
            f"{option} {path}: not an .npy file of token ids. Write one with numpy.save."
        ) from error
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu" or ids.ndim not in (1, 2):
        raise SlancError(f"{option} {path}: token ids must be integers in one or two dimensions.")
    for token in (*(int(f(ids)) for f in (np.min, np.max) if ids.size), bos or 0):
        if abs(token) >= 2**63:
            raise SlancError(f"{option} {path}: {token} is the id of no token. Give ids from 0 on.")
    ids = ids.astype(np.int64)
    fresh = sequence_length - (bos is not None)
    if fresh < 1 or sequence_length < 2:
        raise SlancError("--sequence-length must be at least 2.")
    if ids.ndim == 1:
        count = ids.size // fresh
        if count == 0:
            raise SlancError(
                f"{option} {path}: {ids.size} ids are too few for one sequence of {fresh}. "
                "Give a smaller --sequence-length."
            )
        ids = ids[: count * fresh].reshape(count, fresh)
    if max_sequences is not None:
        ids = ids[:max_sequences]
    if bos is not None:
        ids = np.concatenate([np.full((len(ids), 1), bos), ids], axis=1)
    if not len(ids) or ids.shape[1] < 2:
        raise SlancError(f"{option} {path}: holds no sequence of two ids, which predicting takes.")
    return Tokens(ids)
