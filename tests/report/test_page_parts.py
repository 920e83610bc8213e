"""Parts of the HTML report: headline, conversion, conditions, many norms, what fits a screen."""

import dataclasses
import html
import re
from pathlib import Path

import onnx
import pytest

from slanc_onnx import Options, ScaledNorm
from slanc_onnx.apply.convert import Counts
from slanc_onnx.apply.convert.convert import InFull
from slanc_onnx.job import protect_file
from slanc_onnx.prove import Condition
from slanc_onnx.reasons import InFp32, Reason
from slanc_onnx.report.html.parts import listing
from slanc_onnx.report.html.view import page_view
from slanc_onnx.report.wording import reason_text
from tests.browser import browser, in_browser
from tests.models.four_norms import four_norms
from tests.models.many_norms import many_norms
from tests.places import SAMPLES

LLAMA = SAMPLES / "llama_like.onnx"


def test_the_title_and_the_headline_name_the_model_with_its_folder(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from slanc_onnx.report.html.page import page

    (tmp_path / "bert base").mkdir()
    source = tmp_path / "bert base" / "model.onnx"
    onnx.save(four_norms(leaky=False), source)
    for output, told in (
        (source.with_name("out.onnx"), "bert base/model.onnx → out.onnx"),
        (tmp_path / "new" / "model.onnx", "bert base/model.onnx → new/model.onnx"),
    ):
        written = page(page_view(protect_file(source, output, Options(validate=False))))
        assert f"<title>{told}: norms in FP16</title>" in written
        assert f"<h1>{told}</h1>" in written.replace("<wbr>", "")
    dry = protect_file(source, source.with_name("o.onnx"), Options(validate=False, dry_run=True))
    assert "<title>bert base/model.onnx: norms in FP16</title>" in page(page_view(dry))


def rows_under(written: str, caption: str) -> list[list[str]]:
    """The cells of the tables with a caption, and of the rest of them that is folded away."""
    tables = re.findall(r"<caption>(.*?)</caption>.*?<tbody>(.*?)</tbody>", written, re.DOTALL)
    bodies = [body for name, body in tables if name in (caption, f"{caption}, the rest")]
    assert bodies, caption
    rows = [row for body in bodies for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.DOTALL)]
    plain = [re.findall(r"<td[^>]*>(.*?)</td>", row.replace("<wbr>", "")) for row in rows]
    return [[html.unescape(cell) for cell in row] for row in plain]


def test_a_file_of_16_bits_has_its_nodes_constants_tables_and_groups_on_the_page(
    tmp_path: Path,
) -> None:
    pytest.importorskip("matplotlib")
    from slanc_onnx.report.html.page import page

    options = Options(to="fp16", apply="fold", validate=False)
    made = protect_file(LLAMA, tmp_path / "out.onnx", options)
    told = made.report["conversion"]
    assert told is not None and made.conversion is not None
    kept = InFull("/rotary/Cos", "Cos", Reason(InFp32.WHOLE_NUMBERS))
    converted = dataclasses.replace(
        made.conversion.converted,
        nodes=(kept,),
        weights={"mask": Counts(elements=3, clipped=2, largest=3.4e38)},
    )
    conversion = dataclasses.replace(made.conversion, converted=converted)
    written = page(page_view(dataclasses.replace(made, conversion=conversion)))
    assert "<h2>Conversion to FP16</h2>" in written
    [node] = rows_under(written, "Nodes that compute in FP32")
    assert node == ["/rotary/Cos", "Cos", reason_text(kept.why)]
    assert rows_under(written, "Constants that FP16 does not hold") == [
        ["mask", "clipped", "2", "3.4e+38"]
    ]
    tables = rows_under(written, "Tables of angles")
    assert [row[0] for row in tables] == [table["tensor"] for table in told["tables"]] != []
    groups = rows_under(written, "Largest value of every group of tensors")
    assert [row[0] for row in groups] == [group["tensor"] for group in told["groups"]] != []
    assert "<h2>Conversion" not in page(page_view(dataclasses.replace(made, conversion=None)))


