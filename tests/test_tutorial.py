"""The tutorial's Python blocks, run in order in one session, print what the page shows."""

import contextlib
import io
import re

import pytest

from tests.places import ROOT

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```python\n(.*?)^```\n\n```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The rooms that the page leads through: one heading each, in the order of the data.
ROOMS = ("graph", "norms", "trace", "estimate", "prove", "scale", "apply", "verify", "report")


def test_each_block_prints_what_stands_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = _BLOCK.findall(PAGE)
    assert len(blocks) == PAGE.count("```python")
    session: dict[str, object] = {"__name__": "__main__"}
    for code, shown in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "tutorial.md", "exec"), session)
        assert printed.getvalue() == shown, code


def test_the_page_leads_through_every_room_in_order_with_a_block_in_each() -> None:
    parts = re.findall(r"^## (\w+): .*?\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert tuple(room for room, _ in parts) == ROOMS
    assert all("```python" in text for _, text in parts)
