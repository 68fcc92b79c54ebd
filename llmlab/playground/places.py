"""The widgets for a position in an answer: a slider, clicks on tokens, and going on from there with another token."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import ipywidgets as widgets

from llmlab.display.bars import DistributionBars
from llmlab.display.html import fragment
from llmlab.playground.looks import Looks
from llmlab.results.result import Result
from llmlab.text.numbers import probability

_FULL = "100%"


class Places:
    """A slider for the position whose distribution is shown, and a list of tokens to go on with in its place.

    A click on a token of the strip moves the slider. The page has no script of its own: the token's handler writes the
    token's place into a hidden text box, whose changes every notebook passes on.

    Args:
        looks: makes the widgets.
        label_width: the width of the slider's label, in CSS.
        moved: called with a position and a choice.
        go_on: called with a token id.

    Attributes:
        slider: the position.
        box: the list of tokens with its button.
        clicked: the hidden text box.
        on_click: the handler for the element around the strip, in JavaScript.
    """

    def __init__(
        self,
        *,
        looks: Looks,
        label_width: str,
        moved: Callable[[int, int], None],
        go_on: Callable[[int], None],
    ) -> None:
        self._result: Result | None = None
        self._choice = 0
        self._moved = moved
        self.slider = looks.make(
            widgets.IntSlider, value=0, min=0, max=1, description="position",
            tooltip="Position of the token whose distribution is shown",
            style={"description_width": label_width}, layout=widgets.Layout(width=_FULL, display="none"),
        )  # fmt: skip
        self._where = looks.make(widgets.HTML)
        self.tokens = looks.make(widgets.Dropdown, options=[], layout=looks.layout(width="13em"))
        self.button = looks.button(
            "Go on",
            "step-forward",
            "Continue the answer from this position with this token, under the present settings",
        )
        row = widgets.Layout(flex_flow="row wrap", align_items="center", width=_FULL, display="none")
        self.box = looks.make(widgets.HBox, [self._where, self.tokens, self.button], layout=row)
        self.clicked = looks.make(widgets.Text, layout=looks.layout(display="none"))
        name = f"llmlab-clicked-{secrets.token_hex(6)}"
        self.clicked.add_class(name)
        self.on_click = _ON_CLICK.replace("BOX", name)
        self.slider.observe(lambda change: self._slid(change["new"]), names="value")
        self.clicked.observe(lambda change: self._was_clicked(change["new"]), names="value")
        self.button.on_click(lambda _: None if self.tokens.value is None else go_on(self.tokens.value))

    @property
    def widgets(self) -> list[widgets.Widget]:
        """All of its widgets, from top to bottom."""
        return [self.slider, self.box, self.clicked]

    def show(self, result: Result | None, *, position: int = 0) -> None:
        """Show the slider at a position of an answer's first choice; None hides it."""
        self._result = result
        self._range(0, position)
        if result is None:
            self.offer(None, position=0)

    def offer(self, bars: DistributionBars | None, *, position: int) -> None:
        """List the most likely tokens of a distribution to go on with, except the one that the answer has."""
        size = self._size(self._choice)
        there = bars is not None and self._result is not None and position < size
        if bars is not None and self._result is not None and there:
            drawn = int(self._result.choices[self._choice].tokens.ids[position])
            places = [at for at, token in enumerate(bars.token_ids) if token != drawn]
            shown = [f"{bars.labels[at]}  {probability(float(bars.raw[at]))}" for at in places]
            options = list(zip(shown, [bars.token_ids[at] for at in places], strict=True))
            if options != list(self.tokens.options):  # what the user has chosen stays until the position changes
                self.tokens.options = options
                self.tokens.index = None  # the page shows the new options with none of them chosen until this changes
                self.tokens.index = 0
            self._where.value = str(fragment("go on from position {} with&nbsp;", position))
        self.box.layout.display = "" if there else "none"

    def _size(self, choice: int) -> int:
        choices = () if self._result is None else self._result.choices
        return len(choices[choice].tokens) if choice < len(choices) else 0

    def _range(self, choice: int, position: int) -> None:
        """Set the slider to a position of a choice; its old position may lie outside the new range."""
        last = max(self._size(choice) - 1, 0)
        self._choice = choice
        self.slider.layout.display = "" if last > 0 else "none"
        with self.slider.hold_trait_notifications():
            self.slider.max = max(last, 1)
            self.slider.value = min(position, last)

    def _slid(self, position: int) -> None:
        self._moved(position, self._choice)

    def _was_clicked(self, text: str) -> None:
        choice, _, rest = text.partition(" ")
        position = rest.partition(" ")[0]
        if not (choice.isdecimal() and position.isdecimal()):
            return
        if self._result is None or int(position) >= self._size(int(choice)):
            return  # an answer that is still growing has no distributions yet
        before = self.slider.value
        self._range(int(choice), int(position))
        if self.slider.value == before:  # of another choice: the slider has not moved
            self._slid(before)


#: Writes "choice position time" of the token that was clicked into the hidden box; the time makes every click a change.
_ON_CLICK = (
    "const token = event.target.closest('.llmlab-strip .text .k'), box = document.querySelector('.BOX input');"
    " if (token && box) { const choice = token.closest('.choice'), all = [...choice.parentElement.children];"
    " const at = [...choice.querySelectorAll('.run .k')].indexOf(token);"
    " box.value = [all.indexOf(choice), at, Date.now()].join(' ');"
    " for (const kind of ['input', 'change']) box.dispatchEvent(new Event(kind, {bubbles: true})); }"
)
