"""Targets: accelerators by name, and those that a vendor describes in a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar, get_args

from slanc_onnx.accelerator import (
    ACCUMULATE,
    FLOAT32,
    FORMATS,
    STEPS,
    Accelerator,
    Format,
    Step,
    SumOrder,
    Variance,
)
from slanc_onnx.errors import SlancError, no_file

_T = TypeVar("_T")

DEFAULT = "fp16-sequential"

_BF16, _E4M3, _E5M2 = (Format.named(n) for n in ("bfloat16", "float8_e4m3fn", "float8_e5m2"))
_SQUARES: frozenset[Step] = frozenset(("square",))
# All that a row's sum goes through before it is one number again.
_REDUCTION: frozenset[Step] = frozenset(
    ("mean", "centred", "square", "sum", "mean_square", "variance", "deviation", "inverse")
)

_PROFILES = (
    Accelerator("sequential", name="fp16-sequential"),
    Accelerator("sequential", True, name="fp16-sequential-flush"),
    Accelerator("pairwise", name="fp16-pairwise"),
    Accelerator("pairwise", True, name="fp16-pairwise-flush"),
    Accelerator("any", sum_format=FLOAT32, name="fp16-fp32"),
    Accelerator("any", True, sum_format=FLOAT32, name="fp16-fp32-flush"),
    Accelerator("pairwise", variance="one-pass", name="fp16-one-pass"),
    Accelerator("any", fp32_steps=_SQUARES, sum_format=FLOAT32, name="fp16-exact-squares"),
    Accelerator("any", fp32_steps=_REDUCTION, sum_format=FLOAT32, name="fp16-in-out"),
    Accelerator("sequential", format=_BF16, name="bf16"),
    Accelerator("pairwise", format=_BF16, name="bf16-pairwise"),
    Accelerator("any", format=_BF16, sum_format=FLOAT32, name="bf16-fp32"),
    Accelerator("sequential", input_format=_E4M3, name="fp8-e4m3"),
    Accelerator("sequential", True, input_format=_E4M3, name="fp8-e4m3-flush"),
    Accelerator("sequential", input_format=_E5M2, name="fp8-e5m2"),
    Accelerator("sequential", True, input_format=_E5M2, name="fp8-e5m2-flush"),
)
# `--target`'s names. The FP8 ones are FP8 inputs with FP16 sums.
TARGETS: Mapping[str, Accelerator] = MappingProxyType({p.name: p for p in _PROFILES})

_KEYS = tuple(Accelerator().as_dict())


def target(name: str) -> Accelerator:
    """The profile of that name.

    Raises:
        SlancError: there is none.
    """
    if name not in TARGETS:
        raise SlancError(
            f"target {name!r} is not known. Known are: {', '.join(TARGETS)}. For another "
            "device write a target file (docs/targets.md)."
        )
    return TARGETS[name]


def read_target(path: Path) -> Accelerator:
    """The profile in a TOML file, whose keys are the fields of `Accelerator`, and `accumulate`.

    A missing key is that of the target "fp16-sequential"; a missing name is the file's.

    Raises:
        SlancError: the file cannot be read, is no TOML, or has an unknown key or value.
    """
    if not path.is_file():
        raise no_file(f"target file {path}", path, ".toml")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SlancError(f"target file {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:  # numbers of many digits, and lists in lists
        raise SlancError(f"target file {path}: no TOML: {error}.") from error
    try:
        return profile_of(table, path.stem)
    except SlancError as error:
        raise SlancError(f"target file {path}: {error}") from error


def changed(
    profile: Accelerator, accumulate: str | None, flush_subnormals: bool | None
) -> Accelerator:
    """The profile with other sums and subnormals where they are given; its name then says so.

    `accumulate` is a key of `ACCUMULATE`.
    """
    other = profile if accumulate is None else profile.summing(accumulate)
    if flush_subnormals is not None:
        other = replace(other, flush_subnormals=flush_subnormals)
    return other if other == profile else replace(other, name=f"{profile.name}, changed")


class Change(Enum):
    """A single change of a device, the cheapest first."""

    KEEP_SUBNORMALS = "keep_subnormals"
    PAIRWISE_SUMS = "pairwise_sums"
    FP32_SUMS = "fp32_sums"
    FP32_STATISTICS = "fp32_statistics"  # all that a row's sum goes through


def changes(device: Accelerator) -> dict[Change, Accelerator]:
    """The device with each single change that makes it another one, the cheapest change first."""
    changed = {
        Change.KEEP_SUBNORMALS: replace(device, flush_subnormals=False),
        Change.FP32_SUMS: device.summing("fp32"),
        Change.FP32_STATISTICS: replace(
            device.summing("fp32"), fp32_steps=device.fp32_steps | _REDUCTION
        ),
    }
    if device.sum_order == "sequential":
        changed[Change.PAIRWISE_SUMS] = replace(device, sum_order="pairwise")
    found = {change: changed[change] for change in Change if change in changed}
    return {change: other for change, other in found.items() if other != device}


def profile_of(table: Mapping[str, object], name: str) -> Accelerator:
    """The profile that a table states, as that of a target file does; see `read_target`.

    Raises:
        SlancError: it has an unknown key or value.
    """
    unknown = [key for key in table if key not in _KEYS]
    if unknown:
        raise SlancError(f"key {unknown[0]!r} is not known. Known are: {', '.join(_KEYS)}.")
    default = Accelerator(name=name)
    if not isinstance(table.get("name", name), str):
        raise SlancError(f"name = {table['name']!r} is no string.")
    sums = _choice(table, "accumulate", tuple(ACCUMULATE), default.accumulate)
    order, accumulator = ACCUMULATE[sums]
    formats = tuple(FORMATS)
    form = _choice(table, "format", formats, default.format.name)
    held = _choice(table, "input_format", formats, form)
    if "sum_format" in table:
        accumulator = Format.named(_one_of(formats, table["sum_format"], "sum_format"))
    steps = table.get("fp32_steps", [])
    if not isinstance(steps, list):
        raise SlancError(f"fp32_steps = {steps!r} is no list of steps.")
    return Accelerator(
        sum_order=_choice(table, "sum_order", get_args(SumOrder), order),
        flush_subnormals=_choice(
            table, "flush_subnormals", (True, False), default.flush_subnormals
        ),
        variance=_choice(table, "variance", get_args(Variance), default.variance),
        format=Format.named(form),
        input_format=Format.named(held) if held != form else None,
        fp32_steps=frozenset(_one_of(STEPS, step, "fp32_steps") for step in steps),
        sum_format=accumulator,
        name=str(table.get("name", name)),
    )


def _choice(table: Mapping[str, object], key: str, allowed: Sequence[_T], default: _T) -> _T:
    return _one_of(allowed, table[key], key) if key in table else default


def _one_of(allowed: Sequence[_T], value: object, key: str) -> _T:
    for one in allowed:
        if type(one) is type(value) and one == value:  # 1 is no True
            return one
    names = ", ".join(str(one).lower() if one in (True, False) else str(one) for one in allowed)
    raise SlancError(f"{key} = {value!r} is not allowed. Allowed are: {names}.")
