"""Widgets that share their layouts and styles, so that a page takes few messages to open.

Each layout and each style is a model of its own: it is sent to the page in a message of its own, before the widget
that refers to it. A kernel's output socket throws messages away if more than some 500 of them wait to be sent, and a
page cannot draw a box one of whose parts it was never told of. By default two thirds of all models would be layouts
and styles, nearly all of them equal.
"""

from __future__ import annotations

from typing import Any, TypeVar

import ipywidgets as widgets

Shown = TypeVar("Shown", bound=widgets.DOMWidget)


class Looks:
    """Makes the widgets of one playground; equal layouts and equal styles are one object.

    A shared layout must not be changed: whatever is hidden and shown again gets a `widgets.Layout` of its own.
    """

    def __init__(self) -> None:
        self._layouts: dict[tuple[tuple[str, str], ...], widgets.Layout] = {}
        self._styles: dict[tuple[type, tuple[tuple[str, str], ...]], widgets.Style] = {}

    def layout(self, **fields: str) -> widgets.Layout:
        """The shared layout with these fields."""
        key = tuple(sorted(fields.items()))
        if key not in self._layouts:
            self._layouts[key] = widgets.Layout(**fields)
        return self._layouts[key]

    def make(
        self,
        kind: type[Shown],
        /,
        *values: Any,
        layout: widgets.Layout | None = None,
        style: dict[str, str] | None = None,
        **traits: Any,
    ) -> Shown:
        """A widget of a kind.

        Args:
            kind: the class of the widget.
            values: its arguments by position.
            layout: its layout; None: the default layout, shared.
            style: the fields of its style, which is shared; None: the default style.
            traits: its other arguments.
        """
        trait = kind.class_traits().get("style")  # a box has none
        if trait is not None:
            given = style or {}
            key = (trait.klass, tuple(sorted(given.items())))
            if key not in self._styles:
                self._styles[key] = trait.klass(**given)
            traits["style"] = self._styles[key]
        return kind(*values, layout=self.layout() if layout is None else layout, **traits)

    def html(self, text: str = "", **fields: str) -> widgets.HTML:
        """HTML that always has its place; the fields are those of its layout."""
        return self.make(widgets.HTML, text, layout=self.layout(margin="0", **fields))

    def hidden_html(self, text: str = "") -> widgets.HTML:
        """A line of HTML that is hidden at first."""
        return self.make(widgets.HTML, text, layout=widgets.Layout(display="none", margin="0"))

    def button(self, text: str, icon: str, hint: str, **traits: Any) -> widgets.Button:
        """A button as wide as its text."""
        layout = traits.pop("layout", None) or self.layout(width="auto")
        return self.make(widgets.Button, description=text, icon=icon, tooltip=hint, layout=layout, **traits)

    def toggle(self, text: str, icon: str, hint: str) -> widgets.ToggleButton:
        """A button that stays pressed until it is clicked again, as wide as its text."""
        layout = self.layout(width="auto")
        return self.make(widgets.ToggleButton, description=text, icon=icon, tooltip=hint, layout=layout)
