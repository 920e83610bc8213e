"""A hook of MkDocs: the pages of the site that lie outside docs/, and links to and from them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Page of the site -> its file from the root.
OUTSIDE = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "benchmarks.md": "benchmarks/README.md",
}
_LINK = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside."""
    for page, file in OUTSIDE.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages."""
    name = page.file.src_uri
    folder = (ROOT / OUTSIDE.get(name, f"docs/{name}")).parent
    pages = {ROOT / file: name for name, file in OUTSIDE.items()}

    def turned(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        if target in pages:
            return f"]({pages[target]}{link[2] or ''})"
        if target.is_relative_to(ROOT / "docs"):
            return f"]({target.relative_to(ROOT / 'docs').as_posix()}{link[2] or ''})"
        return link[0]

    return _LINK.sub(turned, markdown)
