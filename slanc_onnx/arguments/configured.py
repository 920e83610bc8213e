"""Configured: the options of --config, as what the parser takes where the command says nothing."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from slanc_onnx.config import data_file, read_table
from slanc_onnx.errors import SlancError
from slanc_onnx.options import Options

_DATA = ("inputs", "tokens", "observe")  # read once, when the command is known
# The options that the command line calls otherwise.
_NAMES = {
    "feeds": "feed",
    "dims": "dim",
    "input_ranges": "input_range",
    "fp32_nodes": "search_fp32_nodes",
}


def parse(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> argparse.Namespace:
    """The words of a command, with the options of the file that --config names.

    An option that the command has counts more than the file. Of options that may be repeated those
    of both hold, and for one name that of the command.

    Raises:
        SlancError: the file states what is no option.
    """
    words = list(sys.argv[1:] if words is None else words)
    args = _parsed(parser, words)
    _refuse_twice(parser, args)
    if args.config is None:
        return args
    if not args.config:
        parser.error("--config: the name of the file is empty")
    path = Path(args.config)
    try:
        parser.set_defaults(**_defaults(read_table(path), path.parent))
    except SlancError as error:
        raise SlancError(f"--config {path}: {error}") from error
    return _parsed(parser, words)


def _parsed(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """The words; what stands behind "--" are models, whatever their names begin with.

    Where options stand before it, argparse of Python 3.11 loses such a model.
    """
    if "--" not in words:
        return parser.parse_intermixed_args(words)
    end = words.index("--")
    last = [f"./{name}" if name.startswith("-") else name for name in words[end + 1 :]]
    args = parser.parse_intermixed_args([*last, *words[:end]])  # an option takes none of them
    args.models = [*args.models[len(last) :], *last]
    return args


def _refuse_twice(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse two values for one name: of a line that was copied, one is forgotten."""
    for option in ("feed", "dim", "input_range", "set_scale"):
        said: dict[str, object] = {}
        for name, value in getattr(args, option):
            if said.setdefault(name, value) != value:
                dashed = option.replace("_", "-")
                parser.error(f"--{dashed}: {name!r} is given twice, with other values")


def _defaults(table: dict[str, object], folder: Path) -> dict[str, object]:
    """The values of a table, by the names that the parser has for them."""
    stated = {key: value for key, value in table.items() if key not in _DATA}
    with warnings.catch_warnings():  # which are for those who write Python
        warnings.simplefilter("ignore", DeprecationWarning)
        options = Options.from_mapping(stated, folder)
    found: dict[str, object] = {}
    for key in stated:
        value = getattr(options, key)
        if key == "validate":
            found["no_validate"] = not value
        elif isinstance(value, dict):
            found[_NAMES.get(key, key)] = list(value.items())
        elif isinstance(value, tuple):  # of an option that may be repeated
            found[key] = list(value)
        else:
            found[_NAMES.get(key, key)] = value
    for key in _DATA:
        if key in table:
            found[key], cut = data_file(key, table[key], folder)
            found.update(cut)
    return found
