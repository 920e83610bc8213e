"""Options from a file: each field of `Options`, by its name, with the command line above it."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slanc_onnx import Options, SlancError
from slanc_onnx.arguments import make_parser, read_options
from slanc_onnx.arguments.configured import parse
from slanc_onnx.cli.process import BAD_INPUT, PASSED
from slanc_onnx.config import IN_PYTHON
from slanc_onnx.feed import Ids, Normal, Range
from slanc_onnx.targets import target
from tests.conftest import Run

TOML = """
scale = "calibrated"
estimate = "weights"
accelerator = "fp16-pairwise-flush"
inputs = "inputs.npz"
observe = "inputs.npz"
validate = false
certify = "off"
apply = "fold"
emulate = "all"
epsilon = "exact"
fp32_nodes = false
exclude = "head"
only = "layer"
minimal = true
merge = ["gamma"]
dry_run = true
require = ["scaled", "certified"]
keep_io_types = true
external_data = "yes"
weight_loss = 0.25
jobs = 2
time_limit = 60
memory_limit = 3.5
[feeds]
pixels = "range(-3, 3)"
ids = "ids(0, 9)"
sound = "normal(0, 2)"
[dims]
batch = 3
[input_ranges]
more = [-1, 2.5]
[set_scale]
"a norm/name" = "2^-3"
other = 8
"""
SAME: dict[str, Any] = {
    "scale": "calibrated",
    "estimate": "weights",
    "accelerator": target("fp16-pairwise-flush"),
    "validate": False,
    "certify": "off",
    "apply": "fold",
    "emulate": "all",
    "epsilon": "exact",
    "exclude": "head",
    "only": "layer",
    "minimal": True,
    "merge": ("gamma",),
    "dry_run": True,
    "require": ("scaled", "certified"),
    "external_data": "yes",
    "weight_loss": 0.25,
    "jobs": 2,
    "time_limit": 60.0,
    "memory_limit": 3.5,
    "feeds": {"pixels": Range(-3, 3), "ids": Ids(0, 9), "sound": Normal(0, 2)},
    "dims": {"batch": 3},
    "input_ranges": {"more": (-1.0, 2.5)},
    "set_scale": {"a norm/name": 0.125, "other": 8.0},
}
IDS = np.arange(64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with options and the data that they name, which is not the one of the command."""
    there = tmp_path / "there"
    there.mkdir()
    np.savez(there / "inputs.npz", ids=np.zeros((1, 3), np.int64), deep=np.array(True))
    np.save(there / "ids.npy", IDS)
    return there


def without_data(options: Options) -> dict[str, Any]:
    fields = (field.name for field in dataclasses.fields(options))
    data = ("inputs", "observe", "tokens", "isolate")
    return {name: getattr(options, name) for name in fields if name not in data}


@pytest.mark.filterwarnings("ignore:Options.input_ranges:DeprecationWarning")
@pytest.mark.parametrize("kind", ["toml", "json"])
def test_a_file_states_what_python_does(folder: Path, kind: str) -> None:
    import tomllib

    file = folder / f"o.{kind}"
    file.write_text(TOML if kind == "toml" else json.dumps(tomllib.loads(TOML)))
    by_library = Options.from_file(file)
    by_command = read_options(parse(make_parser(), ["m.onnx", "--config", str(file)]))
    for options in (by_library, by_command):
        assert without_data(options) == without_data(Options(**SAME))
        for read in (options.inputs, options.observe):
            assert isinstance(read, dict) and set(read) == {"ids", "deep"}


def test_every_field_can_be_stated() -> None:
    fields = {field.name for field in dataclasses.fields(Options)}
    stated = set(re.findall(r"^\[?(\w+)", TOML, re.MULTILINE))
    values = {"pixels", "ids", "sound", "batch", "more", "other"}
    assert fields - set(IN_PYTHON) == (stated - values) | {"to", "positions", "tokens"}
    others = Options.from_mapping({"to": "fp16", "positions": 64, "keep_io_types": False})
    assert (others.to, others.positions, others.keep_io_types) == ("fp16", 64, False)


