"""The report as PDF: the page printed by a Chromium or Chrome of this machine, which lays it out as a reader's browser does."""

from __future__ import annotations

import base64
import os
import re
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cxr_eval.errors import RunError

BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome-headless-shell"),
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
NEEDED = "report.pdf needs {what}; {how}, or leave pdf out and print report.html from a browser"
PATIENCE = 600
"""Seconds that a page may take to print; one of hundreds of pictures takes tens."""
NODE = re.compile(rb"\(node\d{8}\)")
"""Name of an element in the PDF's structure."""
INCHES = {"paperWidth": 210 / 25.4, "paperHeight": 297 / 25.4}
FOOT = (
    '<div style="font: 7pt sans-serif; color: #444; width: 100%; padding: 0 14mm; display: flex;'
    ' justify-content: space-between">'
    '<span class="title"></span><span><span class="pageNumber"></span> / <span class="totalPages"></span></span></div>'
)
FIT = """
for (const each of document.querySelectorAll("details")) each.open = true;
for (const table of document.querySelectorAll(".scroll > table")) {
  const room = () => Math.floor(1000 * table.parentElement.clientWidth / table.scrollWidth) / 1000;
  const numbers = table.querySelectorAll("td .ci, td .sd:not(.why)");
  for (const each of numbers) each.style.whiteSpace = "nowrap";
  if (room() < .75) for (const each of numbers) each.style.whiteSpace = "";
  if (room() < 1) table.style.zoom = room();
}
"""
"""On paper nothing unfolds and nothing scrolls. An interval stands on one line unless the table then were too small to read."""
CONTENT = round((210 - 2 * 14) / 25.4 * 96)
"""Width of the page without its margins, in pixels of CSS: in a window as wide, tables are as wide as on paper."""


def browser() -> str:
    """Path of the browser that prints.

    Raises:
        RunError: there is none, or the package that drives it is not installed.
    """
    try:
        import selenium  # noqa: F401
    except ImportError:
        raise RunError(NEEDED.format(what="selenium", how="install it with: pip install 'cxr-eval[pdf]'")) from None
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise RunError(NEEDED.format(what="Chromium or Chrome", how="install one of them so that it is on PATH"))
    return found


def printed(page: bytes, browser: str, finished: str) -> bytes:
    """The page on A4, everything unfolded and wide tables made to fit, with page numbers.

    page: report.html. finished: when the run ended, ISO 8601; the PDF says that it was made then, so that the same run and
    browser give the same bytes.

    Raises:
        RunError: the browser did not start, or did not print.
    """
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    flags = ["--headless=new", "--disable-gpu", "--hide-scrollbars", f"--window-size={CONTENT},1000"]
    # Chromium refuses its sandbox to root; the page has no script that it did not bring and asks for nothing outside
    for flag in [*flags, *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else [])]:
        options.add_argument(flag)
    driver = shutil.which("chromedriver")
    service = webdriver.ChromeService(executable_path=driver) if driver else webdriver.ChromeService()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_bytes(page)
        try:
            session = webdriver.Chrome(options=options, service=service)
            try:
                data = _print(session, path)
            finally:
                session.quit()
        except WebDriverException as error:
            told = (error.msg or type(error).__name__).splitlines()[0]
            raise RunError(f"report.pdf: {browser} did not print the page ({told}); leave pdf out to write the rest") from None
    return _settled(data, finished)


def _print(session: Any, path: Path) -> bytes:
    session.set_page_load_timeout(PATIENCE)
    session.command_executor.client_config.timeout = PATIENCE
    session.get(path.as_uri())
    session.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    session.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": CONTENT, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    )
    session.execute_script(FIT)
    asked = {"printBackground": True, "displayHeaderFooter": True, "headerTemplate": "<span></span>", "footerTemplate": FOOT}
    asked |= {"generateTaggedPDF": True, "generateDocumentOutline": True, **INCHES}
    return base64.b64decode(session.execute_cdp_cmd("Page.printToPDF", asked)["data"])


def _settled(data: bytes, finished: str) -> bytes:
    """The PDF without what differs from one printing to the next, times and the numbers of nodes; in as many bytes."""
    nodes = {name: b"(node%08d)" % place for place, name in enumerate(dict.fromkeys(NODE.findall(data)), start=1)}
    data = NODE.sub(lambda found: nodes[found[0]], data)
    when = datetime.fromisoformat(finished).astimezone(UTC).strftime("%Y%m%d%H%M%S").encode()
    return re.sub(rb"(/(?:Creation|Mod)Date \(D:)\d{14}([^)]*\))", lambda found: found[1] + when + found[2], data)
