"""The gallery in a browser: searched, ordered, faded and enlarged, by mouse and by keys, from a file and without network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cxr_eval.report import gallery_page
from cxr_eval.report.environment import environment
from cxr_eval.report.results import Results
from cxr_eval.store import Run
from tests.fake_run import Fake
from tests.test_report_browser import LIGHT, ON_DISK, browser, show

__all__ = ["browser"]

pytestmark = pytest.mark.browser

FAKE = Fake(
    models=("resnet18",),
    trainers=("standard", "pgd"),
    seeds=(0,),
    attacks=("pgd",),
    images=5,
    side=40,
    outside=(),
    corruptions=(),
)
"""`standard` is flipped on every image, `pgd` on none; the second explainer has no map of image 2."""
HOSTILE_FAKE = replace(
    FAKE,
    models=ON_DISK[:1],
    trainers=ON_DISK[1:],
    classes=ON_DISK[:3],
    explainers=ON_DISK[3:],
    images=2,
    side=16,
)
SKELETON = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Gallery</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{{ gallery_script_hash }}'">
<style>{% include "style.css" %}{% include "gallery.css" %}</style></head>
<body><main><h1>Report</h1>{% include "gallery.html.j2" %}</main></body></html>"""


def inline(fake: Fake, folder: Path, **more: Any) -> Path:
    """The gallery's section in a page of its own, with its pictures in it, under the policy of the report."""
    run = fake.write(folder)
    results = Results(run.rows(), run.manifest(), run.warnings())
    found = gallery_page.content(run, results, title="T", notice="", html=True, sheets=False, **more)
    page = folder / "section.html"
    text = environment("html").from_string(SKELETON).render(found | {"many": len(fake.models) > 6})
    page.write_text(text, encoding="utf-8")
    return page


def beside(fake: Fake, folder: Path) -> Path:
    """The page of all images, its pictures in files."""
    inline(fake, folder, budget=1)
    return folder / "gallery.html"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "inline": inline(FAKE, tmp_path_factory.mktemp("inline")),
        "files": beside(FAKE, tmp_path_factory.mktemp("files")),
        "hostile": beside(HOSTILE_FAKE, tmp_path_factory.mktemp("hostile")),
    }


def choose(browser: Any, name: str, words: str) -> None:
    """Take the option with these words at its beginning."""
    done = browser.execute_script(
        """
        const list = document.querySelector('form.tools').elements[arguments[0]];
        const option = [...list.options].find(option => option.text.startsWith(arguments[1]));
        list.value = option.value;
        list.dispatchEvent(new Event('input', {bubbles: true}));
        return option.text;
        """,
        name,
        words,
    )
    assert done.startswith(words)


def names(browser: Any) -> list[str]:
    """Images that are shown, in their order on the page."""
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('.item:not([hidden]) h3')].map(head => head.textContent)"
    )
    return found


def said(browser: Any) -> str:
    text: str = browser.find_element("css selector", "[role=status]").text
    return text


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def focused(browser: Any) -> str:
    """What the focus stands on, in words."""
    text: str = browser.execute_script(
        "return document.activeElement.getAttribute('aria-label') || document.activeElement.className"
    )
    return text


def image(number: int) -> str:
    return f"images/{number:04d}.png"


