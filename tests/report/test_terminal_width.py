"""A terminal of any width: no line is wider, no word is cut, and many norms take few lines."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from rich.cells import cell_len
from rich.console import Console

from slanc_onnx import Options, Outcome, ScaledNorm, protect_file
from slanc_onnx.norms import Suspect
from slanc_onnx.options import Required
from slanc_onnx.reasons import Reason, Untaken
from slanc_onnx.report.attention import Concern, concern_of, in_order, reason_lines
from slanc_onnx.report.audit import print_audit
from slanc_onnx.report.shown import CUT, short_words, shortened, wrapped
from slanc_onnx.report.table import print_table
from slanc_onnx.report.terminal import print_summary, suspect_lines
from slanc_onnx.report.watching import Stages
from slanc_onnx.verify import Audit
from tests.conftest import Run
from tests.models.four_norms import four_norms
from tests.models.many_norms import many_norms
from tests.places import SAMPLES

WIDTHS = (80, 100, 160)


def written(show: Callable[[Console], None], width: int) -> list[str]:
    text = io.StringIO()
    show(Console(file=text, width=width, highlight=False, markup=False, emoji=False))
    return text.getvalue().splitlines()


def all_of(outcome: Outcome, width: int, verbose: bool = False) -> list[str]:
    def show(console: Console) -> None:
        print_table(console, outcome, verbose, wrap=True)
        print_summary(console, outcome, wrap=True)

    return written(show, width)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """60 norms, 3 of them skipped."""
    folder = tmp_path_factory.mktemp("many")
    onnx.save(many_norms(60, leaky=3), folder / "m.onnx")
    return protect_file(folder / "m.onnx", folder / "out.onnx")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("llama")
    return protect_file(SAMPLES / "llama_like.onnx", folder / "out.onnx")


def words(lines: list[str]) -> set[str]:
    """The words of lines: runs of letters, digits and what joins them in a number or a name."""
    return set(re.findall(r"[\w./'=,()\[\]+:|;>-]+", "\n".join(lines)))


@pytest.mark.parametrize("verbose", [False, True])
def test_no_line_is_wider_and_no_word_is_cut(many: Outcome, llama: Outcome, verbose: bool) -> None:
    for outcome in (many, llama):
        known = words(all_of(outcome, 10_000, verbose))
        parts = set(re.findall(r"[\w-]+", " ".join(known)))
        for width in WIDTHS:
            lines = all_of(outcome, width, verbose)
            assert max(map(cell_len, lines)) <= width
            lines = [line for line in lines if not line.startswith("no room here for: ")]
            for word in words(lines) - known:  # of a name that lost its middle
                assert set(re.findall(r"[\w-]+", word)) <= parts, word


@pytest.mark.parametrize("width", WIDTHS)
def test_every_norm_has_one_line_and_its_number(llama: Outcome, width: int) -> None:
    lines = written(lambda console: print_table(console, llama), width)
    assert len(lines) == 1 + len(llama.norms)
    assert [line.split()[0] for line in lines] == ["#", *map(str, range(1, 8))]


@pytest.mark.parametrize("width", WIDTHS)
def test_of_many_norms_those_in_trouble_are_listed_and_the_others_counted(
    many: Outcome, width: int
) -> None:
    lines = all_of(many, width)
    assert len(lines) < 40
    numbers = [line.split()[0] for line in lines if "STILL OVERFLOW" in line]
    assert numbers == ["58", "59", "60"]
    assert "the other 57 norms, of which none needs attention (-v lists every norm):" in lines
    [scale] = {norm.scale for norm in many.norms if norm.scale is not None}
    told = f"57 scaled by {scale:g}; rows lost 912 -> 0; 57 certified"
    assert any(line.strip().startswith(told) for line in lines)
    listed = [line for line in all_of(many, width, verbose=True) if re.match(r" *\d+  \S", line)]
    assert len(listed) == 60 and listed[0].split()[0] == "58"  # the worst first


def test_up_to_forty_norms_are_listed_with_those_in_trouble_first(tmp_path: Path) -> None:
    onnx.save(four_norms(), tmp_path / "m.onnx")
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "out.onnx")
    lines = written(lambda console: print_table(console, outcome), 80)
    assert [line.split()[1] for line in lines[1:5]] == ["plain", "hot", "mild", "inner"]


def test_what_needs_attention(many: Outcome) -> None:
    rows = {row.number: row for row in many.rows}
    good, lost = rows[1], rows[60]
    assert concern_of(good, ()) is None
    assert concern_of(lost, ()) is Concern.OVERFLOWS
    assert concern_of(replace(lost, rows_before=good.rows_before[:0], overflow=None), ()) is (
        Concern.SKIPPED
    )
    assert concern_of(replace(good, underflowed=1), ()) is Concern.UNDERFLOWS
    outside = Audit("n", 8, 1, 0, None, None, ())
    assert concern_of(replace(good, audit=outside), ()) is Concern.OUTSIDE
    bare = replace(good, decided=replace(good.decided, certificate=None))
    scales: tuple[Required, ...] = ("scaled",)
    proof: tuple[Required, ...] = ("certified",)
    assert concern_of(bare, scales) is None
    assert concern_of(bare, proof) is Concern.UNPROVED
    urgent, others = in_order([bare, lost, good], proof)
    assert (urgent, others) == ([lost, bare], [good])


def test_a_norm_that_the_user_left_out_needs_none(tmp_path: Path) -> None:
    onnx.save(four_norms(), tmp_path / "m.onnx")
    options = Options(exclude="plain", validate=False)
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "out.onnx", options)
    assert [row.name for row in in_order(outcome.rows, ())[0]] == []


def test_skipped_norms_are_grouped_by_reason_under_q_too(run: Run) -> None:
    onnx.save(many_norms(5, leaky=3), "model.onnx")
    for options in ((), ("-q",)):
        _, out, _ = run("model.onnx", "--no-validate", *options)
        [line] = [line for line in out.splitlines() if line.startswith("skipped: ")]
        assert line.startswith("skipped: 3 norms: /model/layers.1/input_layernorm/Div, ")
        assert " and 1 more: its inner value 'd2' is a graph output" in line


def test_reasons_of_different_kinds_are_not_put_together(many: Outcome) -> None:
    def because(norm: ScaledNorm, text: str) -> ScaledNorm:
        return replace(norm, reasons=(replace(norm.reasons[0], op=text),))

    skipped = [norm for norm in many.norms if norm.status == "skipped"]
    mixed = [skipped[0], because(skipped[1], "Loop"), skipped[2]]
    lines = list(reason_lines(mixed, skipped=True))
    assert [line.startswith("skipped: 2 norms: ") for line in lines] == [True, False]
    assert list(reason_lines(mixed, skipped=False)) == []


def test_suspects_of_one_reason_share_a_line(many: Outcome) -> None:
    reasons = [Reason(Untaken.NOT_DIVIDED)] * 2 + [Reason(Untaken.WEIGHTS_INSIDE)]
    suspects = [Suspect(f"s{i}", "Div", (), i, why) for i, why in enumerate(reasons)]
    lines = suspect_lines(replace(many, suspects=suspects))
    assert lines[0].startswith("s0 (Div), s1 (Div) look like norms and were not understood: ")
    assert lines[1].startswith("s2 (Div) looks like a norm and was not understood: ")
    [left_out] = suspect_lines(replace(many, suspects=suspects[:1], accepted={"s0"}))
    assert left_out == "s0 (Div) looks like a norm and was left out"


@pytest.mark.parametrize(
    ("name", "width", "told"),
    [
        ("/model/layers.3/Mul_1", 21, "/model/layers.3/Mul_1"),
        ("/model/layers.3/input_layernorm/Mul_1", 24, "/model/layers.3/…Mul_1"),
        ("/model/layers.3/input_layernorm/Mul_1", 18, "…layers.3/…Mul_1"),
        ("/model/layers.3/input_layernorm/Mul_1", 12, "…3/…Mul_1"),
        ("/model/layers.3/input_layernorm/Mul_1", 7, "…Mul_1"),
        ("abcdefghijklmnop", 7, "abc…nop"),
        ("abcdefghijklmnop", 1, "…"),
        ("層層層層層層", 5, "層…層"),
    ],
)
def test_names_lose_their_middle(name: str, width: int, told: str) -> None:
    assert shortened(name, width) == told
    assert cell_len(told) <= width


def test_texts_end_with_a_whole_word() -> None:
    assert short_words("residual r + attention (eq. 10)", 31) == "residual r + attention (eq. 10)"
    assert short_words("residual r + attention (eq. 10)", 20) == f"residual r + {CUT}"
    told = short_words("the input of /model/layers.3/input_layernorm/Mul_1", 40)
    assert told == f"the input of /model/layers.3/…Mul_1 {CUT}"


def test_lines_break_between_words_and_at_bars() -> None:
    assert wrapped("short | line", 80) == ["short | line"]
    assert wrapped("FAILED | one two three | four", 12) == [
        "FAILED",
        "| one two",
        "  three",
        "| four",
    ]
    assert wrapped("see a/path/that/is/longer", 10) == ["see", "  a/path/that/is/longer"]


def test_the_audit_fits(many: Outcome) -> None:
    audits = [
        Audit(f"/model/layers.{i}/post_attention_layernorm/Div", 8, int(i == 45), 0, 0.9, 1.1, ())
        for i in range(50)
    ]
    for width in WIDTHS:
        lines = written(lambda console: print_audit(console, audits), width)
        assert len(lines) == 2 and "45" in lines[1]
        lines = written(lambda console: print_audit(console, audits, True), width)
        assert len(lines) == 51 and max(map(len, lines)) <= width


def test_off_a_terminal_a_stage_takes_one_line_once_the_work_is_long() -> None:
    said: list[str] = []
    long = False
    stages = Stages(said.append, lambda: long)
    stages("reading weights: 0.1 of 0.5 GB, 0.30 GB/s", 0.2)
    assert said == []
    long = True
    for done in (0.4, 0.6):
        stages(f"reading weights: {done / 2} of 0.5 GB, 0.31 GB/s", done)
    for version in ("original", "rewritten", "original"):
        stages(f"validating: FP32, {version}", 0.5)
    stages("trying nodes in FP32, list 1", 0.5)
    stages("trying nodes in FP32, list 2", 0.5)
    assert said == [
        "reading weights ...",
        "validating: FP32, original ...",
        "validating: FP32, rewritten ...",
        "trying nodes in FP32, list ...",
    ]


def test_scripts_get_the_verdict_in_one_line(run: Run) -> None:
    _, out, _ = run("model.onnx")
    last = out.splitlines()[-1]
    assert last.startswith("NORMS PASSED | ") and len(last) > 200
