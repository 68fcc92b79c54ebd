"""The playground in JupyterLab in a real browser: typed into, generated with, moved by keys, stopped, looked at."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest

from tests.browser.jupyter import PICTURES, Server, open_notebook, run_all

pytestmark = pytest.mark.browser

OPEN = """\
import llmlab
lab = llmlab.load("demo")
playground = lab.playground("Name an animal.", temperature=1.2, top_k=8, top_p=0.9, seed=7)
playground"""

#: Labels, buttons and figures that are wider than the room they have.
CUT = """() => [...document.querySelectorAll(
    '.jp-OutputArea .widget-label, .jp-OutputArea button, .jp-OutputArea .widget-readout, .llmlab-distribution .p')]
    .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + (e.clientWidth ? 0 : 9999))
    .map(e => [e.textContent, e.scrollWidth, e.clientWidth])"""


def picture(what: Any, name: str) -> None:
    """Keep a picture of a page, or of a part of it."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    what.screenshot(path=PICTURES / f"{name}.png")


def button(page: Any, name: str, *, of: int = 0) -> Any:
    return page.locator(f".jp-OutputArea button:has-text('{name}')").nth(of)


def slider(page: Any, name: str, *, of: int = 0) -> Any:
    """The handle of the slider with this label."""
    rows = page.locator(f".widget-slider:has(.widget-label:text-is('{name}'))")
    return rows.nth(of).locator(".noUi-handle")


def shown_rows(page: Any, *, of: int = 0) -> list[str]:
    rows = page.locator(".llmlab-distribution").nth(of).locator(".row[title]")
    return rows.evaluate_all("rows => rows.map(row => row.title)")


def tokens(page: Any) -> int:
    return page.locator(".llmlab-strip .text .k").count()


def until_changed(page: Any, before: list[str], *, of: int = 0) -> list[str]:
    page.wait_for_function(
        "([of, before]) => {"
        " const shown = document.querySelectorAll('.llmlab-distribution');"
        " const rows = shown[of] ? [...shown[of].querySelectorAll('.row[title]')].map(row => row.title) : [];"
        " return rows.length && JSON.stringify(rows) != JSON.stringify(before); }",
        arg=[of, before],
    )
    return shown_rows(page, of=of)


def test_a_prompt_is_typed_generated_moved_and_stopped(jupyter: Server, chromium: Any) -> None:
    jupyter.theme("Light")
    name = jupyter.write("light.ipynb", OPEN, "lab.playground('Another one.')")
    with open_notebook(chromium, jupyter, name, height=1250) as (page, complaints):
        run_all(page)
        page.wait_for_selector(".llmlab-distribution .row[title]")
        first = shown_rows(page)
        assert len(first) == 12

        # A prompt is typed, and its distribution comes by itself.
        box = page.locator(".jp-OutputArea textarea:visible").first
        box.fill("")
        box.type("Tell me a short story.")
        until_changed(page, first)

        # Everything from here on by keys alone: from the prompt to the button, and press it.
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent").strip() == "Generate"
        page.keyboard.press("Enter")
        page.wait_for_selector(".llmlab-strip .text .k")
        page.wait_for_selector("text=finished: stop")

        # The temperature by the arrow keys: another picture, and no other answer.
        said = page.locator(".llmlab-strip").first.inner_text()
        before = shown_rows(page)
        slider(page, "temperature").focus()
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        warm = until_changed(page, before)
        assert page.locator(".widget-readout").first.inner_text() == "1.40"
        assert [row.split(" · ")[1] for row in warm] == [row.split(" · ")[1] for row in before], (
            "the same raw distribution"
        )
        assert page.locator(".llmlab-strip").first.inner_text() == said
        picture(page.locator(".jp-OutputArea-output:has(.llmlab-distribution)").first, "playground")
        assert page.evaluate(CUT) == []

        # A long answer grows, and is stopped.
        button(page, "More parameters").click()
        page.get_by_label("ignore_eos").first.check()
        button(page, "Generate").click()
        page.wait_for_function("document.querySelectorAll('.llmlab-strip .text .k').length > 30")
        few = tokens(page)
        page.wait_for_function(f"document.querySelectorAll('.llmlab-strip .text .k').length > {few}")
        assert "so far" in page.locator(".llmlab-strip").first.inner_text()
        button(page, "Stop").click()
        page.wait_for_selector("text=finished: interrupted")
        assert page.evaluate(CUT) == []

        # What cannot be asked is said where it stands.
        field = page.locator(".widget-text:has(.widget-label:text-is('logit_bias')) input").first
        field.fill("{oops")
        field.press("Enter")
        error = page.locator(".llmlab-playground.error")
        error.wait_for()
        assert "logit_bias must be JSON" in error.inner_text()
        assert 0 < error.bounding_box()["y"] - field.bounding_box()["y"] < 60
        picture(page, "playground-error")
        field.fill("")
        field.press("Enter")
        error.wait_for(state="detached")
        assert complaints == []


def test_two_sides_in_the_dark_and_a_narrow_page(jupyter: Server, chromium: Any) -> None:
    jupyter.theme("Dark")
    name = jupyter.write("dark.ipynb", OPEN)
    with open_notebook(chromium, jupyter, name, height=1500) as (page, complaints):
        run_all(page)
        page.wait_for_selector(".llmlab-distribution .row[title]")
        button(page, "Compare A and B").click()
        page.wait_for_function("document.querySelectorAll('.llmlab-distribution .row[title]').length == 24")
        before = shown_rows(page, of=1)
        slider(page, "temperature", of=1).focus()
        for _ in range(10):
            page.keyboard.press("ArrowRight")
        assert until_changed(page, before, of=1) != shown_rows(page, of=0)
        button(page, "Generate").click()
        page.wait_for_function("document.body.innerText.split('finished: stop').length == 3")
        button(page, "Copy as code").click()
        page.wait_for_selector(".llmlab-playground.snippet pre")
        assert "lab.chat(" in page.locator(".llmlab-playground.snippet pre").inner_text()
        page.locator(".llmlab-playground.snippet .copy").click()
        page.wait_for_selector("button:has-text('Copied')")
        button(page, "History").click()
        assert page.locator(".jp-OutputArea select[size] option, .jp-OutputArea .widget-select option").count() >= 2
        picture(page, "playground-dark")
        assert page.evaluate(CUT) == []
        page.set_viewport_size({"width": 600, "height": 1500})
        page.wait_for_timeout(300)
        picture(page, "playground-narrow")
        assert page.evaluate(CUT) == []
        over = "[...document.querySelectorAll('.jp-OutputArea-output')].some(e => e.scrollWidth > e.clientWidth + 1)"
        assert not page.evaluate(over), "nothing hangs out to the side"

        # A notebook that is saved holds the picture for wherever widgets cannot run.
        page.keyboard.press("Control+s")
        page.wait_for_function("() => !document.querySelector('.jp-mod-dirty')")
        saved = nbformat.read(jupyter.notebooks / name, as_version=4)
        data = next(o.data for o in saved.cells[0].outputs if o.output_type == "execute_result")
        assert "application/vnd.jupyter.widget-view+json" in data
        assert "llmlab-distribution" in data["text/html"] and "run the cell" in data["text/html"]
        assert complaints == []
