"""The report in a browser: nothing asks for the network, everything is seen, nothing sticks out."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cxr_eval.report.render import render
from cxr_eval.types import RowWarning
from tests.fake_run import HOSTILE, Fake

pytestmark = pytest.mark.browser

ON_DISK = tuple(name.replace("\ud800", "") for name in HOSTILE)
"""Hostile names without the half character that no file can hold."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=Service(driver))
    yield session
    session.quit()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of ordinary names."""
    published = [
        {
            "source": "Wang et al., CVPR 2017, table 7",
            "short": "Wang 2017",
            "data": "ChestX-ray8",
            "numbers": [
                {"values": {"localisation_accuracy[covid@0.1]": 0.6, "localisation_accuracy[covid@0.3]": 0.2}},
                {"values": {"accuracy": 0.97, "kappa": 0.5}},
            ],
        }
    ]
    fake = Fake(
        seeds=(0, 1),
        images=2,
        failed=(("densenet121", "pgd", 1),),
        thresholds=("0.1", "0.3"),
        settings={"fgsm": ("pgd", {"steps": 1}), "pgd": ("pgd", {"steps": 10})},
        changes={"published": published},
    )
    return render(fake.write(tmp_path_factory.mktemp("plain")), ("html",))["html"]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose names try to be markup, and to be wide."""
    fake = Fake(
        models=ON_DISK[:1],
        trainers=ON_DISK[1:],
        seeds=(0,),
        attacks=ON_DISK[3:],
        classes=ON_DISK[:3],
        explainers=ON_DISK[4:],
        outside=(ON_DISK[4],),
        conditions=("clean",),
        thresholds=("0.1",),
        settings={name: (ON_DISK[0], {ON_DISK[1]: name}) for name in ON_DISK[1:]},
        changes={
            "published": [
                {
                    "source": ON_DISK[0],
                    "short": ON_DISK[4][:40],
                    "data": ON_DISK[1],
                    "numbers": [{"values": {"accuracy": 0.5, ON_DISK[0]: 0.1}}],
                }
            ]
        },
        images=1,
        title=ON_DISK[0] + ON_DISK[4],
        warnings=tuple(RowWarning(name, "warn", name, name) for name in ON_DISK),
    )
    return render(fake.write(tmp_path_factory.mktemp("hostile")), ("html",))["html"]


LIGHT = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const light = colour => {
  canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
    .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = element => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (colour !== 'rgba(0, 0, 0, 0)') return colour;
  }
  return 'white';
};
"""
"""Script: relative luminance of a colour (WCAG 2), and the ground that an element stands on."""


def show(browser: Any, page: Path, *, width: int, dark: bool = False) -> None:
    """Open the page at a width in CSS pixels."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.as_uri())


@pytest.mark.parametrize("which", ["plain", "hostile"])
def test_the_page_opens_without_console_errors_and_asks_for_nothing(
    browser: Any, which: str, request: pytest.FixtureRequest
) -> None:
    page: Path = request.getfixturevalue(which)
    show(browser, page, width=1280)
    assert browser.get_log("browser") == []
    requests = [entry["message"] for entry in browser.get_log("performance") if "Network.requestWillBeSent" in entry["message"]]
    outside = [message for message in requests if '"url":"data:' not in message and page.as_uri() not in message]
    assert outside == []


@pytest.mark.parametrize("width", [360, 768, 1280, 1400, 1600])
@pytest.mark.parametrize("which", ["plain", "hostile"])
def test_the_page_never_scrolls_sideways(browser: Any, which: str, width: int, request: pytest.FixtureRequest) -> None:
    show(browser, request.getfixturevalue(which), width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [360, 768, 1280, 1400, 1600])
