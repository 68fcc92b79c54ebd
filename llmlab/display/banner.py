"""The banner of a lab: its model, what it runs on, and its warnings."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from llmlab.display.html import render
from llmlab.display.progress import in_notebook

__all__ = ["as_html", "as_text", "show"]


def show(lab: object) -> None:
    """Show a lab's banner in the notebook, or on standard error where there is no notebook."""
    if in_notebook():
        from IPython.display import display

        display(lab)
    else:
        sys.stderr.write(f"{lab!r}\n")


def as_text(facts: Mapping[str, Any]) -> str:
    """The banner for a terminal.

    Args:
        facts: what the backend's `describe` returns.
    """
    head, rest, warnings = _lines(facts)
    return "\n".join([f"llmlab · {head}", *rest, *(f"*** {text} ***" for text in warnings)])


def as_html(facts: Mapping[str, Any]) -> str:
    """The banner for a notebook; see `as_text`."""
    head, rest, warnings = _lines(facts)
    return render("banner", head=head, lines=rest, warnings=warnings)


def _lines(facts: Mapping[str, Any]) -> tuple[str, list[str], list[str]]:
    """The model's name, lines about it, and its warnings. A fact that is not known is left out."""
    model = [str(facts["family"])] if facts.get("family") else []
    if facts.get("parameters"):
        model.append(f"{_short(facts['parameters'], 1000, ('', ' K', ' M', ' B', ' T'))} parameters")
    if facts.get("dtype"):
        model.append(str(facts["dtype"]))
    if facts.get("weight_bytes"):
        model.append(f"{_bytes(facts['weight_bytes'])} of weights")
    place = [f"on {facts['device']}"] if facts.get("device") else []
    if facts.get("memory_bytes"):
        place.append(f"{_bytes(facts['memory_bytes'])} of memory free")
    if facts.get("context"):
        place.append(f"context {facts['context']:,} tokens")
    if facts.get("slots"):
        place.append(f"{facts['slots']} slots")
    loud = [str(facts["warning"])] if facts.get("warning") else []
    notes = [str(note) for note in facts.get("notes") or () if note not in loud]
    lines = [line for line in (" · ".join(model), " · ".join(place), *notes) if line]
    return str(facts["model"]), lines, loud


def _bytes(count: int) -> str:
    return _short(count, 1000, (" B", " kB", " MB", " GB", " TB"))


def _short(number: float, base: int, units: Sequence[str]) -> str:
    at = 0
    while number >= base and at < len(units) - 1:
        number /= base
        at += 1
    return f"{number:.0f}{units[at]}" if number >= 100 or at == 0 else f"{number:.1f}{units[at]}"
