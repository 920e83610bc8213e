"""A real browser, where the machine has one, for the page of --html."""

import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def in_browser(page: str, folder: Path, script: str = "") -> tuple[str, list[str]]:
    """The document after its scripts, and what they wrote to the console."""
    assert CHROMIUM is not None
    path = folder / "page.html"
    path.write_text(page.replace("</html>", f"<script>{script}</script></html>"), "utf-8")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={folder}/profile",
        "--dump-dom",
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
