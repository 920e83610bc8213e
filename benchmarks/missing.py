"""What a measurement needs and does not find: a sentence and exit status 2, not a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from sample_models.weights import MissingPackageError
from slanc_onnx.errors import SlancError

# What brings a module that the package itself does not require.
_EXTRA = {
    "matplotlib": "pip install 'slanc-onnx[plots]'",
    "gguf": "pip install 'slanc-onnx[samples]'",
    "tokenizers": "pip install 'slanc-onnx[samples]'",
    "safetensors": "pip install 'slanc-onnx[samples]'",
    "distributed": "pip install 'slanc-onnx[dask]'",
}


def told(main: Callable[[], int]) -> int:
    """The exit status of a measurement; 2 where a file or a package is missing, and it is said."""
    try:
        return main()
    except FileNotFoundError as error:
        where = error.filename or error
        return _fail(f"{where}: no such file. benchmarks/README.md says how each is made.")
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        return _fail(f"{name} is not installed: {_EXTRA.get(name, f'pip install {name}')}")
    except (SlancError, MissingPackageError) as error:
        return _fail(str(error))


def _fail(what: str) -> int:
    print(f"ERROR: {what}", file=sys.stderr)
    return 2
