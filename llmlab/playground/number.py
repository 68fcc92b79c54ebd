"""The widgets of a number: a slider for quick changes, beside a box that holds the value itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from llmlab.playground.controls import Control
from llmlab.playground.looks import Looks
from llmlab.playground.notches import nearest, notches, parsed

#: Wide enough for a number of nine digits.
_BOX = "88px"


class NumberControl:
    """A slider, and a box with the exact value, which can also be typed.

    A browser moves a slider to one of its steps as soon as it draws it, so the slider holds no value: it holds the
    index of the nearest step, and it sets the value only when it is moved to another one.

    Args:
        control: what is set; its kind is "number" or "count".
        looks: makes the widgets.
        label_width: the width of the label, in CSS.
        layout: of both widgets together.

    Attributes:
        widget: both widgets.
    """

    def __init__(self, control: Control, *, looks: Looks, label_width: str, layout: widgets.Layout) -> None:
        self._default = control.default
        self._notches = notches(control)
        self._observers: list[Callable[[dict[str, Any]], object]] = []
        self._value: float | str = control.default
        self.slider = looks.make(
            widgets.IntSlider, value=self._nearest(control.default), min=0, max=len(self._notches) - 1, readout=False,
            description=control.name, tooltip=control.hint, style={"description_width": label_width},
            layout=looks.layout(flex="1 1 auto", width="auto", min_width="0"),
        )  # fmt: skip
        self.box = looks.make(
            widgets.Text, value=_spelled(control.default), continuous_update=False,
            tooltip=f"{control.name}, to the last digit", layout=looks.layout(flex=f"0 0 {_BOX}", width=_BOX),
        )  # fmt: skip
        self.widget = looks.make(widgets.HBox, [self.slider, self.box], layout=layout)
        self.slider.observe(lambda change: self._moved(change["new"]), names="value")
        self.box.observe(lambda change: self._typed(change["new"]), names="value")

    @property
    def value(self) -> float | str:
        """The number, as it was given or typed; the text in the box while that is no number."""
        return self._value

    @value.setter
    def value(self, value: float | str) -> None:
        if value == self._value and type(value) is type(self._value):
            return
        self._value = value
        if self._read(self.box.value) != value:
            self.box.value = _spelled(value)
        if not isinstance(value, str):
            self.slider.value = self._nearest(value)
        for observer in self._observers:
            observer({"name": "value", "new": value, "owner": self})

    def observe(self, observer: Callable[[dict[str, Any]], object], names: str = "value") -> None:
        """Call a function with each change of the value, as ipywidgets does; `names` can only be "value"."""
        assert names == "value"
        self._observers.append(observer)

    def _moved(self, index: int) -> None:
        # An index that already stands for the value is the browser's answer to a value that was set.
        if isinstance(self._value, str) or index != self._nearest(self._value):
            self.value = self._notches[index]

    def _typed(self, text: str) -> None:
        self.value = self._read(text)

    def _read(self, text: str) -> float | str:
        return parsed(text) if text.strip() else self._default

    def _nearest(self, value: float) -> int:
        return nearest(self._notches, value)


def _spelled(value: float | str) -> str:
    return value if isinstance(value, str) else repr(value)
