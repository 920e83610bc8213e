"""Targets by name and from TOML files, and what docs/targets.md says of them."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slanc_onnx import Accelerator, SlancError
from slanc_onnx.accelerator import ACCUMULATE, FLOAT32, FORMATS, STEPS, Format, SumOrder
from slanc_onnx.targets import DEFAULT, TARGETS, changed, read_target, target
from tests.conftest import Run
from tests.places import ROOT

DOCS = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
E4M3, BF16 = Format.named("float8_e4m3fn"), Format.named("bfloat16")
booleans = st.booleans()


def written(folder: Path, text: str) -> Path:
    path = folder / "device.toml"
    path.write_text(text, encoding="utf-8")
    return path


def toml(device: Accelerator) -> str:
    """A target file; JSON's strings, lists and booleans are TOML's."""
    fields = {key: value for key, value in device.as_dict().items() if value is not None}
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items())


def test_the_default_is_what_an_accelerator_is_without_arguments() -> None:
    assert target(DEFAULT) == Accelerator()
    assert Accelerator("pairwise", True) == TARGETS["fp16-pairwise-flush"]
    assert str(Accelerator()) == "FP16, sequential sums, subnormals kept, two-pass variance"


def test_the_profiles_are_all_different_and_know_their_names() -> None:
    assert len(set(TARGETS.values())) == len(TARGETS)
    assert all(profile.name == name for name, profile in TARGETS.items())
    assert target("fp8-e4m3") == Accelerator(input_format=E4M3)
    assert target("fp8-e4m3").largest == 65504.0  # of the sums
    assert target("bf16-fp32") == Accelerator(format=BF16).summing("fp32")


def test_what_a_step_passes_is_fp32_or_the_inputs_or_the_sums() -> None:
    device = Accelerator(input_format=E4M3, format=BF16, fp32_steps=frozenset(["square"]))
    formats = [device.format_of(step).name for step in ("input", "square", "sum")]
    assert formats == ["float8_e4m3fn", "float32", "bfloat16"]
    assert device.coarsest_roundoff == 2.0**-4
    assert Accelerator(fp32_steps=frozenset(STEPS)).coarsest_roundoff == 2.0**-24


def test_an_unknown_name_gives_the_known_ones() -> None:
    with pytest.raises(SlancError, match=r"'npu' is not known\. Known are: fp16-sequential, "):
        target("npu")


@pytest.mark.parametrize("name", TARGETS)
def test_a_file_of_a_profiles_fields_is_the_profile(name: str, tmp_path: Path) -> None:
    read = read_target(written(tmp_path, toml(TARGETS[name])))
    assert (read, read.name) == (TARGETS[name], name)


@pytest.mark.parametrize(
    ("text", "order", "form"),
    [
        ("accumulate = 'sequential'", "sequential", None),
        ("accumulate = 'pairwise'", "pairwise", None),
        ("accumulate = 'fp32'", "any", FLOAT32),
        ("accumulate = 'fp32'\nsum_order = 'pairwise'", "pairwise", FLOAT32),
        ("accumulate = 'pairwise'\nsum_format = 'float32'", "pairwise", FLOAT32),
        ("sum_format = 'bfloat16'", "sequential", BF16),
        ("sum_order = 'any'\nsum_format = 'float32'", "any", FLOAT32),
    ],
)
def test_the_order_and_the_accumulator_of_a_sum_are_two_keys_that_a_short_one_sets(
    text: str, order: SumOrder, form: Format | None, tmp_path: Path
) -> None:
    device = read_target(written(tmp_path, text))
    assert (device.sum_order, device.sum_format) == (order, form)
    again = read_target(written(tmp_path, toml(device)))
    assert again == device


def test_sums_are_told_by_their_short_name_and_by_the_accumulator_where_that_does_not_say_it() -> (
    None
):
    for name in ACCUMULATE:
        device = Accelerator(flush_subnormals=True).summing(name)
        assert (device.accumulate, device.sums) == (name, name)
    tree = Accelerator("pairwise", sum_format=FLOAT32)
    assert (tree.accumulate, tree.accumulator) == ("pairwise", FLOAT32)
    assert str(tree) == "FP16, pairwise FP32 sums, subnormals kept, two-pass variance"
    assert Accelerator(fp32_steps=frozenset(["sum"])).accumulator == FLOAT32
    with pytest.raises(
        SlancError, match=r"'fp32' is not known\. Known are: sequential, pairwise, "
    ):
        Accelerator("fp32")  # type: ignore[arg-type]


def test_a_narrow_accumulator_limits_the_window_and_the_tolerance() -> None:
    device = Accelerator(sum_format=E4M3)
    assert device.square_limits(8) == (448.0, max(2.0**-14, 2.0**-6 / 8))
    assert device.coarsest_roundoff == 2.0**-4
    wide = Accelerator("pairwise", sum_format=FLOAT32)
    assert wide.square_limits(8) == Accelerator().square_limits(8)


def test_an_empty_file_is_the_default_by_the_files_name(tmp_path: Path) -> None:
    read = read_target(written(tmp_path, ""))
    assert (read, read.name) == (Accelerator(), "device")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acumulate = 'fp32'", r"'acumulate' is not known. Known are: name, accumulate, sum_"),
        ("accumulate = 'fp16'", r"'fp16' is not allowed. Allowed are: sequential, pairwise, fp32"),
        ("sum_order = 'fp32'", r"'fp32' is not allowed. Allowed are: sequential, pairwise, any\."),
        ("sum_format = 'fp32'", r"'fp32' is not allowed. Allowed are: float16, bfloat16, float32"),
        ("sum_order = 'any'", r"in any order need an FP32 accumulator: give sum_format"),
        ("flush_subnormals = 1", r"flush_subnormals = 1 is not allowed. Allowed are: true, false"),
        ("variance = true", r"variance = True is not allowed. Allowed are: two-pass, one-pass"),
        ("format = 'fp16'", r"format = 'fp16' is not allowed. Allowed are: float16, bfloat16"),
        ("input_format = 8", r"input_format = 8 is not allowed. Allowed are: float16"),
        ("input_format = ['float16']", r"is not allowed"),
        ("fp32_steps = 'square'", r"fp32_steps = 'square' is no list"),
        ("fp32_steps = ['root']", r"fp32_steps = 'root' is not allowed. Allowed are: input, mean"),
        ("fp32_steps = [['sum']]", r"is not allowed"),
        ("name = 8", r"name = 8 is no string"),
        ("accumulate = fp32", r"no TOML: "),
        ("accumulate = 'fp32'\naccumulate = 'fp32'", r"no TOML: "),
    ],
)
def test_a_bad_file_is_named_with_what_is_allowed(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SlancError, match=message) as error:
        read_target(path)
    assert str(error.value).startswith(f"target file {path}: ")


def test_no_file_a_folder_and_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    for name, message in (("no.toml", "no such file"), ("", "is a folder"), ("bytes.toml", "TOML")):
        with pytest.raises(SlancError, match=message):
            read_target(tmp_path / name)


@given(st.sampled_from(list(TARGETS.values())), st.none() | booleans)
def test_only_given_fields_are_changed(profile: Accelerator, flush: bool | None) -> None:
    other = changed(profile, None, flush)
    wanted = profile.flush_subnormals if flush is None else flush
    assert other.as_dict() == profile.as_dict() | {
        "flush_subnormals": wanted,
        "name": profile.name + ", changed" * (wanted != profile.flush_subnormals),
    }
    assert changed(profile, "pairwise", flush).accumulate == "pairwise"


def test_the_guide_has_a_row_for_each_target_and_says_its_fields() -> None:
    table = DOCS[: DOCS.index("## What to ask")]
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.*) \|$", table, re.MULTILINE))
    assert list(rows) == list(TARGETS)
    for name, profile in TARGETS.items():
        steps = ", ".join(profile.steps_in_fp32) if len(profile.steps_in_fp32) < 3 else None
        cells = rows[name].split(" | ")
        assert cells[:5] == [
            profile.format.name,
            (profile.input_format or profile.format).name,
            profile.sums,
            "flushed" if profile.flush_subnormals else "kept",
            profile.variance,
        ]
        assert steps is None or cells[5].strip() == (steps or "none")


def test_the_guide_names_each_key_format_and_step() -> None:
    for word in (*Accelerator().as_dict(), *FORMATS, *STEPS):
        assert f"`{word}`" in DOCS or f'"{word}"' in DOCS, word


def test_the_guides_example_is_a_target_that_runs(run: Run, tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)
    path = written(tmp_path, example)
    assert read_target(path) == Accelerator(
        "pairwise", True, "one-pass", input_format=E4M3, fp32_steps=frozenset(["square"])
    )
    status, out, _ = run("model.onnx", "--target-file", str(path))
    assert status == 0
    assert "emulated: my-npu: FP16, pairwise sums, subnormals flushed, one-pass variance" in out
