"""The style sheets of everything shown as HTML, with the colours of light and dark notebooks."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from llmlab.display import palette
from llmlab.display.html import Markup

#: How JupyterLab, Colab, Sphinx and VS Code say that they are dark.
_DARK_HOSTS = ('[data-jp-theme-light="false"]', 'html[theme="dark"]', '[data-theme="dark"]', ".vscode-dark")


@cache
def style_sheet(name: str) -> Markup:
    """The rules of `<name>.css` on one line, with the colours of a light notebook and those of a dark one."""
    dark = ", ".join(f"{host} .llmlab-{name}" for host in _DARK_HOSTS)
    colours = f".llmlab-{name} {{ {_variables(dark=False)} }} {dark} {{ {_variables(dark=True)} }}"
    return _on_one_line(f"{colours} {_rules(name)}")


@cache
def page_sheet() -> Markup:
    """The rules of a page of its own, which is dark where the reader's system is."""
    light = f":root {{ color-scheme: light dark; {_variables(dark=False)} }}"
    dark = f"@media (prefers-color-scheme: dark) {{ :root, :root .llmlab-strip {{ {_variables(dark=True)} }} }}"
    return _on_one_line(f"{light} {dark} {_rules('page')}")


def _rules(name: str) -> str:
    """A style sheet of this room without its comments."""
    return re.sub(r"/\*.*?\*/", "", (files("llmlab.display") / f"{name}.css").read_text("utf-8"), flags=re.DOTALL)


def _on_one_line(sheet: str) -> Markup:
    # Style sheets are made of this room's own text alone, and `>` in them must stay what it is.
    return Markup(" ".join(sheet.split()))


def _variables(*, dark: bool) -> str:
    inks = {
        "page": (palette.DARK_PAGE if dark else palette.LIGHT_PAGE, "page", "ink"),
        "panel": (palette.DARK_PANEL if dark else palette.LIGHT_PANEL, "panel", "panel-ink"),
        "control": (palette.DARK_CONTROL if dark else palette.LIGHT_CONTROL, "control", "control-ink"),
    }
    pairs = [f"--{back}:{ink.back};--{text}:{ink.text}" for ink, back, text in inks.values()]
    ramp = palette.DARK_RAMP if dark else palette.LIGHT_RAMP
    pairs += [f"--b{at}:{ink.back};--t{at}:{ink.text}" for at, ink in enumerate(ramp)]
    pairs.append(f"--faint:{(palette.DARK_FAINT if dark else palette.LIGHT_FAINT).text}")
    pairs.append("--line:#3a424d;--mark:#e69f00" if dark else "--line:#d0d7de;--mark:#d55e00")
    pairs.append(f"--bar:{palette.SKY if dark else palette.BLUE}")
    pairs.append(f"--top_k:{palette.ORANGE};--top_p:{palette.PURPLE};--min_p:{palette.GREEN}")
    return ";".join(pairs) + ";"