def test_nothing_sticks_out_but_what_scrolls_in_a_region_with_a_name(browser: Any, plain: Path, width: int) -> None:
    show(browser, plain, width=width)
    outside = browser.execute_script(
        """
        const seen = [...document.querySelectorAll('main *')].filter(e => e.getClientRects().length);
        const cut = e => e.closest('.scroll, pre, svg, .hidden, .doubts summary');
        const wide = seen.filter(e => !cut(e) && e.getBoundingClientRect().right > innerWidth + 1);
        return wide.map(e => e.outerHTML.slice(0, 200));
        """
    )
    assert outside == []
    nameless = "return [...document.querySelectorAll('.scroll')].filter(box => !box.getAttribute('aria-label')).length"
    assert browser.execute_script(nameless) == 0


@pytest.mark.parametrize("size", [(1280, 900), (1600, 1000)])
def test_the_first_screen_holds_the_three_answers_and_the_overview(browser: Any, plain: Path, size: tuple[int, int]) -> None:
    show(browser, plain, width=size[0])
    ends = "return [...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect().bottom)"
    answers, (table,) = browser.execute_script(ends, ".answers section"), browser.execute_script(ends, ".overview table")
    assert len(answers) == 3
    assert answers == sorted(answers)
    assert max(answers) < table < size[1]
    assert [head.text for head in browser.find_elements("css selector", ".answers h2")] == [
        "Which trainer?",
        "How sure?",
        "What was not tested?",
    ]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", ["plain", "hostile"])
