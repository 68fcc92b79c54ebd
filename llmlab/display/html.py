"""HTML from templates that escape every value: nothing that a model or a user wrote can become markup.

The templates are the `.html` files beside this one, in Jinja's language. A value is escaped unless it is `Markup`, and
`Markup` is made here, of literal text, or of parts that were escaped already.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

__all__ = ["Markup", "escape", "fragment", "render", "with_line_breaks"]


def render(name: str, **values: Any) -> str:
    """The template `<name>.html` filled with values, each escaped unless it is `Markup`."""
    return _environment().get_template(name).render(**values)


def fragment(template: str, *values: Any) -> Markup:
    """A short piece of HTML: a literal template whose `{}` are filled with values, escaped unless they are `Markup`.

    >>> fragment("<b>{}</b>", "a < b")
    Markup('<b>a &lt; b</b>')
    """
    return Markup(template).format(*values)


def with_line_breaks(text: str) -> Markup:
    """A text for an attribute, escaped, its line breaks written as character references."""
    return escape(text).replace("\n", Markup("&#10;"))


@cache
def _environment() -> Environment:
    return Environment(autoescape=True, undefined=StrictUndefined, loader=FunctionLoader(_source))


def _source(name: str) -> str:
    """The template on one line: its line breaks and indentation are for its readers alone."""
    lines = (files("llmlab.display") / f"{name}.html").read_text("utf-8").splitlines()
    return "".join(line.strip() for line in lines)
