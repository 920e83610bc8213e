"""Usage: what makes no sense together, and what one option implies for another."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slanc_onnx.arguments.jobs import STDOUT, names_folders
from slanc_onnx.report import BY_SUFFIX

_FILES = ("report", "html", "sidecar", "fp32_nodes", "target_file", "inputs", "tokens", "observe")


class Once(argparse.Action):
    """Stores an expression, and refuses a second one, which would replace the first."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:
        super().__init__(option_strings, dest, **more)
        self._given = False

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if self._given:
            parser.error(f"{option_string}: given twice; join both as 'ONE|OTHER'")
        self._given = True
        setattr(namespace, self.dest, values)


def check_usage(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse, as argparse does, options that make no sense together."""
    _check_names(parser, args)
    if args.tokens is None and args.observe is None:
        for name in ("sequence_length", "max_sequences", "bos"):
            if getattr(args, name) is not None:
                parser.error(f"--{name.replace('_', '-')}: only goes with --tokens or --observe")
    if names_folders(args) and args.report == STDOUT:
        parser.error(
            f"--report {STDOUT}: standard output takes the report of one model; name a folder"
        )
    _check_to(parser, args)
    if args.apply == "fold" and args.scale == "paper" and args.to is None:
        parser.error("--apply fold: needs powers of two, which --scale paper does not give")
    if args.minimal and args.scale == "paper":
        parser.error("--minimal: needs the limits of a window, which --scale paper does not have")
    if args.merge and args.apply != "fold":
        parser.error("--merge: only goes with --apply fold or --to, which it continues")
    if args.explain_groups and args.apply != "fold":
        parser.error("--explain-groups: only goes with --apply fold")
    if args.scale == "calibrated" and args.tokens is None and args.inputs is None:
        parser.error("--scale calibrated: takes its scales from data, give --inputs or --tokens")
    if (
        (args.no_validate or args.dry_run)
        and args.tokens is not None
        and args.scale != "calibrated"
    ):
        parser.error("--tokens: not allowed with --no-validate or --dry-run, which run nothing")
    _check_fp32_nodes(parser, args)
    if not args.time_limit > 0:
        parser.error("--time-limit: must be above 0")
    if args.memory_limit is not None and not args.memory_limit > 0:
        parser.error("--memory-limit: must be above 0")
    for name in ("sequence_length", "max_sequences", "jobs"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')}: must be at least 1")


def _check_names(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse names that are empty, as of a variable that is not set: the folder would be meant."""
    for option in ("output", *_FILES):
        if getattr(args, option) == "":
            name = "-o" if option == "output" else f"--{option.replace('_', '-')}"
            parser.error(f"{name}: the name of the file is empty")
    if "" in args.models:
        parser.error("MODEL.onnx: the name of the file is empty")


def _check_to(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Take what --to implies."""
    if args.positions is not None and (args.to is None or args.positions < 1):
        parser.error("--positions: a number of at least 1, with --to")
    if args.to is None and args.keep_io_types is not None:
        parser.error("--keep-io-types: only goes with --to")
    if args.keep_io_types is None:
        args.keep_io_types = True
    if args.to is None:
        return
    if args.apply == "div":
        parser.error(f"--to {args.to}: folds, which --apply div does not")
    if args.fp32_nodes is not None or args.search_fp32_nodes:
        parser.error(f"--fp32-nodes: not with --to {args.to}, which decides that and writes it")
    args.apply = "fold"


def _check_fp32_nodes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Take the format of the list by the name of its file, where it is not given."""
    file, form = args.fp32_nodes, args.fp32_nodes_format
    if file is None and form is not None:
        parser.error("--fp32-nodes-format: only goes with --fp32-nodes")
    for option in ("no_validate", "dry_run"):
        if (file is not None or args.search_fp32_nodes) and getattr(args, option):
            given = f"--{option.replace('_', '-')}"
            parser.error(f"--fp32-nodes: not allowed with {given}, which runs nothing")
    if file is not None and form is None and names_folders(args):
        parser.error("--fp32-nodes: a folder of several lists needs --fp32-nodes-format")
    if file is not None and form is None:
        args.fp32_nodes_format = BY_SUFFIX.get(Path(file).suffix.lower())
        if args.fp32_nodes_format is None:
            known = ", ".join(BY_SUFFIX)
            parser.error(f"--fp32-nodes {file}: ends in none of {known}; give --fp32-nodes-format")
