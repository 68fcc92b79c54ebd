"""The playground in JupyterLab in a real browser: typed into, generated with, moved by keys, stopped, looked at."""

from __future__ import annotations

import json
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


def press(page: Any, name: str, key: str, times: int, *, of: int = 0) -> None:
    """Press a key on a slider, as fast as it goes, once the slider is there: what is hidden takes no focus."""
    handle = slider(page, name, of=of)
    handle.wait_for()
    handle.focus()
    for _ in range(times):
        page.keyboard.press(key)


def number(page: Any, name: str, *, of: int = 0) -> Any:
    """The box beside the slider with this label."""
    rows = page.locator(f".widget-hbox:has(> .widget-slider .widget-label:text-is('{name}'))")
    return rows.nth(of).locator("input")


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
        assert len(first) == 12 + 1, "and all others"

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
        press(page, "temperature", "ArrowRight", 4)
        box = number(page, "temperature").element_handle()
        page.wait_for_function("box => box.value == '1.4'", arg=box)  # the kernel has all four presses
        warm = until_changed(page, before)
        raw = [[row.partition("raw ")[2].partition(" ")[0] for row in rows] for rows in (before, warm)]
        assert raw[0] == raw[1] and all(raw[0]), "the same raw distribution"
        assert page.locator(".llmlab-strip").first.inner_text() == said
        page.wait_for_timeout(1000)  # for the picture alone: the distribution of the last step
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
        page.wait_for_function("document.querySelectorAll('.llmlab-distribution .row[title]').length == 2 * 13")
        before = shown_rows(page, of=1)
        press(page, "temperature", "ArrowRight", 10, of=1)
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


#: None of these is a step of its slider, and some lie beyond its ends.
OFF_EVERY_GRID = {
    "temperature": 0.33, "top_p": 0.975, "min_p": 0.0053, "top_k": 38, "frequency_penalty": 0.123456789,
    "presence_penalty": -1.05, "repetition_penalty": 0.0123, "min_tokens": 301, "n": 3, "logit_bias": {"7": 0.1},
    "stop": ["\r\n", "END"], "seed": 2**62 + 1, "max_tokens": 303,
}  # fmt: skip


def outputs(jupyter: Server, page: Any, name: str, *, cells: int) -> list[str]:
    """The texts that the cells of a notebook have printed, once all of them have run and the notebook is saved."""
    printed = ".jp-Notebook .jp-OutputArea-output[data-mime-type*=stdout]"
    page.wait_for_function(f"document.querySelectorAll('{printed}').length == {cells}")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+s")
    page.wait_for_function("() => !document.querySelector('.jp-mod-dirty')")
    saved = nbformat.read(jupyter.notebooks / name, as_version=4)
    return [o.text for cell in saved.cells for o in cell.outputs if o.output_type == "stream" and o.name == "stdout"]


