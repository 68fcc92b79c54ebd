"""The widgets of one side of the playground: its controls, next-token distribution, answer, and request as code."""

from __future__ import annotations

from functools import partial
from typing import Any

import ipywidgets as widgets

from llmlab.display import bars
from llmlab.display.html import Markup, fragment
from llmlab.display.strip import strip
from llmlab.display.theme import style_sheet
from llmlab.errors import LLMLabError, RequestError
from llmlab.playground.controls import Control
from llmlab.playground.looks import Looks
from llmlab.playground.number import NumberControl
from llmlab.playground.places import Places
from llmlab.playground.run import Run
from llmlab.playground.state import State
from llmlab.results.result import Result

#: The most tokens that a strip shows here; all tokens are in `playground.result`.
_TOKENS = 1_000
#: Wide enough for the longest label of a group, so that none is cut off.
_LABEL, _LONG_LABEL = "130px", "232px"
_FULL = "100%"
#: The formats that a request can be copied in.
SPELLINGS = ("Python", "JSON", "openai", "curl")


class SideView:
    """The widgets of one side.

    Args:
        state: the settings and answers that the widgets show and change.
        name: the name of the side.
        looks: makes the widgets.
    """

    def __init__(self, state: State, name: str, looks: Looks) -> None:
        self._state = state
        self.name = name
        self._looks = looks
        self.controls = {control.name: make_control(control, looks) for control in state.controls}
        self._errors = {control.name: looks.hidden_html() for control in state.controls}
        self._error = looks.hidden_html()
        self.heading = looks.hidden_html(fragment("<b>{}</b>", name))
        self.distribution = looks.html(bars.message("…"), width=_FULL)
        self.places = Places(
            looks=looks, label_width=_LABEL, moved=self._move, go_on=lambda token: state.go_on(name, token)
        )
        self.status = looks.make(widgets.HTML, layout=looks.layout(margin="0 0 0 8px"))
        self.answer = looks.html(width=_FULL)
        self._more = looks.toggle("More parameters", "sliders", "Parameters that are rarely changed")
        self._copy = looks.toggle(
            "Copy as code", "code", "This request as Python, as JSON, for the openai package, for curl"
        )
        self._spelling = looks.make(widgets.ToggleButtons, options=SPELLINGS, style={"button_width": "auto"})
        self._snippet = looks.html(width=_FULL)
        self.box = self._laid_out()
        self._set_values()
        # From now on every change that the user makes is passed to the state.
        for field, control in self.controls.items():
            control.observe(partial(self._changed, field), names="value")
        self._spelling.observe(lambda _: self.show_snippets(), names="value")

    def _move(self, position: int, choice: int) -> None:
        side = self._state.sides[self.name]
        if (position, choice) != (side.position, side.choice):
            self._state.move(self.name, position, choice=choice)

    def _changed(self, control: str, change: dict[str, Any]) -> None:
        self._state.change(self.name, control, change["new"])

    # --- what is shown ----------------------------------------------------------------------------------------------

    def show_distribution(self, shown: bars.DistributionBars | str) -> None:
        """Show a distribution, or a text that says why there is none."""
        self.distribution.value = bars.message(shown) if isinstance(shown, str) else bars.to_html(shown)
        self.places.offer(None if isinstance(shown, str) else shown, position=self._state.sides[self.name].position)

    def show_answer(self, result: Result, *, live: bool) -> None:
        """Show the token strip; while the answer is in progress, its end stays visible."""
        completion = result.data
        drawn = strip(completion, names=completion.control_tokens, limit=_TOKENS)
        notes = Markup("").join(fragment('<div class="note">note: {}</div>', note) for note in result.notes)
        follow = " follow" if live and len(result) == 1 else ""
        clicks = self.places.on_click if self._state.has_logits else ""
        self.answer.value = styled(f"answer{follow}", Markup(drawn) + notes, on_click=clicks)

    def show_run(self, run: Run) -> None:
        """Show a finished answer."""
        self.show_answer(run.result, live=False)
        reasons = run.result.finish_reasons
        self.status.value = "stopped" if "interrupted" in reasons else ""
        self.show_positions(run.result)
        self.show_snippets()

    def show_positions(self, result: Result | None) -> None:
        """Show the slider for the position in an answer, if there are distributions to show."""
        there = result is not None and self._state.has_logits
        self.places.show(result if there else None, position=self._state.sides[self.name].position)

    def show_error(self, error: LLMLabError | None) -> None:
        """Show an error below the control that it names; None removes the errors."""
        place = self._errors.get(str(error.param)) if error is not None else None
        for line in (*self._errors.values(), self._error):
            text = error_line(error) if error is not None and line is (place or self._error) else ""
            if line.value != text:
                line.value = text
                line.layout.display = "" if text else "none"
        if error is not None:
            self.status.value = ""
            if any(control.name == error.param and control.group == "more" for control in self._state.controls):
                self._more.value = True

    def show_values(self) -> None:
        """Show the settings of the state, after something other than the controls has changed them."""
        self._set_values()
        side = self._state.sides[self.name]
        self.show_positions(side.result)
        if side.result is not None:
            self.show_answer(side.result, live=False)

    def show_snippets(self) -> None:
        """Show the request in the chosen format."""
        if not self._copy.value:
            return
        try:
            spelled = self._state.snippets(self.name)
        except RequestError as error:
            self._snippet.value = error_line(error)
            return
        text = spelled.get(
            str(self._spelling.value), "There is no such call for a raw prompt: a chat endpoint takes messages."
        )
        copy = fragment('<button class="copy" onclick="{}">Copy</button><pre tabindex="0">{}</pre>', _COPY, text)
        shown = styled("snippet", copy)
        if self._snippet.value != shown:
            self._snippet.value = shown

    # --- layout ----------------------------------------------------------------------------------------------------

    def _laid_out(self) -> widgets.Widget:
        looks = self._looks
        sampling, answer, more = (self._group(group) for group in ("sampling", "answer", "more"))
        more_box = looks.make(widgets.VBox, more, layout=widgets.Layout(display="none", width=_FULL))
        copy_box = looks.make(
            widgets.VBox, [self._spelling, self._snippet], layout=widgets.Layout(display="none", width=_FULL)
        )
        shows(self._more, more_box)
        shows(self._copy, copy_box)
        self._copy.observe(lambda _: self.show_snippets(), names="value")
        buttons = [self._more, self._copy, self.status]
        column = looks.layout(flex="1 1 330px", min_width="0", max_width="720px")
        controls = looks.make(widgets.VBox, [*sampling, *answer], layout=column)
        distribution = looks.make(widgets.VBox, [self.distribution, *self.places.widgets], layout=column)
        # Next to each other, as far as there is room; the others go below.
        wrapping = looks.layout(flex_flow="row wrap", width=_FULL, grid_gap="0 14px", align_items="flex-start")
        row = looks.layout(flex_flow="row wrap", align_items="center")
        return looks.make(
            widgets.VBox,
            [
                self.heading,
                looks.make(widgets.HBox, [controls, distribution], layout=wrapping),
                looks.make(widgets.HBox, buttons, layout=row),
                more_box, copy_box, self._error, self.answer,
            ],
            layout=widgets.Layout(flex="1 1 340px", min_width="0", overflow="hidden"),
        )  # fmt: skip

    def _group(self, group: str) -> list[widgets.Widget]:
        """The controls of a group, each with the line for its error below it."""
        return [
            widget
            for control in self._state.controls
            if control.group == group
            for widget in (_shown(self.controls[control.name]), self._errors[control.name])
        ]

    def _set_values(self) -> None:
        for name, value in self._state.sides[self.name].values.items():
            self.controls[name].value = value


