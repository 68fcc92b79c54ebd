"""The style sheets of everything shown as HTML."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from llmlab.display import palette


@cache
def style_sheet(name: str) -> str:
    """The rules of `<name>.css` with their colours, on one line; a dark notebook theme brings its own."""
    # How JupyterLab, Colab, Sphinx and VS Code say that they are dark.
    dark_hosts = ('[data-jp-theme-light="false"]', 'html[theme="dark"]', '[data-theme="dark"]', ".vscode-dark")
    rules = re.sub(r"/\*.*?\*/", "", (files("llmlab.display") / f"{name}.css").read_text("utf-8"), flags=re.DOTALL)
    dark = ", ".join(f"{host} .llmlab-{name}" for host in dark_hosts)
    sheet = f".llmlab-{name} {{ {_variables(dark=False)} }} {dark} {{ {_variables(dark=True)} }} {rules}"
    return " ".join(sheet.split())


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