def test_a_browser_changes_no_value_that_was_given_or_typed(jupyter: Server, chromium: Any) -> None:
    jupyter.theme("Light")
    prompt = "Tell me\r\na short story."
    opening = f"""\
import json, llmlab
lab = llmlab.load("demo")
playground = lab.playground({prompt!r}, **{OFF_EVERY_GRID!r})
playground"""
    show = "print(playground.request.to_json())"
    more = "print(playground.result.request.to_json()); print(playground.state.snippets('A')['JSON'])"
    name = jupyter.write("values.ipynb", opening, show, show, more)
    with open_notebook(chromium, jupyter, name, height=1500) as (page, complaints):
        page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
        page.keyboard.press("Escape")
        page.keyboard.press("Shift+Enter")
        page.wait_for_selector(".llmlab-distribution .row[title]")
        button(page, "Compare A and B").click()  # the second side is drawn as well
        page.wait_for_function("document.querySelectorAll('.llmlab-distribution .row[title]').length == 2 * 13")
        button(page, "Compare A and B").click()
        button(page, "More parameters").click()
        for field, value in OFF_EVERY_GRID.items():
            if isinstance(value, int | float) and field not in ("seed", "max_tokens"):
                assert number(page, field).input_value() == repr(value)
        cell = page.locator(".jp-Notebook .jp-CodeCell .cm-content")
        cell.nth(1).click()
        page.keyboard.press("Shift+Enter")
        [drawn] = outputs(jupyter, page, name, cells=1)
        given = {"messages": [{"role": "user", "content": prompt}], **OFF_EVERY_GRID}
        assert json.loads(drawn) == given

        # What is typed is taken to the last digit, and a slider that is moved goes to a step in decimals.
        typed = {"top_p": "0.995", "temperature": "0.7654321", "min_p": "0.00049", "min_tokens": "2", "max_tokens": "4"}
        for field, text in typed.items():
            box = page.locator(f".widget-text:has(.widget-label:text-is('{field}')) input").first
            box = box if field == "max_tokens" else number(page, field)
            box.fill(text)
            box.press("Enter")
        press(page, "presence_penalty", "ArrowRight", 1)
        press(page, "top_k", "ArrowRight", 1)
        page.wait_for_function(
            "[...document.querySelectorAll('.widget-hbox > .widget-text input')].some(e => e.value == '50')"
        )
        cell.nth(2).click()
        page.keyboard.press("Shift+Enter")
        _, moved = outputs(jupyter, page, name, cells=2)
        wanted = given | {"top_p": 0.995, "temperature": 0.7654321, "min_p": 0.00049, "min_tokens": 2, "max_tokens": 4}
        assert json.loads(moved) == wanted | {"presence_penalty": -1.0, "top_k": 50}

        # The answer and the code have the same values.
        button(page, "Generate").click()
        page.wait_for_selector("text=finished: ")
        page.wait_for_function("!document.body.innerText.includes('so far')")
        cell.nth(3).click()
        page.keyboard.press("Shift+Enter")
        *_, answered = outputs(jupyter, page, name, cells=3)
        result, _, code = answered.partition("\n")
        assert json.loads(result) == json.loads(code) == json.loads(moved)
        assert complaints == []


def test_a_token_is_clicked_and_the_answer_goes_on_from_there(jupyter: Server, chromium: Any) -> None:
    jupyter.theme("Light")
    name = jupyter.write("click.ipynb", OPEN.replace("Name an animal.", "Tell me a short story."))
    with open_notebook(chromium, jupyter, name, height=1500) as (page, complaints):
        run_all(page)
        page.wait_for_selector(".llmlab-distribution .row[title]")
        button(page, "Generate").click()
        page.wait_for_selector("text=finished: stop")
        before = shown_rows(page)
        page.locator(".llmlab-strip .text .k").nth(5).click()
        page.wait_for_selector("text=position 5 of the answer")
        assert shown_rows(page) != before
        page.locator(".llmlab-strip .text .k").nth(9).click()
        page.wait_for_selector("text=position 9 of the answer")
        page.wait_for_selector("text=go on from position 9 with")
        picture(page.locator(".jp-OutputArea-output:has(.llmlab-distribution)").first, "playground-click")
        kept = page.locator(".llmlab-strip .text .k").all_inner_texts()[:9]
        chosen = page.locator(".widget-hbox:has-text('go on from position 9') > .widget-dropdown select")
        page.wait_for_function("box => box.selectedIndex == 0", arg=chosen.element_handle())
        spelled = chosen.evaluate("box => box.options[box.selectedIndex].text").split()[0]
        button(page, "Go on").click()
        page.wait_for_function(
            "([kept, spelled]) => {"
            " const shown = [...document.querySelectorAll('.llmlab-strip .text .k')].map(e => e.innerText);"
            " return shown.length > 10 && shown[9].trim() == spelled.replaceAll('␣', '').trim()"
            "  && JSON.stringify(shown.slice(0, 9)) == JSON.stringify(kept); }",
            arg=[kept, spelled],
        )
        page.wait_for_function("!document.body.innerText.includes('so far')")
        assert page.evaluate(CUT) == []

        # Two sides: where their answers differ, and why, stands below them.
        button(page, "Compare A and B").click()
        press(page, "temperature", "ArrowRight", 8, of=1)
        box = number(page, "temperature", of=1).element_handle()
        page.wait_for_function("box => box.value == '1.6'", arg=box)  # the kernel has all eight presses
        button(page, "Generate").click()
        page.wait_for_selector(".llmlab-playground.compared")
        assert "temperature 1.2 → 1.6" in page.locator(".llmlab-playground.compared").inner_text()
        picture(page.locator(".jp-OutputArea-output:has(.llmlab-distribution)").first, "playground-compared")
        assert page.evaluate(CUT) == []
        assert complaints == []
