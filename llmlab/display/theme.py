"""The style sheets of everything shown as HTML, with the colours of light and dark notebooks.

Each output holds its own sheet, so that it is whole wherever it is shown: in a notebook whose other outputs are gone,
or in a page made of it. So a sheet is small: it holds only the colours that its rules use, and its rules are nested in
the name of the part that they are for.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from llmlab.display import palette
from llmlab.display.html import Markup

#: How JupyterLab, Colab, Sphinx and VS Code say that they are dark.
_DARK_HOSTS = ('[data-jp-theme-light="false"]', 'html[theme="dark"]', '[data-theme="dark"]', ".vscode-dark")
#: Characters around which a style sheet needs no space.
_TIGHT = re.compile(r"\s*([{};,>])\s*|(:)\s+")


@cache
def style_sheet(name: str, more: str = "") -> Markup:
    """The rules of `<name>.css` on one line, with the colours of a light notebook and those of a dark one.

    Args:
        name: of the part: its elements have the class `llmlab-<name>`.
        more: further rules, written as those in the file.
    """
    part = f".llmlab-{name}"
    written = f"{rules(name)} {more}"
    light, dark = (_variables(written, dark=dark) for dark in (False, True))
    nested, apart = _nested(written, part)
    hosts = f":is({', '.join(_DARK_HOSTS)})"
    return _on_one_line(f"{part} {{ {light} {nested} }} {hosts} {part} {{ {dark} }} {apart}")


@cache
def page_sheet() -> Markup:
    """The rules of a page of its own, which is dark where the reader's system is."""
    light = f":root {{ color-scheme: light dark; {_variables(None, dark=False)} }}"
    parts = ":root, :root :is(.llmlab-strip, .llmlab-audit)"
    dark = f"@media (prefers-color-scheme: dark) {{ {parts} {{ {_variables(None, dark=True)} }} }}"
    return _on_one_line(f"{light} {dark} {rules('page')}")


def _nested(written: str, part: str) -> tuple[str, str]:
    """The rules for what lies inside a part, without its name, to be nested in it; and all other rules."""
    inside, apart = [], []
    for selectors, body in re.findall(r"\s*([^{}]+?)\s*\{((?:[^{}]|\{[^{}]*\})*)\}", written):
        each = [one.strip() for one in selectors.split(",")]
        if all(one == part for one in each):
            inside.append(body.strip().rstrip(";") + ";")
        elif all(one.startswith(f"{part} ") for one in each):
            inside.append(f"{', '.join(one.removeprefix(part).strip() for one in each)} {{ {body} }}")
        else:
            apart.append(f"{selectors} {{ {body} }}")
    # The declarations of the part itself come before the rules nested in it.
    return " ".join(sorted(inside, key=lambda one: one.endswith("}"))), " ".join(apart)


def rules(name: str) -> str:
    """The rules of `<name>.css`, without its comments."""
    return re.sub(r"/\*.*?\*/", "", (files("llmlab.display") / f"{name}.css").read_text("utf-8"), flags=re.DOTALL)


def _on_one_line(sheet: str) -> Markup:
    # Style sheets are made of this room's own text alone, and `>` in them must stay what it is.
    return Markup(_TIGHT.sub(r"\1\2", " ".join(sheet.split())).replace(";}", "}"))


def _variables(written: str | None, *, dark: bool) -> str:
    """The colours that some rules use; all of them for None."""
    inks = {
        "page": (palette.DARK_PAGE if dark else palette.LIGHT_PAGE, "page", "ink"),
        "panel": (palette.DARK_PANEL if dark else palette.LIGHT_PANEL, "panel", "panel-ink"),
        "control": (palette.DARK_CONTROL if dark else palette.LIGHT_CONTROL, "control", "control-ink"),
        "removed": (palette.DARK_REMOVED if dark else palette.LIGHT_REMOVED, "removed", "removed-ink"),
        "added": (palette.DARK_ADDED if dark else palette.LIGHT_ADDED, "added", "added-ink"),
    }
    found: dict[str, str] = {}
    for ink, back, text in inks.values():
        found |= {back: ink.back, text: ink.text}
    for at, ink in enumerate(palette.DARK_RAMP if dark else palette.LIGHT_RAMP):
        found |= {f"b{at}": ink.back, f"t{at}": ink.text}
    found["faint"] = (palette.DARK_FAINT if dark else palette.LIGHT_FAINT).text
    found |= {"line": "#3a424d", "mark": "#e69f00"} if dark else {"line": "#d0d7de", "mark": "#d55e00"}
    found["bar"] = palette.SKY if dark else palette.BLUE
    found |= {"top_k": palette.ORANGE, "top_p": palette.PURPLE, "min_p": palette.GREEN}
    used = found if written is None else set(re.findall(r"var\(--([\w-]+)\)", written))
    return " ".join(f"--{name}:{colour};" for name, colour in found.items() if name in used)
