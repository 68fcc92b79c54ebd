"""What is shown as HTML, in a real browser: heights, colours on light and dark ground, and each output by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from llmlab.counterfactuals.diff import Diff
from llmlab.display import palette
from llmlab.display.bars import to_html
from llmlab.display.strip import strip
from tests.browser.jupyter import PICTURES
from tests.completions import make_completion, make_tokens
from tests.display.test_bars import bars_of

pytestmark = pytest.mark.browser


def answer(tokens: int) -> Any:
    return make_completion(make_tokens([t % 10 for t in range(tokens)]))


@pytest.fixture
def shown(chromium: Any) -> Iterator[Any]:
    """Draws pieces of HTML in a page as a notebook would, in its light or its dark theme."""
    pages = []

    def show(*pieces: str, dark: bool = False, width: int = 960) -> Any:
        page = chromium.new_page(viewport={"width": width, "height": 1200})
        pages.append(page)
        ground = "#111111" if dark else "#ffffff"
        inside = "".join(f'<section id="s{at}">{piece}</section>' for at, piece in enumerate(pieces))
        page.set_content(f'<body data-jp-theme-light="{str(not dark).lower()}" style="background:{ground}">{inside}')
        return page

    yield show
    for page in pages:
        page.close()


def colours(page: Any, selector: str) -> tuple[str, str]:
    """The ground and the ink of an element, as #rrggbb."""
    found = page.locator(selector).first.evaluate(
        "element => [getComputedStyle(element).backgroundColor, getComputedStyle(element).color]"
    )
    ground, ink = ("#{:02x}{:02x}{:02x}".format(*map(int, re.findall(r"\d+", colour)[:3])) for colour in found)
    return ground, ink


@pytest.mark.parametrize("width", [960, 560])
def test_a_short_strip_is_short_and_grows_for_the_details(shown: Any, width: int) -> None:
    page = shown(strip(answer(1)), strip(answer(5)), strip(answer(200)), width=width)
    heights = [page.locator(f"#s{at}").bounding_box()["height"] for at in range(3)]
    assert max(heights[:2]) < 150 < 300 < heights[2]
    token = page.locator("#s0 .text .k").first
    place = token.bounding_box()
    token.hover()
    # The panel is inside the output, all of it, and the token has not moved under the pointer.
    panel = page.evaluate(
        "() => { const token = document.querySelector('#s0 .text .k');"
        " const style = getComputedStyle(token, '::after'); const body = document.querySelector('#s0 .body');"
        " return [style.content, parseFloat(style.height), body.getBoundingClientRect().height]; }"
    )
    assert "probability" in panel[0] and "all others" in panel[0]
    assert panel[1] <= panel[2] and token.bounding_box() == place
    page.screenshot(path=PICTURES / f"strip-{width}.png") if PICTURES.exists() else None
    page.mouse.move(5, 1190)
    assert page.locator("#s0").bounding_box()["height"] == heights[0]


@pytest.mark.parametrize("dark", [False, True])
def test_a_diff_can_be_read_on_either_ground(shown: Any, dark: bool) -> None:
    before, after = make_completion(make_tokens((0, 1, 2, 37))), make_completion(make_tokens((0, 1, 8, 9, 37), key=1))
    page = shown(Diff(before, after)._repr_html_(), dark=dark)
    marks = {kind: colours(page, f".llmlab-diff .{kind}") for kind in ("removed", "added")}
    expected = (palette.DARK_REMOVED, palette.DARK_ADDED) if dark else (palette.LIGHT_REMOVED, palette.LIGHT_ADDED)
    assert list(marks.values()) == [tuple(ink) for ink in expected]
    for ground, ink in marks.values():
        assert palette.contrast(ground, ink) > 7
        # No patch of the other theme: it stands out from the page by less than the text does.
        assert palette.contrast(ground, "#111111" if dark else "#ffffff") < 3


@pytest.mark.parametrize("dark", [False, True])
def test_each_output_is_whole_by_itself(shown: Any, dark: bool) -> None:
    pieces = [strip(answer(5)), strip(answer(200)), to_html(bars_of())]
    alone = [shown(piece, dark=dark) for piece in pieces]
    together = shown(*pieces, dark=dark)
    for at, (page, part) in enumerate(
        zip(alone, (".llmlab-strip", ".llmlab-strip", ".llmlab-distribution"), strict=True)
    ):
        assert colours(page, f"#s0 {part}") == colours(together, f"#s{at} {part}")
        assert colours(page, f"#s0 {part}") == tuple(palette.DARK_PAGE if dark else palette.LIGHT_PAGE)
        assert page.locator("#s0").bounding_box()["height"] == together.locator(f"#s{at}").bounding_box()["height"]
    for step, ink in enumerate(palette.DARK_RAMP if dark else palette.LIGHT_RAMP):
        assert colours(together, f"#s1 .key .p{step}") == tuple(ink)


def test_the_bars_add_up_to_the_whole(shown: Any) -> None:
    prob = np.array([0.08, 0.07, 0.04])
    page = shown(to_html(bars_of(
        labels=("a", "b", "c"), token_ids=(0, 1, 2), raw=prob, prob=prob, final=prob, removed_by=("",) * 3,
        vocab_size=2048, kept=2048,
    )))  # fmt: skip
    rows = page.locator(".row:not(.top)")
    assert rows.count() == 4 and "2,045 others" in rows.last.inner_text() and "0.810" in rows.last.inner_text()
    widths = [rows.nth(at).locator(".bar").bounding_box()["width"] for at in range(4)]
    track = rows.first.locator(".track").bounding_box()["width"]
    np.testing.assert_allclose(np.array(widths) / track, [0.08, 0.07, 0.04, 0.81], atol=0.01)
