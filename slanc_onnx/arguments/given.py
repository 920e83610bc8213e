"""What arguments name, read into values: inputs, token ids, the target, and `Options` in all."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from slanc_onnx import targets, tokens
from slanc_onnx.accelerator import Accelerator
from slanc_onnx.errors import SlancError
from slanc_onnx.graph import Array
from slanc_onnx.options import Options
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
        input_ranges=dict(args.input_range),
        apply=args.apply or "div",
        to=args.to,
        keep_io_types=args.keep_io_types,
        positions=args.positions,
        external_data=args.external_data,
        emulate=args.emulate,
        epsilon=args.epsilon,
        weight_loss=args.weight_loss,
        fp32_nodes=args.fp32_nodes is not None,
        exclude=args.exclude,
        only=args.only,
        set_scale=dict(args.set_scale),
        dry_run=args.dry_run,
        require=tuple(args.require),
        jobs=args.jobs,
        time_limit=args.time_limit,
        memory_limit=args.memory_limit,
        isolate=True,
    )


def shown_options(args: argparse.Namespace, options: Options) -> dict[str, object]:
    """What the report shows as options."""
    shown = {k: v for k, v in vars(args).items() if k not in ("models", "output")}
    shown["set_scale"] = dict(args.set_scale)
    shown["feed"] = [f"{name}={feed}" for name, feed in args.feed]
    return {**shown, "accelerator": options.accelerator.as_dict()}


def read_accelerator(args: argparse.Namespace) -> Accelerator:
    """The target that was asked for, with the fields that were given apart from it."""
    default = args.to if args.to == "bf16" else targets.DEFAULT
    profile = (
        targets.target(args.target or default)
        if args.target_file is None
        else targets.read_target(Path(args.target_file))
    )
    return targets.changed(profile, args.accumulate, args.flush_subnormals)


def read_inputs(name: str | None, option: str = "--inputs") -> dict[str, Array] | None:
    if name is None:
        return None
    if not Path(name).is_file():
        raise SlancError(f"{option} {name}: no such file.")
    try:
        with open(name, "rb") as opened:
            file = np.load(opened, allow_pickle=False)
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # NumPy raises whatever zipfile, zlib and its parsers do
        raise SlancError(
            f"{option} {name}: not an .npz file of arrays. Write one with numpy.savez(file, "
            "name=array, ...)."
        ) from error
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy gives the bytes of what is no .npy
            raise SlancError(
                f"{option} {name}: its member {key!r} is no array. Write the file with "
                "numpy.savez(file, name=array, ...)."
            )
    return arrays


def read_tokens(
    name: str | None, args: argparse.Namespace, option: str = "--tokens"
) -> Tokens | None:
    if name is None:
        return None
    length, most = args.sequence_length or 1024, args.max_sequences or 4
    return tokens.read_tokens(Path(name), length, most, args.bos, option)


def read_observed(args: argparse.Namespace) -> dict[str, Array] | Tokens | None:
    """Token ids or inputs, by how the file's name ends."""
    if args.observe is not None and Path(args.observe).suffix == ".npy":
        return read_tokens(args.observe, args, "--observe")
    return read_inputs(args.observe, "--observe")