def test_conditions_and_the_least_safe_radius_are_on_the_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from slanc_onnx.report.html.page import page

    made = protect_file(LLAMA, tmp_path / "out.onnx", Options(validate=False))
    written = page(page_view(made))
    _, section = written.split("<h2>What certificates rest on</h2>")
    assert "<li>certified if no axis is longer than 131072 positions</li>" in section
    least = min(norm.safe_radius for norm in made.norms if norm.safe_radius is not None)
    [shown] = re.findall(r"<dt>least safe radius</dt><dd>(.*?)</dd>", written)
    assert float(shown) == pytest.approx(least, rel=1e-3) and float(shown) <= least
    bare = protect_file(LLAMA, tmp_path / "o2.onnx", Options(validate=False, certify="off"))
    assert "What certificates rest on" not in page(page_view(bare))


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of 1000 norms, the last 20 of which are skipped: two of a small model, repeated."""
    pytest.importorskip("matplotlib")
    from slanc_onnx.report.html.page import page

    folder = tmp_path_factory.mktemp("thousand")
    onnx.save(many_norms(10, leaky=1), folder / "m.onnx")
    made = protect_file(folder / "m.onnx", folder / "out.onnx", Options(validate=False))
    *good, leaky = made.norms

    def renamed(norm: ScaledNorm, at: int) -> ScaledNorm:
        name = f"/model/layers.{at}/post_attention_layernorm/LayerNormalization"
        return dataclasses.replace(norm, norm=dataclasses.replace(norm.norm, name=name))

    on = Condition("/model/some/long/name/MatMul_output_0", "length", 0.0, 17.0)
    assert good[0].certificate is not None
    proof = dataclasses.replace(good[0].certificate, conditions=(on,))
    scaled = dataclasses.replace(good[0], certificate=proof)
    norms = [renamed(leaky if at >= 980 else scaled, at) for at in range(1000)]
    return page(page_view(dataclasses.replace(made, norms=norms)))


@browser
def test_a_thousand_norms_are_shown_by_fifty_those_in_trouble_first(
    thousand: str, tmp_path: Path
) -> None:
    script = """
    const said = [];
    const seen = () => rows.filter(r => !r.hidden && !r.classList.contains("away"));
    const tell = () => said.push([seen().length, seen()[0].cells[0].textContent,
      document.querySelectorAll("details.away[id]").length, count.textContent].join());
    tell(); next.click(); tell();
    said.push(String(back.disabled)); back.click(); said.push(String(back.disabled));
    search.value = "layers.77/"; search.dispatchEvent(new Event("input")); tell();
    location.hash = "#norm-500"; open();
    said.push(String(seen().some(r => r.cells[0].textContent === "500")));
    document.title = said.join("; ");
    """
    document, console = in_browser(thousand, tmp_path, script)
    assert console == [] and len(thousand) < 6_000_000
    [title] = re.findall(r"<title>(.*?)</title>", document)
    assert title.split("; ") == [
        "50,981,950,norms 1 to 50 of 1000",
        "50,31,950,norms 51 to 100 of 1000",
        "false",
        "true",
        "1,78,999,1 of 1000 norms shown",
        "true",
    ]


@browser
@pytest.mark.parametrize("width", [800, 1280])
def test_every_column_is_on_the_screen(thousand: str, tmp_path: Path, width: int) -> None:
    report = "const box = table.parentElement; parent.postMessage("
    report += "box.scrollWidth <= box.clientWidth && table.tHead.textContent.includes('certified'),"
    report += " '*')"
    inner = thousand.replace("</html>", f"<script>{report}</script></html>")
    (tmp_path / "inner.html").write_text(inner, "utf-8")
    frame = f'<iframe src="inner.html" style="width:{width}px;height:900px"></iframe>'
    listen = "addEventListener('message', e => { document.title = 'fits ' + e.data; })"
    document, _ = in_browser(f"<!doctype html><title>-</title>{frame}</html>", tmp_path, listen)
    assert "<title>fits true</title>" in document


def test_a_short_word_of_a_list_stays_in_one_piece() -> None:
    """On a telephone ReduceMean stood in four lines."""
    rows = [("/a/ReduceMean", "ReduceMean", "joins them", "open", "3")]
    written = listing("Suspects", ("node", "op", "why", "state", "sum"), rows, 1)
    styles = re.findall(r'<td class="(.*?)">', written)
    assert styles == ["text", "text word", "text", "text word", ""]


def test_the_headline_counts_one_as_one(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 17]>
    main (float[2, 2] x) => (float[2, 2] y) <float[2] g = {1, 1}> {
        y = LayerNormalization(x, g)
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    view = page_view(protect_file(tmp_path / "m.onnx", tmp_path / "o.onnx"))
    assert view.sentence == "The only norm did not overflow FP16 on these inputs, then or now."
