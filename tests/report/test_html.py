"""The HTML report: what it says, that it stands alone, and that a real browser runs it."""

import dataclasses
import html
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Options
from slanc_onnx.job import protect_file
from slanc_onnx.options import Merge
from slanc_onnx.report.compared import tensors_text
from slanc_onnx.report.fold import fold_line
from slanc_onnx.report.html.tensors import tensor_section
from slanc_onnx.report.html.view import page_view
from slanc_onnx.report.outcome import Outcome
from slanc_onnx.report.wording import reasons_text
from slanc_onnx.verify.observed import Observed
from slanc_onnx.verify.tensor_sizes import TensorSize
from tests.browser import browser, in_browser
from tests.conftest import Run
from tests.models.four_norms import four_norms
from tests.models.merge_models import LAYER, model
from tests.models.small_graphs import D, normal
from tests.places import SAMPLES

LLAMA = SAMPLES / "llama_like.onnx"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Rows that overflow as exported, and no more."""
    return _job(tmp_path_factory.mktemp("good"), leaky=False)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The same, but for a norm that cannot be scaled and whose rows still overflow."""
    return _job(tmp_path_factory.mktemp("bad"), leaky=True)


def _job(folder: Path, leaky: bool) -> Outcome:
    onnx.save(four_norms(leaky), folder / "a&b.onnx")
    return protect_file(folder / "a&b.onnx", folder / "out.onnx")


def test_what_was_merged_is_told_norm_by_norm_and_no_more_than_is_so(tmp_path: Path) -> None:
    """Rows of the file have no mean, and its outputs are not those of the original bit by bit."""
    pytest.importorskip("matplotlib")
    from slanc_onnx.report.html.page import page

    table = normal(1, 11, D) + 100
    nodes = LAYER.format("n", "rows") + "n_g = Mul(n_x, gamma) y = MatMul(n_g, w)"
    onnx.save(model(nodes, {"table": table}), tmp_path / "model.onnx")
    asked: list[tuple[Merge, ...]] = [(), ("all",), ("gamma",)]
    for merge in asked:
        options = Options(apply="fold", merge=merge)
        found = protect_file(tmp_path / "model.onnx", tmp_path / "out.onnx", options)
        certificate = found.norms[0].certificate
        assert found.passed and certificate is not None and certificate.bound.length is not None
        longest = float(np.linalg.norm(table, axis=1).max())
        assert (certificate.bound.length < longest) == (merge == ("all",))
        text = page(page_view(found))
        assert ("no row less its mean is longer than" in text) == (merge == ("all",))
        assert ("no row is longer than" in text) == (merge != ("all",))
        assert ("changes no output" in text) == (merge == ())
        told = {
            (): "",
            ("all",): "weightless; mean-free; deferred; products before their division: predicted",
            ("gamma",): "weightless",
        }[merge]
        assert ("<dt>merged</dt>" in text) == bool(merge) and told in text


