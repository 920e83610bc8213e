"""The parser: every option."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, get_args

from rich.console import Console

from slanc_onnx._version import __version__
from slanc_onnx.accelerator import ACCUMULATE
from slanc_onnx.arguments.usage import Once
from slanc_onnx.config import power_of_two
from slanc_onnx.errors import SlancError
from slanc_onnx.feed import SPECS, Feed, read_feed
from slanc_onnx.options import TIME_LIMIT, Merge
from slanc_onnx.report import BY_SUFFIX, FORMATS, targets_table

# As README's table has it.
EXIT_STATUS = {
    0: "what was asked for holds (--no-validate and --dry-run ask for no validation); the model is "
    "written, if it has norms or with --to, and not with --dry-run",
    1: "validation failed or could not be done, something that looks like a norm was not "
    "understood, every norm was skipped, or what --require names does not hold: the last line says "
    "which, and what else could not be written; the model is written as with 0, whole",
    2: "bad usage or bad input; nothing is written",
    3: "as 0, but a report, the page, the sidecar, the list of FP32 nodes or standard output could "
    "not be written: the message names it",
    4: "a bug in slanc-onnx; nothing is written, --traceback shows where it happened",
    129: "SIGHUP; the output is the old or the new one, whole",
    130: "Ctrl-C; the same",
    143: "SIGTERM; the same",
}


_MOST_DIGITS = 10  # of a size


class Terminal(Console):
    """A console that leaves it to the command what it means that nobody reads on."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _Parser(argparse.ArgumentParser):
    """Says so where what --help prints cannot be written."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout and file is not None:
            file.write(message)
        else:
            super()._print_message(message, file)


def make_parser() -> argparse.ArgumentParser:
    """All options of the command."""
    parser = _Parser(
        prog="slanc-onnx",
        usage="%(prog)s MODEL.onnx [-o OUT.onnx] [option ...]",
        description="Make the LayerNorms, RMSNorms, GroupNorms and L2 normalisations of an ONNX "
        "model safe in FP16: insert a static scale before each, computed from the weights, and "
        "show that the model stays the same.",
        allow_abbrev=False,  # a script that says --rep breaks with the next option
        epilog="Exit status: "
        + " ".join(f"{status}: {text}." for status, text in EXIT_STATUS.items()),
    )
    parser.set_defaults(accelerator=None, search_fp32_nodes=False)
    _add_inputs(parser)
    _add_scales(parser)
    _add_target(parser)
    _add_certificates(parser)
    _add_output(parser)
    _add_validation(parser)
    _add_reports(parser)
    parser.add_argument("--version", action="version", version=f"slanc-onnx {__version__}")
    return parser


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("input").add_argument
    add(
        "models",
        metavar="MODEL.onnx",
        nargs="+",
        help="the model; external data stays where it is. With several, each is a job of its own, "
        "and -o, --report, --html, --sidecar and --fp32-nodes name folders. Or a folder of "
        "onnxruntime-genai, with all models that its genai_config.json names",
    )
    add(
        "--config",
        metavar="FILE.toml|FILE.json",
        help="options from a file, by the names of the fields of slanc_onnx.Options; what the "
        "command says itself counts more",
    )
    add(
        "--feed",
        type=_feed,
        action="append",
        default=[],
        metavar="NAME=SPEC",
        help="what an input holds: range(LO,HI), ids(LO,HI) with HI exclusive, normal(MEAN,STD), "
        "or FILE.npy. Estimates and validation take it from there, and certificates hold if it "
        "stays within a range (repeatable)",
    )
    add(
        "--dim",
        type=_dim,
        action="append",
        default=[],
        metavar="NAME=N",
        help="the size of an axis that the file leaves open, by its name or INPUT:AXIS "
        "(repeatable)",
    )
    add(
        "--input-range",
        type=_range,
        action="append",
        default=[],
        metavar="NAME=LO,HI",
        help="deprecated: --feed 'NAME=range(LO,HI)'",
    )


def _add_scales(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("scales").add_argument
    add(
        "--exclude",
        action=Once,
        metavar="REGEX",
        help="leave norms alone in whose name it is found, and accept them, and suspects likewise",
    )
    add("--only", action=Once, metavar="REGEX", help="leave all others alone, and accept them")
    add(
        "--set-scale",
        type=_scale,
        action="append",
        default=[],
        metavar="NAME=2^K",
        help="the scale of a norm, by its name, instead of the one that would be chosen; with "
        "--apply fold that of its group (repeatable)",
    )
    add(
        "--scale",
        choices=("window", "paper", "calibrated"),
        default="window",
        help="a power of two between overflow and underflow (default), the paper's equations, or "
        "the same window by median and maximum over --inputs or --tokens",
    )
    add(
        "--estimate",
        choices=("auto", "probe", "weights"),
        default="auto",
        help="where the window comes from: random token ids through the model, the weights "
        "alone, or the first of these that works here (default)",
    )
    add(
        "--minimal",
        action="store_true",
        help="1, so nothing, wherever that is safe on the evidence that the scale has; with "
        "--require certified not where it would cost a certificate",
    )


def _add_target(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("target")
    add = group.add_argument
    device = group.add_mutually_exclusive_group()
    device.add_argument(
        "--target", metavar="NAME", help="the accelerator (default fp16-sequential)"
    )
    device.add_argument("--target-file", metavar="FILE.toml", help="one that is not in the table")
    add("--list-targets", action=_ListTargets, help="print the table of targets and exit")
    add(
        "--accumulate",
        choices=tuple(ACCUMULATE),
        help="how it sums (default: as the target does)",
    )
    add(
        "--flush-subnormals",
        action=argparse.BooleanOptionalAction,
        help="whether it turns subnormal results into zero (default: as the target does)",
    )


def _add_certificates(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("proof").add_argument
    add(
        "--certify",
        choices=("auto", "exact", "tokens", "off"),
        default="auto",
        help="bound every norm over all inputs; exact: with the tight norms of large matrices too; "
        "tokens: also run every token of the vocabulary alone",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add(
        "-o",
        "--output",
        metavar="OUT.onnx",
        help="default: MODEL.slanc.onnx, or FOLDER.slanc, beside the input",
    )
    add("--dry-run", action="store_true", help="decide and report, but write no model")
    add(
        "--apply",
        choices=("div", "fold"),
        help="where the scale goes: a Div before each norm (default), or into the weights before "
        "it, so that nothing is added to run",
    )
    add(
        "--epsilon",
        choices=("exact", "representable"),
        help="exact: divided by the square of the scale; representable: not below what the target "
        "keeps (default: exact, unless a row of zeros is seen that it would make nan)",
    )
    add(
        "--to",
        choices=("fp16", "bf16"),
        help="write a file whose floats all have 16 bits, wherever the schemas of its ops take "
        "that; implies --apply fold and --emulate all",
    )
    add(
        "--keep-io-types",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="with --to: whether inputs and outputs of the model stay FP32 (default: they do)",
    )
    add(
        "--positions",
        type=int,
        metavar="N",
        help="with --to: positions for which there are tables of angles (default: what the model "
        "or its configuration says)",
    )
    add(
        "--external-data",
        choices=("auto", "yes", "no"),
        default="auto",
        help="whether the weights of the output lie in a file of their own (default: as in MODEL)",
    )
    _add_fold(add)


def _add_fold(add: Callable[..., argparse.Action]) -> None:
    """What goes on after a fold, in the same group."""
    add(
        "--merge",
        choices=get_args(Merge),
        action="append",
        default=[],
        help="with --apply fold or --to: also merge gamma and beta into the next weights, or take "
        "the mean out of the weights before, so that a LayerNorm is an RMSNorm, or divide by the "
        "root after the products; weights are rounded once (repeatable)",
    )
    add("--explain-groups", action="store_true", help="with --apply fold: print what is divided")
    add(
        "--weight-loss",
        type=float,
        metavar="FRACTION",
        default=0.0,
        help="with --apply fold: divide 16-bit weights though elements become subnormal, as long "
        "as the Frobenius norm of the error is at most this fraction of the weight's (default 0)",
    )


def _add_validation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("validation").add_argument
    add(
        "--emulate",
        choices=("norms", "all"),
        default="norms",
        help="what validation rounds to FP16: each step of the norms (default), or of everything",
    )
    add(
        "--fp32-nodes",
        metavar="FILE",
        help="list for other tools the fewest nodes that have to stay in FP32 where all else is in "
        "FP16, found by trying; implies --emulate all, and nodes without names get some",
    )
    by = ", ".join(f"{name} ({suffix})" for suffix, name in BY_SUFFIX.items())
    add("--fp32-nodes-format", choices=FORMATS, help=f"{by}; default: by how FILE ends")
    add("--inputs", metavar="FILE.npz", help="validation inputs by name (default: made to fit)")
    add(
        "--tokens",
        metavar="IDS.npy",
        help="token ids of a causal language model: validate on them and add the perplexity table",
    )
    add(
        "--observe",
        metavar="FILE",
        help="audit the scales on inputs (.npz) or token ids (.npy): rows outside, largest rows",
    )
    add("--sequence-length", type=int, metavar="N", help="ids per sequence (default 1024)")
    add("--max-sequences", type=int, metavar="N", help="sequences to run (default 4)")
    add("--bos", type=int, metavar="ID", help="id to put at the head of each sequence")
    add("--jobs", type=int, metavar="N", help="threads that read weights (default: all processors)")
    add("--no-validate", action="store_true", help="do not run the models")
    add(
        "--require",
        choices=("validated", "scaled", "certified"),
        action="append",
        default=[],
        help="exit with 1 unless the validation passed, or all norms are scaled, or certified, "
        "but for those that --exclude and --only leave alone (repeatable)",
    )
    add(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        default=TIME_LIMIT,
        help="for the probe, audit, validation and --fp32-nodes, each (default %(default)g)",
    )
    add(
        "--memory-limit",
        type=float,
        metavar="GB",
        help="for each of them (default: 1.5 and sixteen times the model's size)",
    )


def _add_reports(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("report").add_argument
    add("--report", metavar="FILE.json", help="write the machine-readable report; -: to stdout")
    add("--sidecar", metavar="FILE.json", help="write what a kernel or a compiler has to know")
    add("--html", metavar="FILE.html", help="write the report to look at; needs matplotlib")
    add(
        "-q",
        "--quiet",
        action="count",
        default=0,
        help="no table, no progress; twice: nothing on stdout",
    )
    add("--traceback", action="store_true", help="with exit status 4: show where it happened")
    add(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="list every norm, with all columns that fit, and log each stage; twice: log more",
    )


def _range(text: str) -> tuple[str, tuple[float, float]]:
    """NAME=LO,HI as the name and the two numbers."""
    name, _, numbers = text.rpartition("=")
    try:
        low, high = (float(number) for number in numbers.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not (name and low <= high and math.isfinite(high - low)):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=LO,HI with numbers LO <= HI")
    return name, (low, high)


def _feed(text: str) -> tuple[str, Feed]:
    """NAME=SPEC as the name and the feed; names may hold "=" too."""
    name, equals, spec = text.rpartition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SPEC with {SPECS}")
    try:
        return name, read_feed(spec)
    except SlancError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error


def _scale(text: str) -> tuple[str, float]:
    """NAME=2^K, or a power of two in figures, as the name and the scale."""
    name, _, number = text.rpartition("=")
    scale = power_of_two(number)
    if not (name and scale):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=2^K with a whole number K")
    return name, scale


def _dim(text: str) -> tuple[str, int]:
    """NAME=N as the name and the number."""
    name, _, number = text.rpartition("=")
    if not (name and number.isdecimal() and len(number) < _MOST_DIGITS):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=N with a whole number N")
    return name, int(number)


class _ListTargets(argparse.Action):
    """Prints the table of targets and exits, as --version does."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        width = None if sys.stdout is not None and sys.stdout.isatty() else 200
        Terminal(width=width, highlight=False, markup=False, emoji=False).print(targets_table())
        parser.exit()