@pytest.mark.parametrize("which", ["inline", "files", "hostile"])
@pytest.mark.parametrize("width", [360, 768, 1600])
def test_nothing_sticks_out_no_error_is_told_and_no_request_leaves_the_folder(
    browser: Any, pages: dict[str, Path], which: str, width: int
) -> None:
    show(browser, pages[which], width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    out = browser.execute_script(
        """
        const wide = document.documentElement.clientWidth;
        return [...document.querySelectorAll('.gallery *')]
          .filter(e => !e.closest('.defs, dialog, .hidden') && e.checkVisibility())
          .filter(e => e.getBoundingClientRect().right > wide + 1)
          .map(e => e.outerHTML.slice(0, 80));
        """
    )
    assert out == []
    assert browser.get_log("browser") == []
    asked = [entry["message"] for entry in browser.get_log("performance") if "Network.requestWillBeSent" in entry["message"]]
    asked = [each for each in asked if f'"documentURL":"{pages[which].as_uri()}"' in each]  # not late ones of the page before
    folder = pages[which].parent.as_uri()
    assert asked
    assert [each for each in asked if '"url":"data:' not in each and f'"url":"{folder}/' not in each] == []


def test_pictures_beside_the_page_load_as_they_come_into_view(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["files"], width=1280)
    loaded = browser.execute_async_script(
        """
        const done = arguments[0], images = [...document.querySelectorAll('.item img')];
        images.forEach(image => { image.loading = 'eager'; });
        Promise.all(images.map(image => image.decode().then(() => true, () => false))).then(all => done(all));
        """
    )
    assert len(loaded) > 50
    assert all(loaded)
    assert browser.execute_script("return [...document.querySelectorAll('.items img')].every(image => image.alt === '')")
    text = pages["files"].read_text(encoding="utf-8")
    assert text.count("<img ") == text.count('loading="lazy"')


def test_without_the_script_every_image_is_there_and_no_control_is(browser: Any, pages: dict[str, Path]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, pages["inline"], width=1280)
        found = browser.find_elements("css selector", ".item")
        assert [item.is_displayed() for item in found] == [True] * 5
        assert not browser.find_element("css selector", "form.tools").is_displayed()
        assert browser.find_elements("css selector", ".shot[role=button]") == []
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("which", ["inline", "files"])
def test_lists_choose_images_and_the_count_is_told(browser: Any, pages: dict[str, Path], which: str) -> None:
    show(browser, pages[which], width=1280)
    assert names(browser) == [image(k) for k in range(5)]
    assert said(browser) == "5 of 5 images on this page shown."
    choose(browser, "label", "covid")  # classes in turn: 0 and 3
    assert names(browser) == [image(0), image(3)]
    assert said(browser) == "2 of 5 images on this page shown."
    choose(browser, "trainer", "pgd")
    assert browser.execute_script(
        "return [...new Set([...document.querySelectorAll('.row:not([hidden])')].map(r => r.dataset.trainer))]"
    ) == ["1"]
    choose(browser, "answer", "flipped")  # pgd is flipped on none
    assert names(browser) == []
    assert said(browser).startswith("No image is like that.")
    choose(browser, "answer", "kept")
    assert names(browser) == [image(0), image(3)]
    choose(browser, "trainer", "standard")
    assert names(browser) == []
    choose(browser, "answer", "flipped")
    assert names(browser) == [image(0), image(3)]
    browser.find_element("css selector", "button[type=reset]").click()
    browser.execute_async_script("setTimeout(arguments[0], 20)")
    assert len(names(browser)) == 5
    assert browser.get_log("browser") == []


def test_images_are_ordered_by_the_worst_network_that_is_shown(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["inline"], width=1280)
    table = browser.execute_script(
        """
        return [...document.querySelectorAll('.item')].map(item => [item.querySelector('h3').textContent,
          ...[...item.querySelectorAll('.row')].map(row => [row.dataset.trainer, row.dataset.mass, row.dataset.change])])
        """
    )
    by_mass = sorted(table, key=lambda line: min(float(row[1]) for row in line[1:] if row[1]))
    choose(browser, "order", "least relevance")
    assert names(browser) == [line[0] for line in by_mass]
    choose(browser, "trainer", "pgd")
    choose(browser, "order", "largest map change")
    by_change = sorted(table, key=lambda line: -float(next(row[2] for row in line[1:] if row[0] == "1")))
    assert names(browser) == [line[0] for line in by_change]
    choose(browser, "order", "as chosen")
    assert names(browser) == [image(k) for k in range(5)]


def test_the_slider_fades_the_maps_and_nothing_else(browser: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.keys import Keys

    opacity = "return getComputedStyle(document.querySelector(arguments[0])).opacity"
    for which, others in (("inline", ".shot use:not(.m)"), ("files", ".shot img:not(.m)")):
        show(browser, pages[which], width=1280)
        slider = browser.find_element("css selector", "input[type=range]")
        assert browser.execute_script(opacity, ".m") == "1"
        slider.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
        assert browser.execute_script(opacity, ".m") == "0.9"  # two steps of 5 %
        assert slider.get_attribute("aria-valuetext") == "90 %"
        assert browser.execute_script(opacity, others) == "1"


def test_layers_can_be_taken_away(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["inline"], width=1280)

    def seen(part: str) -> int:
        count: int = browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].filter(e => e.getClientRects().length).length", part
        )
        return count

    def box(words: str) -> Any:
        return browser.find_element("xpath", f"//form//label[contains(., '{words}')]/input")

    browser.execute_script("document.querySelectorAll('.item').forEach(item => { item.style.contentVisibility = 'visible'; })")
    assert (seen(".view"), seen("use.o") > 0) == (5 * 2 * 7, True)  # image and 2 maps clean, and a perturbation more attacked
    box("perturbation").click()
    assert seen(".view") == 5 * 2 * 6
    box("saliency").click()
    assert seen(".view") == 5 * 2 * 4
    box("outlines").click()
    assert seen("use.o") == 0


