"""What arguments name, read into values: inputs, token ids, the target, and `Options` in all."""

from __future__ import annotations

import argparse
from pathlib import Path

from slanc_onnx import targets, tokens
from slanc_onnx.accelerator import Accelerator
from slanc_onnx.config import LENGTH, MOST, read_arrays
from slanc_onnx.graph import Array
from slanc_onnx.options import Options, ToldRanges
from slanc_onnx.tokens import Tokens


def read_options(args: argparse.Namespace) -> Options:
    """How the job is done.

    Raises:
        SlancError: a file that is named cannot be read.
    """
    return Options(
        scale=args.scale,
        estimate=args.estimate,
        accelerator=read_accelerator(args),
        inputs=read_inputs(args.inputs),
        tokens=read_tokens(args.tokens, args),
        observe=read_observed(args),
        validate=not args.no_validate,
        certify=args.certify,
        feeds=dict(args.feed),
        dims=dict(args.dim),
        input_ranges=ToldRanges(args.input_range),
        apply=args.apply or "div",
        to=args.to,
        keep_io_types=args.keep_io_types,
        positions=args.positions,
        external_data=args.external_data,
        emulate=args.emulate,
        epsilon=args.epsilon,
        weight_loss=args.weight_loss,
        merge=tuple(args.merge),
        fp32_nodes=args.fp32_nodes is not None or args.search_fp32_nodes,
        exclude=args.exclude,
        only=args.only,
        set_scale=dict(args.set_scale),
        minimal=args.minimal,
        dry_run=args.dry_run,
        require=tuple(args.require),
        jobs=args.jobs,
        time_limit=args.time_limit,
        memory_limit=args.memory_limit,
        isolate=True,
    )


_NOT_SHOWN = ("models", "output", "search_fp32_nodes")


def shown_options(args: argparse.Namespace, options: Options) -> dict[str, object]:
    """What the report shows as options."""
    shown = {k: v for k, v in vars(args).items() if k not in _NOT_SHOWN}
    shown["set_scale"] = dict(args.set_scale)
    shown["feed"] = [f"{name}={feed}" for name, feed in args.feed]
    return {**shown, "accelerator": options.accelerator.as_dict()}


def read_accelerator(args: argparse.Namespace) -> Accelerator:
    """The target that was asked for, with the fields that were given apart from it."""
    if args.accelerator is not None and args.target is None and args.target_file is None:
        return targets.changed(args.accelerator, args.accumulate, args.flush_subnormals)
    default = args.to if args.to == "bf16" else targets.DEFAULT
    profile = (
        targets.target(args.target or default)
        if args.target_file is None
        else targets.read_target(Path(args.target_file))
    )
    return targets.changed(profile, args.accumulate, args.flush_subnormals)


def read_inputs(name: str | None, option: str = "--inputs") -> dict[str, Array] | None:
    return None if name is None else read_arrays(name, option)


def read_tokens(
    name: str | None, args: argparse.Namespace, option: str = "--tokens"
) -> Tokens | None:
    if name is None:
        return None
    length, most = args.sequence_length or LENGTH, args.max_sequences or MOST
    return tokens.read_tokens(Path(name), length, most, args.bos, option)


def read_observed(args: argparse.Namespace) -> dict[str, Array] | Tokens | None:
    """Token ids or inputs, by how the file's name ends."""
    if args.observe is not None and Path(args.observe).suffix == ".npy":
        return read_tokens(args.observe, args, "--observe")
    return read_inputs(args.observe, "--observe")
