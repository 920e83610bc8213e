"""A large constant matrix as a reference, of which blocks can be read.

References are plain values: they can be pickled, and another process reads the same file.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from onnx import TensorProto, helper

from slanc_onnx.graph import PACKED, Array, external_range, read_tensor

# The mask of sign, exponent and mantissa of an FP16 number after its sign-extended bits are shifted
# by 13; and 2 to the difference of the exponents' biases.
_EXTENDED = np.int32(~0x70000000)
_BIASES = np.float32(2.0**112)
_INFINITY = np.float32(2.0**16)  # the image of inf; nan becomes a larger number


class Stored(Protocol):
    """A matrix whose columns can be read."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    @property
    def nbytes(self) -> int:
        """Bytes to read for all of it."""

    def columns(self, start: int, stop: int) -> Array:
        """Columns start to stop, FP32, shape [rows, stop - start]; not to be written to."""

    def part(self, start: int, stop: int) -> Stored:
        """The matrix of columns start to stop, without the data of the others."""

    def turned(self) -> Stored:
        """The transpose."""

    def opened(self) -> Stored:
        """The same matrix with its file mapped for as long as it lives, to read many columns."""


@dataclass(frozen=True, eq=False)
class Filed:
    """An array in a file.

    Attributes:
        file: The file.
        offset: Where the array starts, in bytes.
        dtype: Element type.
        dims: Shape.
    """

    file: Path
    offset: int
    dtype: np.dtype[np.generic]
    dims: tuple[int, int]

    def open(self) -> Array:
        """The array as a view of the file, which stays mapped for as long as the view is used."""
        start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        count = self.dims[0] * self.dims[1]
        size = self.offset - start + count * self.dtype.itemsize
        with self.file.open("rb") as opened:
            pages = mmap.mmap(opened.fileno(), size, offset=start, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_WILLNEED"):  # all of it, although the columns come one by one
            pages.madvise(mmap.MADV_WILLNEED)
        values = np.frombuffer(pages, self.dtype, count, self.offset - start)
        return values.reshape(self.dims)


@dataclass(frozen=True, eq=False)
class Dense:
    """Some columns of an array, or of its transpose.

    Attributes:
        data: The array as it is stored.
        first: The first of the columns.
        stop: The column after the last.
        transposed: Whether the columns are rows of the stored array.
    """

    data: Filed | Array
    first: int
    stop: int
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        dims = self.data.dims if isinstance(self.data, Filed) else self.data.shape
        return dims[1 if self.transposed else 0], self.stop - self.first

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.data.dtype.itemsize

    def columns(self, start: int, stop: int) -> Array:
        values = self.data.open() if isinstance(self.data, Filed) else self.data
        wanted = slice(self.first + start, self.first + stop)
        found = values[wanted] if self.transposed else values[:, wanted]
        if not found.flags.aligned:  # in a file that is the model as well, of which BLAS copies all
            found = found.copy()
        return as_float32(found).T if self.transposed else as_float32(found)

    def part(self, start: int, stop: int) -> Dense:
        if isinstance(self.data, Filed):
            return replace(self, first=self.first + start, stop=self.first + stop)
        wanted = slice(self.first + start, self.first + stop)
        data = self.data[wanted] if self.transposed else self.data[:, wanted]
        return Dense(data, 0, stop - start, self.transposed)

    def opened(self) -> Dense:
        return replace(self, data=self.data.open()) if isinstance(self.data, Filed) else self

    def turned(self) -> Dense:
        dims = self.data.dims if isinstance(self.data, Filed) else self.data.shape
        if self.shape[1] != dims[0 if self.transposed else 1]:
            raise ValueError("a part of a matrix cannot be turned")
        return Dense(self.data, 0, self.shape[0], not self.transposed)


def whole(data: Filed | Array) -> Dense:
    """All columns of an array."""
    return Dense(data, 0, data.dims[1] if isinstance(data, Filed) else data.shape[1])


def stored_matrix(tensor: TensorProto, folder: Path | None) -> Stored | None:
    """The matrix that a tensor holds, in a data file or the message; None where it is no matrix.

    Raises:
        SlancError: its data is not there.
    """
    if len(tensor.dims) != 2 or tensor.data_type in PACKED:
        return None
    if tensor.data_location != TensorProto.EXTERNAL or folder is None:
        return whole(read_tensor(tensor, folder))
    file, offset, _ = external_range(tensor, folder)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return whole(Filed(file, offset, dtype, (tensor.dims[0], tensor.dims[1])))


def as_float32(values: Array) -> Array:
    """The same numbers in FP32; a view where they are FP32.

    FP16 is converted by shifting its bits, in a third of the time that NumPy takes. The exponent
    then has another bias, which a multiplication puts right, for subnormals as well.
    """
    if values.dtype != np.float16:
        return values.astype(np.float32, copy=False)
    bits = np.left_shift(values.view(np.int16), 13, dtype=np.int32)
    bits &= _EXTENDED
    numbers = bits.view(np.float32)
    numbers *= _BIASES
    flat = numbers.reshape(-1)
    if not flat @ flat < _INFINITY**2:  # only then can one be inf or nan, which came out finite
        return values.astype(np.float32)
    return numbers