def test_the_page_passes_the_checks_of_axe(browser: Any, which: str, dark: bool, request: pytest.FixtureRequest) -> None:
    package = pytest.importorskip("axe_core_python", reason="needs axe-core-python")
    axe = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    show(browser, request.getfixturevalue(which), width=1280, dark=dark)
    browser.set_script_timeout(120)
    browser.execute_script("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    browser.execute_script(axe)
    found = browser.execute_async_script(
        """
        const done = arguments[0];
        axe.run(document, {resultTypes: ['violations']}).then(result => done(
          result.violations.map(one => [one.id, one.nodes.length, one.nodes[0].html.slice(0, 200)])));
        """
    )
    assert found == []


def test_headings_step_down_one_level_at_a_time_from_a_single_title(browser: Any, plain: Path) -> None:
    show(browser, plain, width=1280)
    levels = browser.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(head => Number(head.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_a_warning_and_all_lines_of_a_long_overview_open_with_the_keyboard_alone(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    fake = replace(Fake(), models=tuple(f"net_{k}" for k in range(21)), trainers=("a", "b", "c", "d"), seeds=(0,))
    fake = replace(fake, radii=("0.02",), images=0, warnings=(RowWarning("odd", "warn", "run", "Look here."),))
    show(browser, render(fake.write(tmp_path), ("html",))["html"], width=1280)
    lines = "return [...document.querySelectorAll('.overview tbody tr:not(.group)')].filter(e => e.checkVisibility()).length"
    assert browser.execute_script(lines) == 12
    browser.find_element("css selector", ".overview details summary").send_keys(Keys.ENTER)
    assert browser.execute_script(lines) == 12 + 84
    kept = browser.execute_script(
        """
        const box = document.querySelector('.overview .tall');
        box.scrollTop = 400;
        return box.querySelector('thead th').getBoundingClientRect().top - box.getBoundingClientRect().top;
        """
    )
    assert abs(kept) <= 1  # the head stays in sight
    warning = browser.find_element("css selector", ".doubts li p")
    assert not warning.is_displayed()
    browser.find_element("css selector", ".doubts summary").send_keys(Keys.ENTER)
    assert warning.text == "Look here.\nHolds for: the whole run (odd)"


def test_all_pictures_load_and_every_panel_shows_one(browser: Any, plain: Path) -> None:
    show(browser, plain, width=1280)
    broken = browser.execute_async_script(
        """
        const done = arguments[0], images = [...document.querySelectorAll('svg image')];
        Promise.all(images.map(image => new Promise(tell => {
          const copy = new Image();
          copy.onload = () => tell(copy.naturalWidth > 0 ? null : image.id);
          copy.onerror = () => tell(image.id);
          copy.src = image.getAttribute('href');
        }))).then(found => done([images.length, found.filter(Boolean)]));
        """
    )
    assert broken[0] > 30
    assert broken[1] == []
    missing = browser.execute_script(
        "return [...document.querySelectorAll('use')]"
        ".map(use => (use.getAttribute('href') || use.getAttribute('xlink:href')).slice(1))"
        ".filter(id => !document.getElementById(id))"
    )
    assert missing == []


def test_the_first_words_to_be_seen_are_the_demonstration_notice(browser: Any, plain: Path) -> None:
    show(browser, plain, width=1280)
    text = browser.find_element("tag name", "body").text
    assert text.startswith("DEMONSTRATION: these are drawn images of no patient")


def test_hostile_names_are_seen_as_text(browser: Any, hostile: Path) -> None:
    show(browser, hostile, width=1280)
    text = " ".join(browser.find_element("tag name", "main").get_attribute("textContent").split())
    for name in (ON_DISK[0], ON_DISK[1], ON_DISK[3], ON_DISK[4]):
        assert " ".join(name.split()) in text
    assert browser.execute_script("return document.scripts.length") == 1  # ours


def test_the_keyboard_reaches_the_skip_link_first_and_the_wide_tables_after_it(browser: Any, plain: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    show(browser, plain, width=1280)
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.execute_script("return document.activeElement.className") == "skip"
    assert browser.execute_script("return document.activeElement.getBoundingClientRect().top") >= 0
    unreachable = "return [...document.querySelectorAll('.scroll')].filter(box => box.tabIndex !== 0).length"
    assert browser.execute_script(unreachable) == 0


@pytest.mark.parametrize("dark", [False, True])
def test_words_stand_out_from_their_ground_in_light_and_dark(browser: Any, plain: Path, dark: bool) -> None:
    show(browser, plain, width=1280, dark=dark)
    worst = browser.execute_script(
        LIGHT
        + """
        const seen = [...document.querySelectorAll('p, th, td, li, h1, h2, h3, span, a, dd, dt, summary, strong')]
          .filter(e => e.textContent.trim() && !e.closest('.hidden'));
        return Math.min(...seen.map(e => {
          const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
          return (a + 0.05) / (b + 0.05);
        }));
        """
    )
    assert worst >= 4.5  # WCAG 2.2, success criterion 1.4.3


def test_published_numbers_are_slanted_and_on_another_ground_than_ours(browser: Any, plain: Path) -> None:
    show(browser, plain, width=1280)
    style = "const s = getComputedStyle(document.querySelector(arguments[0])); return [s.fontStyle, s.backgroundColor]"
    published, ours = (browser.execute_script(style, cell) for cell in ("td.v.pub", "td.v:not(.pub)"))
    assert (published[0], ours[0]) == ("italic", "normal")
    assert published[1] != ours[1]
    assert "Published numbers that stand in no table: 1" in browser.find_element("tag name", "main").text


def test_with_many_models_what_each_has_opens_on_demand(browser: Any, tmp_path: Path) -> None:
    fake = replace(
        Fake(), models=tuple(f"net_{k}" for k in range(7)), trainers=("b",), seeds=(0,), radii=("0.02",), images=1, side=16
    )
    show(browser, render(fake.write(tmp_path), ("html",))["html"], width=1280)
    curves = browser.find_element("css selector", "#robustness ~ details .panels")
    assert not curves.is_displayed()
    browser.find_element("css selector", "#robustness ~ details summary").click()
    assert curves.is_displayed()
    assert browser.get_log("browser") == []


def test_a_run_without_gallery_or_attacks_opens_too(browser: Any, tmp_path: Path) -> None:
    fake = replace(Fake(), models=("a",), trainers=("b",), seeds=(0,), attacks=(), explainers=(), images=0, corruptions=())
    page = render(fake.write(tmp_path), ("html",))["html"]
    show(browser, page, width=360)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
