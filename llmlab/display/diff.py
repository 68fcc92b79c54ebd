"""Two runs' tokens beside each other in HTML, with marks that are more than a colour, on light and on dark ground."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from llmlab.display import palette
from llmlab.display.html import Markup, fragment
from llmlab.display.theme import style_sheet

__all__ = ["MARKS", "frame_of", "marked"]

Mark: TypeAlias = Literal["removed", "added", ""]
#: How tokens of the run before and of the run after are marked that the other does not have.
MARKS: tuple[Mark, Mark] = ("removed", "added")
#: A viewer that drops the style sheet keeps what is inline.
_INLINE = {
    kind: f"background:{ink.back};color:{ink.text};{sign}"
    for kind, ink, sign in (
        ("removed", palette.LIGHT_REMOVED, "text-decoration:line-through"),
        ("added", palette.LIGHT_ADDED, "font-weight:600"),
    )
}


def marked(text: str, kind: Mark) -> Markup:
    """A token's text, marked as one that only the run before has ("removed"), or only the run after ("added")."""
    if not kind:
        return fragment("<span>{}</span>", text)
    return fragment('<span class="{}" style="{}">{}</span>', kind, _INLINE[kind], text)


def frame_of(parts: Iterable[Markup]) -> str:
    """The parts of a comparison as a fragment of HTML."""
    inside = Markup("").join(parts)
    return str(fragment('<div class="llmlab-diff"><style>{}</style>{}</div>', style_sheet("diff"), inside))
