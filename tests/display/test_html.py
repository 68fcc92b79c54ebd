from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from llmlab.display.html import Markup, fragment, render, with_line_breaks
from llmlab.display.theme import page_sheet, style_sheet

HOSTILE = "<script>alert('x')</script> & \"quoted\""


def test_a_fragment_escapes_everything_except_markup() -> None:
    assert fragment('<b title="{}">{}</b>', HOSTILE, Markup("<i>i</i>")) == (
        '<b title="&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &#34;quoted&#34;"><i>i</i></b>'
    )
    assert fragment("{}", fragment("<b>{}</b>", "<")) == "<b>&lt;</b>", "nothing is escaped twice"


def test_line_breaks_of_an_attribute_are_references() -> None:
    assert with_line_breaks('a\n"b"') == "a&#10;&#34;b&#34;"


@pytest.mark.parametrize("name", ["banner", "message"])
def test_a_template_escapes_every_value(name: str) -> None:
    values = {
        "head": HOSTILE,
        "lines": [HOSTILE],
        "warnings": [HOSTILE],
        "sheet": style_sheet("strip"),
        "text": HOSTILE,
    }
    page = render(name, **values)
    assert type(page) is str, "what is added to it later is no template's business"
    assert "<script" not in page and page.count("&lt;script&gt;") == (3 if name == "banner" else 1)


def test_a_template_without_a_value_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'head' is undefined"):
        render("banner", lines=[], warnings=[])


def test_style_sheets_stay_as_they_are() -> None:
    for sheet in (
        style_sheet("strip"),
        style_sheet("distribution"),
        style_sheet("playground"),
        style_sheet("audit"),
        page_sheet(),
    ):
        assert isinstance(sheet, Markup) and "\n" not in sheet and "/*" not in sheet
        assert fragment("<style>{}</style>", sheet) == f"<style>{sheet}</style>"
