"""What arguments name, read into values: inputs, token ids, the target."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from slanc_onnx import targets, tokens
from slanc_onnx.accelerator import Accelerator
from slanc_onnx.errors import SlancError, no_file
from slanc_onnx.graph import Array
from slanc_onnx.tokens import Tokens


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
        raise no_file(f"{option} {name}", Path(name), ".npz")
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