def test_a_fused_norm_that_is_written_out_has_both_forms(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from slanc_onnx.report.html.page import page

    nodes = "[n] n = SimplifiedLayerNormalization<axis = -1>(rows, gamma) y = MatMul(n, w)"
    onnx.save(model(nodes), tmp_path / "model.onnx")
    options = Options(apply="fold", merge=["all"], validate=False)
    found = protect_file(tmp_path / "model.onnx", tmp_path / "out.onnx", options)
    assert f"SimplifiedLayerNormalization → decomposed, {D}" in page(page_view(found))


def observed(outcome: Outcome) -> dict[str, Observed]:
    assert outcome.validation is not None
    return outcome.validation.observed


@pytest.fixture(scope="module")
def written(outcome: Outcome) -> str:
    pytest.importorskip("matplotlib")
    from slanc_onnx.report.html.page import page

    return page(page_view(outcome))


class _Ids(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids[value or ""] += 1
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                self.fetched.append(value or "")


def test_the_largest_tensors_stand_against_the_limit_and_most_are_folded_away() -> None:
    sizes = [TensorSize(f"t{i}", f"n{i}", "Mul", 2.0**i, 65504.0, i == 100) for i in range(250)]
    largest = sorted(sizes, key=lambda size: -size.largest)
    section = tensor_section(largest, tensors_text(sizes, "FP16"))
    assert "234 of 250 tensors" in section  # 2^16 is the first beyond 65504
    assert "the first to leave it is t100 (Mul), with 1.27e+30" in section
    shown, folded = section.split("<details>")
    assert re.findall(r">(t\d+)<", shown) == [f"t{i}" for i in range(249, 239, -1)]
    assert re.findall(r">(t\d+)<", folded) == [f"t{i}" for i in range(239, 49, -1)]
    assert "190 more, 50 smaller ones are left out" in folded
    assert section.count("leaves the format") == 1


def test_the_page_tells_of_tensors_where_everything_is_emulated(
    good: Outcome, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    from slanc_onnx.report.html.page import page

    onnx.save(four_norms(leaky=False), tmp_path / "model.onnx")
    options = Options(emulate="all", certify="off")
    everything = protect_file(tmp_path / "model.onnx", tmp_path / "out.onnx", options)
    for made in (good, everything):
        view = page_view(made)
        assert ("<h2>Tensors</h2>" in page(view)) == (made is everything)
        sizes = [size.largest for size in view.tensors]
        assert sizes == sorted(sizes, reverse=True) and bool(sizes) == (made is everything)


def test_the_sentence_counts_the_norms_that_lost_rows(good: Outcome, outcome: Outcome) -> None:
    for made, now in ((good, "none overflows."), (outcome, "1 STILL OVERFLOWS.")):
        view = page_view(made)
        lost = [seen.overflowed_before for seen in observed(made).values()]
        assert sum(lost) > 0
        count = sum(n > 0 for n in lost)
        assert f"As exported, {count} of 4 norms overflowed FP16" in view.sentence
        assert f"lost {sum(lost):,} rows. With the scales {now}" in view.sentence
    assert (page_view(good).passed, page_view(outcome).passed) == (True, False)
    assert page_view(good).line[0] == "NORMS PASSED"
    assert page_view(outcome).line[0] == "FAILED"
    assert "1 norm was skipped" in page_view(outcome).sentence
    assert "skipped" not in page_view(good).sentence


def test_margins_are_bits_between_rows_and_limits(good: Outcome) -> None:
    hot = page_view(good).norms[0]
    sums = observed(good)["hot"].scaled
    assert hot.overflow_bits == pytest.approx(np.log2(65504 / sums.max()))
    assert hot.underflow_bits == pytest.approx(np.log2(np.median(sums) / 32 / 2.0**-14))
    assert hot.decided.scale is not None
    assert hot.factor == hot.decided.scale**2 > 1


def test_without_a_run_it_says_that_it_predicts(good: Outcome) -> None:
    view = page_view(dataclasses.replace(good, validation=None))
    assert view.sentence.startswith("Not run, so this is a prediction: ")
    assert "none with the scales" in view.sentence
    assert (view.passed, view.seen) == (None, False)
    hot = view.norms[0]
    assert hot.before is not None and hot.after is not None
    assert hot.before.high / hot.after.high == pytest.approx(hot.factor)


def test_the_file_stands_alone(written: str) -> None:
    parsed = _Ids()
    parsed.feed(written)
    assert [i for i, count in parsed.ids.items() if count > 1] == []
    assert parsed.fetched == ["data:,"]
    assert not re.search(r"@import|url\((?!#)|(?<!xmlns=\")(?<!xlink=\")https?://", written)
    assert len(written) < 3_000_000
    references = set(re.findall(r"(?:url\(|href=\")#([^\")]+)", written))
    assert references <= set(parsed.ids)


def test_names_and_reasons_are_escaped_and_shown(outcome: Outcome, written: str) -> None:
    assert "a&amp;b.onnx" in written and "a&b.onnx" not in written
    [skipped] = [d for d in outcome.norms if d.status == "skipped"]
    assert html.escape(f"skipped: {reasons_text(skipped.reasons)}") in written


def test_a_page_without_a_run_is_drawn_from_predictions(outcome: Outcome) -> None:
    pytest.importorskip("matplotlib")
    from slanc_onnx.report.html.page import page

    text = page(page_view(dataclasses.replace(outcome, validation=None)))
    assert 'class="wide"' in text and "prediction with the scales" in text
    assert 'class="h1"' not in text  # no rows, no histogram


def test_of_many_norms_those_that_lost_rows_are_drawn(
    outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    from slanc_onnx.report.html import plots as html_plots

    norms = page_view(outcome).norms
    lost = [norm.number for norm in norms if norm.lost_before]
    assert 0 < len(lost) < len(norms)
    monkeypatch.setattr(html_plots, "MOST_DRAWN", len(lost))
    pictures = html_plots.histograms(norms)
    assert [n.number for n, drawn in zip(norms, pictures, strict=True) if drawn] == lost


def test_the_command_line_writes_it_and_replaces_only_its_own(run: Run) -> None:
    pytest.importorskip("matplotlib")
    assert run("model.onnx", "--html", "r.html", "-q")[0] == 0
    first = Path("r.html").read_bytes()
    assert first.startswith(b'<!doctype html>\n<html lang="en" data-by="slanc-onnx">')
    assert run("model.onnx", "--html", "r.html", "-q")[0] == 0
    assert Path("r.html").read_bytes() == first
    Path("own.html").write_text("<!doctype html>\n<p>mine")
    status, _, err = run("model.onnx", "--html", "own.html")
    assert (status, "is no report of an earlier run" in err) == (2, True)
    assert Path("own.html").read_text() == "<!doctype html>\n<p>mine"


def test_a_model_without_norms_needs_no_page_to_be_drawn(run: Run) -> None:
    pytest.importorskip("matplotlib")
    text = '<ir_version: 10, opset_import: ["": 17]> m (float[2] x) => (float[2] y) {y = Abs(x)}'
    onnx.save(onnx.parser.parse_model(text), "none.onnx")
    assert run("none.onnx", "--html", "r.html")[0] == 0
    assert "No norm was found, so nothing was written." in Path("r.html").read_text("utf-8")


def test_without_matplotlib_it_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    onnx.save(four_norms(leaky=False), "model.onnx")
    status, _, err = run("model.onnx", "--html", "r.html")
    assert status == 2
    assert "pip install 'slanc-onnx[plots]'" in err
    assert not Path("model.slanc.onnx").exists()


@browser
def test_a_browser_runs_it_in_silence(written: str, tmp_path: Path) -> None:
    # A request of any kind would be refused by the page's own policy, and that is logged.
    document, console = in_browser(written, tmp_path)
    assert console == []
    assert "4 of 4 norms shown" in document
    _, console = in_browser(written, tmp_path, "new Image().src = 'https://example.org/x.png'")
    assert any("Content Security Policy" in line for line in console)  # so silence means something


@browser
def test_the_table_sorts_filters_and_opens_details(
    outcome: Outcome, written: str, tmp_path: Path
) -> None:
    script = """
    const said = [];
    const names = () => rows.filter(r => !r.hidden).map(r => r.cells[1].textContent).join();
    const head = [...table.tHead.rows[0].cells].find(c => c.textContent.startsWith("before"));
    head.firstChild.click(); said.push(names());
    head.firstChild.click(); said.push(names());
    show.value = "skipped"; show.dispatchEvent(new Event("change")); said.push(names());
    show.value = ""; search.value = "MILD"; search.dispatchEvent(new Event("input"));
    said.push(names());
    location.hash = "#norm-2"; window.open = open; open();
    said.push(String(document.getElementById("norm-2").open));
    document.title = said.join("; ");
    """
    document, console = in_browser(written, tmp_path, script)
    assert console == []
    [title] = re.findall(r"<title>(.*?)</title>", document)
    up, down, skipped, searched, opened = title.split("; ")
    most = {name: seen.sum_of_squares.max() for name, seen in observed(outcome).items()}
    assert [n for n in up.split(",") if n in most] == sorted(most, key=lambda n: most[n])
    assert [n for n in down.split(",") if n in most] == sorted(most, key=lambda n: -most[n])
    assert (skipped, searched, opened) == ("plain", "mild", "true")


@browser
@pytest.mark.parametrize(("width", "shown"), [(400, "narrow"), (1200, "wide")])
def test_a_picture_fits_the_screen(written: str, tmp_path: Path, width: int, shown: str) -> None:
    """Inside a frame of that width: headless windows are at least 500 pixels wide."""
    inner = tmp_path / "inner.html"
    report = "for (const s of document.querySelectorAll('main > svg'))"
    report += " if (s.getBoundingClientRect().width) parent.postMessage("
    report += "s.classList + ' ' + (document.documentElement.scrollWidth <= innerWidth), '*')"
    inner.write_text(written.replace("</html>", f"<script>{report}</script></html>"), "utf-8")
    frame = f'<iframe src="inner.html" style="width:{width}px;height:900px"></iframe>'
    outer = "<!doctype html><title>-</title>" + frame
    listen = "addEventListener('message', e => { document.title = e.data; })"
    document, _ = in_browser(f"{outer}</html>", tmp_path, listen)
    assert f"<title>{shown} true</title>" in document


def test_the_page_tells_what_was_folded(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from slanc_onnx.report.html.page import page

    options = Options(apply="fold", validate=False)
    made = protect_file(LLAMA, tmp_path / "out.onnx", options)
    view = page_view(made)
    applied = [entry["applied"] for entry in made.report["norms"]]
    assert {"fold", "div"} == set(applied) and [n.applied for n in view.norms] == applied
    written = page(view)
    assert made.fold is not None and fold_line(len(applied), made.fold) in view.notes
    assert html.escape(fold_line(len(applied), made.fold)) in written
    for way in ("fold", "div"):
        assert written.count(f"<dt>applied</dt><dd>{way}</dd>") == applied.count(way)


class _Outline(HTMLParser):
    """Headings in order, and what a reader without eyes or a mouse has to be told."""

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(tag)
        unnamed = tag in ("input", "select") and not given.get("aria-label")
        unscoped = tag == "th" and given.get("scope") not in ("col", "row")
        unreachable = given.get("class") == "scroll" and given.get("tabindex") != "0"
        silent = tag == "svg" and not (given.get("role") == "img" and given.get("aria-label"))
        if unnamed or unscoped or unreachable or silent:
            self.faults.append(tag)


def test_headings_tables_and_pictures_can_be_read_without_eyes_or_a_mouse(written: str) -> None:
    outline = _Outline()
    outline.feed(written)
    assert outline.faults == []
    assert outline.headings[0] == "h1" and set(outline.headings[1:]) == {"h2"}
    assert "<main>" in written


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_words_stand_out_from_the_paper(written: str, scheme: str) -> None:
    """By WCAG 2.2: 4.5 for text, 3 for what is drawn."""
    blocks = re.findall(r":root \{(.*?)\}", written, re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w+)", blocks[("light", "dark", "print").index(scheme)]))

    def luminance(colour: str) -> float:
        digits = "".join(2 * c for c in colour[1:]) if len(colour) == 4 else colour[1:]
        channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(colours[one]), luminance(colours[other])))
        return (high + 0.05) / (low + 0.05)

    for paper in ("paper", "panel"):
        assert all(contrast(ink, paper) >= 4.5 for ink in ("ink", "faint", "good", "bad"))
    assert all(contrast(drawn, "paper") >= 3 for drawn in ("before", "after", "limit"))


def test_the_page_and_the_report_are_two_files(run: Run) -> None:
    status, _, err = run("model.onnx", "--report", "r", "--html", "./r")
    assert status == 2 and "--html ./r: is the file of --report." in err
    assert {path.name for path in Path().iterdir()} == {"model.onnx"}