def make_control(control: Control, looks: Looks) -> widgets.Widget | NumberControl:
    """The widget of a control, with its whole label."""
    label = _LONG_LABEL if control.group == "more" else _LABEL
    layout = looks.layout(width=_FULL, margin="1px 0")
    if control.kind in ("number", "count"):
        return NumberControl(control, looks=looks, label_width=label, layout=layout)
    common: dict[str, Any] = {"description": control.name, "tooltip": control.hint, "value": control.default}
    style = {"description_width": label}
    if control.kind == "flag":
        layout = looks.layout(width="auto", margin=f"1px 0 1px calc({label} + 4px)")
        return looks.make(widgets.Checkbox, indent=False, layout=layout, style=style, **common)
    if control.kind == "choice":
        return looks.make(widgets.Dropdown, options=control.choices, layout=layout, style=style, **common)
    return looks.make(
        widgets.Text, placeholder=control.empty, continuous_update=False, layout=layout, style=style, **common
    )


def _shown(control: widgets.Widget | NumberControl) -> widgets.Widget:
    return control.widget if isinstance(control, NumberControl) else control


def shows(button: widgets.ToggleButton, box: widgets.Widget) -> None:
    """Show a box only while a button is pressed."""

    def follow(change: dict[str, Any]) -> None:
        box.layout.display = "" if change["new"] else "none"

    button.observe(follow, names="value")


def error_line(error: LLMLabError) -> str:
    """An error and its notes as HTML."""
    lines = [str(error), *getattr(error, "__notes__", ())]
    return styled("error", Markup("<br>").join(lines), role="alert")


def styled(kind: str, inside: Markup | str, *, role: str = "", on_click: str = "") -> str:
    """A part of the playground as HTML with its style sheet; text is escaped. `on_click` is JavaScript."""
    sheet = Markup(style_sheet("playground"))
    named = fragment(' role="{}"', role) if role else Markup("")
    named += fragment(' onclick="{}"', on_click) if on_click else Markup("")
    return str(fragment('<style>{}</style><div class="llmlab-playground {}"{}>{}</div>', sheet, kind, named, inside))


#: Selects the snippet and copies it. This also works on pages that have no access to the clipboard API.
_COPY = (
    "const text = this.parentElement.querySelector('pre'); getSelection().selectAllChildren(text);"
    " document.execCommand('copy'); this.textContent = 'Copied'; setTimeout(() => this.textContent = 'Copy', 1500);"
)