@pytest.mark.parametrize("which", ["inline", "files"])
def test_keys_alone_open_move_through_and_close_a_picture(browser: Any, pages: dict[str, Path], which: str) -> None:
    from selenium.webdriver.common.keys import Keys

    show(browser, pages[which], width=1280)
    browser.execute_script("document.querySelector('button[type=reset]').focus()")
    press(browser, Keys.TAB, Keys.TAB)  # over the list of keys to the first picture
    assert focused(browser) == "Clean image"
    press(browser, Keys.ARROW_RIGHT)
    assert focused(browser).startswith("Image: resnet18, standard, clean; covid 0.910")
    press(browser, Keys.ENTER)
    dialog = browser.find_element("css selector", "dialog")
    assert dialog.is_displayed()

    def part(name: str) -> str:
        text: str = dialog.find_element("css selector", f".{name}").text
        return text

    press(browser, Keys.ARROW_RIGHT)
    assert part("said") == "gradcam map: resnet18, standard, clean"
    assert part("where") == "Image 1 of 5, panel 3 of 15"
    press(browser, Keys.ARROW_DOWN)
    assert part("where") == "Image 2 of 5, panel 3 of 15"
    assert part("title") == image(1)
    press(browser, Keys.ARROW_UP, Keys.ARROW_UP)  # there is none before the first
    assert part("where") == "Image 1 of 5, panel 3 of 15"
    size = browser.execute_script(
        "const box = document.querySelector('dialog .shot').getBoundingClientRect(); return [box.width, box.height]"
    )
    assert size[0] == pytest.approx(size[1], abs=1)
    assert size[0] > 500  # of a window 900 high
    rendering = "return getComputedStyle(document.querySelector('dialog .shot')).imageRendering"
    assert browser.execute_script(rendering) == "pixelated"
    press(browser, Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert focused(browser) == "gradcam map: resnet18, standard, clean"
    assert browser.get_log("browser") == []


def test_a_click_opens_a_picture_and_buttons_move_and_close(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["files"], width=1280)
    browser.find_element("css selector", ".row .shot").click()
    dialog = browser.find_element("css selector", "dialog")
    assert dialog.is_displayed()
    dialog.find_element("css selector", "[data-go=right]").click()
    assert dialog.find_element("css selector", ".said").text.startswith("gradcam map")
    assert dialog.find_element("css selector", "[data-go=up]").get_attribute("aria-disabled") == "true"
    dialog.find_element("css selector", "button.close").click()
    assert not dialog.is_displayed()


def test_the_enlarged_picture_is_painted_also_of_an_image_far_down_the_page(browser: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.keys import Keys

    show(browser, pages["inline"], width=1280)
    browser.execute_script("document.querySelector('.shot').focus()")
    press(browser, Keys.ENTER, *[Keys.ARROW_DOWN] * 4)
    assert browser.find_element("css selector", "dialog .where").text.startswith("Image 5 of 5")
    used = browser.execute_script("return document.querySelector('dialog use').getBoundingClientRect().width")
    assert used > 500


def test_letters_go_from_image_to_image_show_the_keys_and_can_be_switched_off(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["inline"], width=1280)
    inside = "return document.activeElement.closest('.item')?.querySelector('h3').textContent"
    press(browser, "j")
    assert browser.execute_script(inside) == image(0)
    press(browser, "j", "j")
    assert browser.execute_script(inside) == image(2)
    press(browser, "k")
    assert browser.execute_script(inside) == image(1)
    press(browser, "m")
    faded = "return getComputedStyle(document.querySelector('.m')).opacity"
    assert browser.execute_script(faded) == "0"
    press(browser, "m", "o")
    assert browser.execute_script(faded) == "1"
    assert not browser.execute_script("return document.querySelector('form.tools').elements.outlines.checked")
    press(browser, "?")
    assert browser.find_element("css selector", "details.keys dl").is_displayed()
    browser.find_element("css selector", "input[name=letters]").click()
    press(browser, "j")
    assert browser.execute_script(inside) is None


def test_one_picture_of_each_image_is_a_stop_of_the_tab_key_and_each_has_words(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["inline"], width=1280)
    assert browser.execute_script("return document.querySelectorAll('.shot[tabindex=\"0\"]').length") == 5
    assert browser.execute_script(
        "return [...document.querySelectorAll('.shot')].every(shot => shot.getAttribute('aria-label'))"
    )
    unlabelled = "return [...document.querySelectorAll('form select, form input')].filter(c => !c.labels.length).length"
    assert browser.execute_script(unlabelled) == 0


def test_hostile_names_are_text_in_lists_pictures_and_the_enlarged_one(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["hostile"], width=1280)
    assert browser.execute_script("return document.scripts.length") == 1
    options = browser.execute_script("return [...document.querySelectorAll('select[name=label] option')].map(o => o.text)")
    assert ON_DISK[0] in options
    browser.find_element("css selector", ".row .shot").click()
    assert ON_DISK[0] in browser.find_element("css selector", "dialog .said").get_attribute("textContent")
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("dark", [False, True])
def test_words_and_controls_stand_out_from_their_ground(browser: Any, pages: dict[str, Path], dark: bool) -> None:
    show(browser, pages["inline"], width=1280, dark=dark)
    worst = browser.execute_script(
        LIGHT
        + """
        document.querySelector('details.keys').open = true;
        const words = 'p, h2, h3, h4, dt, dd, span, legend, label, select, button, kbd, summary';
        return [...document.querySelectorAll(`.gallery :is(${words})`)]
          .filter(e => e.textContent.trim() && !e.matches('.hidden, .shot'))
          .map(e => {
            const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
            return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 60)];
          }).reduce((a, b) => b[0] < a[0] ? b : a);
        """
    )
    assert worst[0] >= 4.5, worst[1]  # WCAG 2.2, success criterion 1.4.3


def test_with_many_models_their_panels_open_on_demand(browser: Any, tmp_path: Path) -> None:
    fake = replace(FAKE, models=tuple(f"net_{k}" for k in range(7)), trainers=("a",), images=1, side=16)
    show(browser, inline(fake, tmp_path), width=1280)
    assert said(browser) == "1 of 1 image on this page shown."
    row = browser.find_element("css selector", ".row")
    assert not row.is_displayed()
    browser.find_element("css selector", ".item details summary").click()
    assert row.is_displayed()
    choose(browser, "model", "net_3")
    shown = "return [...document.querySelectorAll('.sheet:not([hidden]) .model')].map(name => name.textContent)"
    assert browser.execute_script(shown) == ["net_3, seed 0"]


def test_runs_without_attacks_or_regions_have_only_the_controls_that_do_something(browser: Any, tmp_path: Path) -> None:
    fake = replace(FAKE, attacks=(), conditions=("clean",), trainers=("a",), images=1)
    run = Run(inline(fake, tmp_path).parent)
    show(browser, run.folder / "section.html", width=360)
    text = browser.find_element("css selector", ".gallery").text
    assert "Perturbation" not in text
    assert "perturbation" not in text
    assert browser.get_log("browser") == []
