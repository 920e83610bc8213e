"""Columns: each fact of a norm has one entry, and its value is right wherever it is shown."""

import html
import io
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from rich.console import Console

from slanc_onnx import (
    Accelerator,
    Options,
    Outcome,
    ScaledNorm,
    compute_scales,
    protect_file,
)
from slanc_onnx.apply.fold import Fold
from slanc_onnx.prove import Certificate, Condition
from slanc_onnx.prove.bound import Bound
from slanc_onnx.reasons import Reason, Unproved
from slanc_onnx.report.as_json import norm_entry
from slanc_onnx.report.columns import COLUMNS, Column, certified, certified_text
from slanc_onnx.report.html.page import page
from slanc_onnx.report.html.view import page_view
from slanc_onnx.report.rows import norm_rows
from slanc_onnx.report.table import print_table
from tests.models.four_norms import four_norms

TITLES = {column.name: column for column in COLUMNS}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("columns")
    onnx.save(four_norms(), folder / "model.onnx")
    return protect_file(folder / "model.onnx", folder / "out.onnx")


def table_text(outcome: Outcome) -> str:
    """What a wide terminal shows."""
    text = io.StringIO()
    console = Console(file=text, width=1000, highlight=False, markup=False, emoji=False)
    print_table(console, outcome, verbose=True)
    return text.getvalue()


def terminal_cells(outcome: Outcome) -> dict[str, list[str]]:
    """What that is column by column, up to where the heading of a column ends."""
    heading, *lines = table_text(outcome).splitlines()[: 1 + len(outcome.rows)]
    lines.sort(key=lambda line: int(line.split()[0]))  # those that need attention come first
    cells: dict[str, list[str]] = {}
    for column in (c.terminal for c in COLUMNS if c.terminal is not None):
        if not any(map(column.text, outcome.rows)):  # nothing to say, no column
            cells[column.title] = [""] * len(lines)
            continue
        start = heading.index(column.title)
        stop = start + len(column.title)
        if column.style == "text":
            cells[column.title] = [line[start:].strip() for line in lines]
        else:  # a cell ends where its heading does; its last word tells
            shown = [line[:stop] if line[start:stop].strip() else "" for line in lines]
            cells[column.title] = [cell.split()[-1] if cell else "" for cell in shown]
    return cells


def page_cells(outcome: Outcome) -> dict[str, list[str]]:
    pytest.importorskip("matplotlib")
    written = page(page_view(outcome))
    titles = re.findall(r'<th scope="col"[^>]*><button type="button">([^<]*)</button>', written)
    rows = re.findall(r'<tr class="[^"]*" data-norm.*?</tr>', written, re.DOTALL)
    cells: dict[str, list[str]] = {html.unescape(title): [] for title in titles}
    for row in rows:
        texts = re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
        for title, text in zip(cells, texts, strict=True):
            cells[title].append(html.unescape(re.sub(r"<[^>]*>", "", text)))
    return cells


def test_every_column_stands_in_json_on_the_terminal_and_on_the_page(outcome: Outcome) -> None:
    entries = [norm_entry(row) for row in outcome.rows]
    terminal, shown = terminal_cells(outcome), page_cells(outcome)
    for column in COLUMNS:
        if column.value is not None:
            assert [e[column.name] for e in entries] == [column.value(r) for r in outcome.rows]
        if column.terminal is not None and column.terminal.style != "text":
            assert terminal[column.terminal.title] == [
                column.terminal.text(r).split(" ")[-1] for r in outcome.rows
            ]
        if column.page is not None:
            told = {r.number: column.page.text(r) for r in outcome.rows}
            if any(told.values()):  # else there is no such column
                numbers = map(int, shown["#"])  # those that need attention come first
                assert shown[column.page.title] == [told[number] for number in numbers]
            else:
                assert column.page.title not in shown
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)


def test_the_values_are_those_of_the_run(outcome: Outcome) -> None:
    terminal, shown = terminal_cells(outcome), page_cells(outcome)
    hot = outcome.rows[0]
    assert outcome.validation is not None
    seen = outcome.validation.observed["hot"]
    entry = norm_entry(hot)
    assert entry["scale"] == hot.decided.scale != 1.0
    at = shown["#"].index("1")
    assert terminal["scale"][0] == shown["scale"][at] == f"{hot.decided.scale:.6g}"
    assert (entry["observed"]["overflowed_before"], entry["observed"]["overflowed"]) == (
        seen.overflowed_before,
        seen.overflowed,
    )
    assert seen.overflowed_before > 0 == seen.overflowed
    assert shown["rows lost"][at] == f"{seen.overflowed_before} → 0"
    assert terminal["rows lost"][0] == "0" and terminal["status"][0] == "scaled"
    assert f"{seen.overflowed_before} -> 0" in table_text(outcome)
    sums = seen.sum_of_squares
    assert entry["observed"]["sum_of_squares"] == [sums.min(), np.median(sums), sums.max()]
    for title, values in (("sum of squares", sums), ("after", seen.scaled)):
        ends = [float(end) for end in terminal[title][0].split("..")]
        assert ends == [float(f"{v:.2g}") for v in (values.min(), values.max())]
    assert float(shown["bits to overflow"][at]) == pytest.approx(
        np.log2(65504 / seen.scaled.max()), abs=0.06
    )


def test_where_a_scale_went() -> None:
    decided = [norm for norm in sample() if norm.status == "scaled"]
    one, other = (
        next(n for n in decided if (n.scale == 1.0) is is_one) for is_one in (True, False)
    )
    device = Accelerator()

    def applied(fold: Fold | None) -> list[str | None]:
        return [row.applied for row in norm_rows([one, other], device, None, fold, [])]

    assert applied(None) == [None, "div"]  # a scale of 1 needs no node
    skipped = replace(other, status="skipped")
    assert norm_rows([skipped], device, None, None, [])[0].applied is None


def sample() -> list[ScaledNorm]:
    return compute_scales(four_norms(), Options(estimate="weights"))


def test_what_a_certificate_says() -> None:
    (norm, *_) = sample()
    column: Column = TITLES["certificate"]
    assert column.value is not None and column.terminal is not None and column.page is not None
    on = Condition("p", "range", 0.0, 1.0)
    for certificate, upper, word, margin in (
        (Certificate(True, None, Bound(3.0), 2.0), "bound", "yes", "2.0 bits"),
        (
            Certificate(True, None, Bound(3.0), 2.0, conditions=(on,)),
            "bound",
            "if p in [0, 1]",
            "if, 2.0 bits",
        ),
        (
            Certificate(False, Reason(Unproved.SUM_OVERFLOWS, (2.0,)), Bound(3.0), -2.0),
            "estimate",
            "no",
            "no, -2.0 bits",
        ),
        (Certificate(False, Reason(Unproved.NO_EPSILON), Bound(None)), "estimate", "no", "no"),
    ):
        here = replace(norm, certificate=replace(certificate, scale=norm.scale or 1.0))
        (row,) = norm_rows([here], Accelerator(), None, None, [])
        value = column.value(row)
        assert value["upper_limit"] == upper
        assert (value["certified"] is True) == (word == "yes")
        assert certified_text(certificate) == word
        assert column.page.text(row) == ("on a condition" if word.startswith("if ") else word)
        assert column.terminal.text(row) == margin
        assert certified(certificate) in (True, False, word)
    (row,) = norm_rows([replace(norm, certificate=None)], Accelerator(), None, None, [])
    assert (column.value(row), column.page.text(row)) == (None, "")
