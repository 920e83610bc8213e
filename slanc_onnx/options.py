"""Options: how the job is done, as one value."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args, get_type_hints

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.config import options_of, read_table
from slanc_onnx.errors import SlancError
from slanc_onnx.feed import Feed
from slanc_onnx.graph import Array, ExternalData
from slanc_onnx.tokens import Tokens

ScaleRule = Literal["window", "paper", "calibrated"]
EstimateRule = Literal["auto", "probe", "weights"]
Certify = Literal["auto", "exact", "tokens", "off"]
ApplyRule = Literal["div", "fold"]
EmulateRule = Literal["norms", "all"]
EpsilonRule = Literal["exact", "representable"]
Required = Literal["validated", "scaled", "certified"]
To = Literal["fp16", "bf16"]
NormPart = Literal["gamma", "mean", "division"]
Merge = Literal[NormPart, "all"]


TIME_LIMIT = 1800.0  # seconds
WRITTEN: Mapping[To, str] = {"fp16": "float16", "bf16": "bfloat16"}


class ToldRanges(dict[str, tuple[float, float]]):
    """`Options.input_ranges` where it was said, or need not be, that they are deprecated."""

    @classmethod
    def of(cls, ranges: Mapping[str, tuple[float, float]], stacklevel: int) -> ToldRanges:
        """The ranges, with a warning unless there was one.

        Args:
            ranges: By name.
            stacklevel: Of the line that gives them, as seen from here.
        """
        if ranges and not isinstance(ranges, cls):
            warnings.warn(
                "Options.input_ranges is deprecated: give feeds={name: slanc_onnx.Range(low, "
                "high)}, or 'range(LOW,HIGH)' in a file",
                DeprecationWarning,
                stacklevel + 1,
            )
        return cls(ranges)


@dataclass(frozen=True)
class Options:
    """How the job is done.

    Attributes:
        scale: "window" (a power of two between overflow and underflow), "paper", or "calibrated"
            (the window by median and maximum over `tokens` or `inputs`, which it needs).
        estimate: Where the window comes from: "probe", "weights", or "auto" for the first that
            works; a model that takes more than 4 GiB in FP32 is not probed then.
        accelerator: What is protected and emulated.
        observe: Inputs by name or token ids on which the scales are audited; None for no audit.
        inputs: Inputs by name, for probing (shapes) and validation; None to make them.
        tokens: Token ids of a causal language model, for validation with perplexity.
        apply: "div" puts a Div before each norm, "fold" divides the weights before it instead.
        emulate: What validation rounds: the steps of the "norms", or of "all" operations, as on a
            device that has nothing but FP16.
        epsilon: "exact" divides epsilon by the square of the scale, bit by bit; "representable"
            raises what the accelerator would not keep to what it does, so that outputs in FP32
            may differ. None for exact, unless a row of zeros is seen that it would make nan.
        fp32_nodes: Whether `protect_file` looks for the nodes that have to stay in FP32 where all
            else is rounded, which implies `emulate` "all". Nodes get names then.
        validate: Whether to validate.
        certify: Whether to bound every norm's input over all data: "auto", "exact" (tight norms of
            large matrices too), "tokens" (as "auto", and `protect_file` runs every token alone and
            holds its rows against the safe radius), or "off".
        feeds: What is known of the values of graph inputs, by name: `Range`, `Ids`, `Normal` or
            `Values`. Inputs that are made are made of it, for the probe, the estimate from the
            weights and the validation; with limits, certificates hold on the condition that inputs
            keep to them.
        dims: Sizes of axes that the file leaves open, by the name of the axis or as "INPUT:AXIS".
        input_ranges: A deprecated spelling of feeds that are a `Range`: least and largest element.
        exclude: A regular expression. Norms and suspects in whose name it is found are left as they
            are, and accepted.
        only: The same for all in whose name it is not found.
        set_scale: Scales that are set by hand, powers of two by norm name. With "fold" a group
            takes that of its norm.
        minimal: Whether a norm has the scale 1 wherever that is safe on the evidence that its scale
            has; where certificates are required, not at the price of one. A scale that an earlier
            run placed for the same target stays.
        dry_run: Whether `protect_file` writes no model, and so runs none: it decides and reports.
        require: What has to hold of the result of `protect_file`: that the validation passed, that
            all norms are scaled, or certified, of those that are not left out.
        to: The type of the floats of the file that is written, "fp16" or "bf16", which implies
            `apply` "fold" and `emulate` "all"; None for that of the input.
        keep_io_types: With `to`, whether graph inputs and outputs keep their type.
        positions: With `to`, for how many positions tables of angles are made; None for what the
            model or its configuration says.
        external_data: Whether the weights of the output lie in a file of their own: "auto" for as
            in the input.
        weight_loss: With "fold", the relative loss up to which a 16-bit weight is divided though
            elements become subnormal: the Frobenius norm of the error, over that of the weight.
            0 divides it only where that is exact.
        merge: With "fold", what else of the norms goes into the weights around them: "gamma" (with
            beta, into the next weights), "mean" (out of those before), "division" (deferred to
            after the products that read a norm without a gamma), or "all".
        executor: What works on blocks of large matrices, for example a
            `concurrent.futures.ProcessPoolExecutor` or that of a Dask client; None for a thread on
            every processor. The result does not depend on it.
        jobs: How many threads, where there is no executor.
        time_limit: Seconds that the probe, the audit, the validation and the search for FP32 nodes
            have on ONNX Runtime, each; None for no limit.
        memory_limit: GB of memory that each of them has in a process of its own; None for 1.5 and
            sixteen times the bytes of the model.
        isolate: Whether these have a process of their own, so that a model that ends ONNX Runtime
            does not end the caller. It needs `fork`, and takes some milliseconds.
    """

    scale: ScaleRule = "window"
    estimate: EstimateRule = "auto"
    accelerator: Accelerator = field(default_factory=Accelerator)
    observe: Mapping[str, Array] | Tokens | None = None
    inputs: Mapping[str, Array] | None = None
    tokens: Tokens | None = None
    validate: bool = True
    certify: Certify = "auto"
    feeds: Mapping[str, Feed] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    input_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    apply: ApplyRule = "div"
    emulate: EmulateRule = "norms"
    epsilon: EpsilonRule | None = None
    fp32_nodes: bool = False
    exclude: str | None = None
    only: str | None = None
    set_scale: Mapping[str, float] = field(default_factory=dict)
    minimal: bool = False
    dry_run: bool = False
    require: Collection[Required] = ()
    to: To | None = None
    keep_io_types: bool = True
    positions: int | None = None
    external_data: ExternalData = "auto"
    weight_loss: float = 0.0
    merge: Collection[Merge] = ()
    executor: Executor | None = None
    jobs: int | None = None
    time_limit: float | None = TIME_LIMIT
    memory_limit: float | None = None
    isolate: bool = False

    def __post_init__(self) -> None:
        """Say what is deprecated, at the line that makes the options."""
        object.__setattr__(self, "input_ranges", ToldRanges.of(self.input_ranges, 3))

    @classmethod
    def from_mapping(cls, table: Mapping[str, object], folder: str | Path = "") -> Options:
        """The options that a table states, as a TOML or JSON file gives it.

        Its keys are the fields, without `executor` and `isolate`. `accelerator` is the name of a
        target or a table as in a target file, a feed a SPEC, a scale a number or "2^K"; `inputs`,
        `tokens` and `observe` name files, and token ids may be a table with "file",
        "sequence_length", "max_sequences" and "bos".

        Args:
            table: The table.
            folder: What the names of files are relative to.

        Raises:
            SlancError: a key is not known, a value is of another type, or a file cannot be read.
        """
        return cls._of(table, Path(folder), 3)

    @classmethod
    def from_file(cls, path: str | Path) -> Options:
        """The options in a TOML or JSON file; see `from_mapping`.

        Names of files in it are relative to its folder.

        Raises:
            SlancError: it cannot be read, or states something else.
        """
        path = Path(path)
        try:
            return cls._of(read_table(path), path.parent, 3)
        except SlancError as error:
            raise SlancError(f"{path}: {error}") from error

    @classmethod
    def _of(cls, table: Mapping[str, object], folder: Path, stacklevel: int) -> Options:
        values = options_of(table, get_type_hints(cls), folder)
        if "input_ranges" in values:
            values["input_ranges"] = ToldRanges.of(values["input_ranges"], stacklevel)
        return cls(**values)

    def implied(self) -> Options:
        """The options with all that they imply.

        Raises:
            SlancError: something else was asked for, or the accelerator has another format; or
                `merge` without "fold".
        """
        if self.minimal and self.scale == "paper":
            raise SlancError(
                "--minimal: needs the limits of a window, which --scale paper has not."
            )
        if self.merge and self.apply != "fold" and self.to is None:
            raise SlancError(
                f"--merge {self.merged_parts[0]}: only goes with --apply fold, which it continues."
            )
        if self.to is None:
            return self
        form = WRITTEN[self.to]
        if self.accelerator.format.name != form:
            raise SlancError(
                f"--to {self.to}: the target computes in {self.accelerator.format}. Give a "
                "--target of that format; --list-targets shows them."
            )
        if self.scale == "paper":
            raise SlancError(f"--to {self.to}: folds, and --scale paper gives no powers of two.")
        epsilon = self.epsilon or "representable"
        return replace(self, apply="fold", emulate="all", epsilon=epsilon)

    @property
    def merged_parts(self) -> tuple[NormPart, ...]:
        """The parts of norms that are merged."""
        parts: tuple[NormPart, ...] = get_args(NormPart)
        return tuple(part for part in parts if part in self.merge or "all" in self.merge)

    @property
    def everything(self) -> bool:
        """Whether validation rounds all operations."""
        return self.emulate == "all" or self.fp32_nodes

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """Least and largest element of the graph inputs whose feeds tell them, by name."""
        told = {name: feed.limits for name, feed in self.feeds.items()}
        return {name: limits for name, limits in told.items() if limits is not None}

    @property
    def least_epsilon(self) -> dict[int, float]:
        """What a divided epsilon is raised to at least, by the power of the scale that divides it;
        empty where it is exact."""
        if self.epsilon != "representable":
            return {}
        return {power: self.accelerator.least_epsilon(power) for power in (1, 2)}

    def leaves_out(self, name: str) -> bool:
        """Whether a norm or suspect of that name is excluded."""
        if self.only is not None and re.search(self.only, name) is None:
            return True
        return self.exclude is not None and re.search(self.exclude, name) is not None