@pytest.mark.parametrize(
    ("stated", "shape"),
    [("ids.npy", None), ({"file": "ids.npy", "sequence_length": 8, "bos": 7}, (4, 8))],
)
def test_token_ids_are_a_file_or_a_table(
    folder: Path, stated: object, shape: tuple[int, int] | None
) -> None:
    (folder / "o.json").write_text(json.dumps({"tokens": stated}))

    def of_library() -> Options:
        return Options.from_file(folder / "o.json")

    def of_command() -> Options:
        args = parse(make_parser(), ["m.onnx", "--config", str(folder / "o.json")])
        return read_options(args)

    for read in (of_library, of_command):
        if shape is None:
            with pytest.raises(SlancError, match="64 ids are too few"):
                read()
            continue
        options = read()
        assert options.tokens is not None and options.tokens.ids.shape == shape
        assert set(options.tokens.ids[:, 0]) == {7}


def test_a_target_may_be_a_table() -> None:
    table = {"format": "bfloat16", "accumulate": "pairwise"}
    found = Options.from_mapping({"accelerator": table}).accelerator
    assert (str(found.format), found.sum_order) == ("BF16", "pairwise")


def test_the_command_line_counts_more(folder: Path) -> None:
    (folder / "o.toml").write_text(TOML)

    def read(*words: str) -> Options:
        return read_options(parse(make_parser(), ["m", "--config", f"{folder}/o.toml", *words]))

    assert read("--scale", "window", "--jobs", "1").scale == "window"
    assert read("--jobs", "1").jobs == 1
    assert read("--target", "bf16").accelerator == target("bf16")
    changed = read("--accumulate", "sequential").accelerator
    assert (changed.sum_order, changed.flush_subnormals) == ("sequential", True)
    assert read("--set-scale", "other=2").set_scale == {"a norm/name": 0.125, "other": 2.0}
    assert read("--feed", "ids=ids(0,2)").feeds["ids"] == Ids(0, 2)
    assert read("--feed", "ids=ids(0,2)").feeds["pixels"] == Range(-3, 3)
    assert read("--merge", "mean").merge == ("gamma", "mean")
    assert set(read("--require", "validated").require) == {"scaled", "certified", "validated"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"set_scales": {}}, "set_scales: is no option. The nearest is set_scale."),
        ({"set-scale": {}}, "The nearest is set_scale."),
        ({"feed": {}}, "The nearest is feeds."),
        ({"target": "bf16"}, "The nearest is accelerator."),
        ({"no_validate": True}, "The nearest is validate."),
        ({"sequence_length": 8}, "The nearest is tokens, as a table"),
        ({"executor": 1}, "executor: is given in Python, not in a file."),
        ({"isolate": True}, "isolate: is given in Python, not in a file."),
        ({"scale": "windw"}, 'scale: must be one of window, paper, calibrated, not "windw". The'),
        ({"output": "x.onnx"}, "output: which files are written is said by the command alone."),
        ({"sidecar": "x.json"}, "sidecar: which files are written is said by the command alone."),
        ({"scale": 1}, "scale: must be one of window, paper, calibrated, not 1."),
        ({"scale": ["window"]}, "scale: must be one of"),
        ({"validate": "no"}, 'validate: must be true or false, not "no".'),
        ({"validate": 0}, "validate: must be true or false, not 0."),
        ({"jobs": 1.5}, "jobs: must be a whole number, not 1.5."),
        ({"jobs": True}, "jobs: must be a whole number, not true."),
        ({"weight_loss": "much"}, 'weight_loss: must be a number, not "much".'),
        ({"time_limit": None}, "time_limit: must be a number, not null."),
        ({"exclude": 3}, "exclude: must be text, not 3."),
        ({"only": ["a"]}, "only: must be text, not a list."),
        ({"require": "scaled"}, 'require: must be a list, not "scaled".'),
        ({"require": ["scale"]}, "require: must be one of validated, scaled, certified"),
        ({"dims": [1]}, "dims: must be a table, not a list."),
        ({"dims": {"n": "4"}}, 'dims.n: must be a whole number, not "4".'),
        ({"set_scale": {"n": 3}}, "set_scale.n: must be 2^K with a whole number K, not 3."),
        ({"set_scale": {"n": "2^x"}}, "set_scale.n: must be 2^K with a whole number K"),
        ({"input_ranges": {"x": 1}}, "input_ranges.x: must be a list of 2, not 1."),
        ({"input_ranges": {"x": [1, "b"]}}, "input_ranges.x: must be a number"),
        ({"feeds": {"x": "rang(0,1)"}}, "feeds.x: rang(0,1): is not"),
        ({"feeds": {"x": "x.npy"}}, "x.npy: no such file."),
        ({"feeds": {"x": 1}}, "feeds.x: must be text, not 1."),
        ({"accelerator": 1}, "accelerator: must be the name of a target or a table"),
        ({"accelerator": "fp15"}, "target 'fp15' is not known"),
        ({"accelerator": {"sums": 1}}, "accelerator: key 'sums' is not known"),
        ({"inputs": "i.npz"}, "i.npz: no such file."),
        ({"tokens": {"length": 8}}, "tokens.length: is not known. The nearest is sequence_length."),
        ({"tokens": {"bos": 8}}, "tokens.file: is missing, the name of the file."),
        ({"tokens": {"file": 8}}, "tokens.file: must be text, not 8."),
    ],
    ids=str,
)
def test_what_is_no_option_is_bad_input(
    run: Run, table: dict[str, object], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "o.json"
    file.write_text(json.dumps(table))
    with pytest.raises(SlancError) as error:
        Options.from_file(file)
    assert message in str(error.value) and str(file) in str(error.value)
    status, out, err = run("model.onnx", "--config", "o.json")
    assert (status, out) == (BAD_INPUT, "")
    assert message in err and err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "o.json"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("o.toml", "scale = ", "no TOML: "),
        ("o.json", "{", "no JSON: "),
        ("o.json", "[]", "holds no table of options, but a list."),
        ("o.json", "[" * 100_000, "no JSON: "),
        ("o.yaml", "", "its name ends in none of .toml, .json."),
        ("none.json", None, "No such file"),
        ("m.onnx", "", "its name ends in none of"),
    ],
)
def test_a_file_that_cannot_be_read_is_bad_input(
    run: Run, tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    status, out, err = run("model.onnx", "--config", name)
    assert (status, out) == (BAD_INPUT, "")
    assert f"--config {name}: {message}" in err


def test_what_makes_no_sense_together_is_refused_as_ever(run: Run, tmp_path: Path) -> None:
    (tmp_path / "o.toml").write_text("scale = 'paper'\napply = 'fold'\n")
    with pytest.raises(SystemExit) as usage:
        run("model.onnx", "--config", "o.toml")
    assert usage.value.code == BAD_INPUT
    status, _, err = run("model.onnx", "--config", "o.toml", "--scale", "window", "-o", "o.toml")
    assert status == BAD_INPUT and "is the file of options" in err


def test_the_report_says_what_was_in_force(run: Run, tmp_path: Path) -> None:
    (tmp_path / "o.toml").write_text(
        "validate = false\nestimate = 'weights'\naccelerator = 'fp16-pairwise-flush'\n"
        "[set_scale]\nhot = '2^5'\n"
    )
    given = ("--config", "o.toml", "--estimate", "auto", "--report", "r.json")
    assert run("model.onnx", *given)[0] == PASSED
    report = json.loads(Path("r.json").read_text())
    options = report["options"]
    assert options["config"] == "o.toml" and options["no_validate"] is True
    assert options["estimate"] == "auto" and options["set_scale"] == {"hot": 32.0}
    assert options["accelerator"]["name"] == "fp16-pairwise-flush"
    assert next(n for n in report["norms"] if n["name"] == "hot")["scale"] == 32.0
