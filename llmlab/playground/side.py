"""The widgets of one side of the playground: its controls, next-token distribution, answer, and request as code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from llmlab.display import bars
from llmlab.display.html import Markup, fragment
from llmlab.display.strip import strip
from llmlab.display.theme import style_sheet
from llmlab.errors import LLMLabError, RequestError
from llmlab.playground.controls import Control
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
    """

    def __init__(self, state: State, name: str) -> None:
        self._state = state
        self.name = name
        self.controls = {control.name: make_control(control) for control in state.controls}
        self._errors = {control.name: hidden_html() for control in state.controls}
        self._error = hidden_html()
        self.heading = hidden_html(fragment("<b>{}</b>", name))
        self.distribution = widgets.HTML(bars.message("…"), layout=widgets.Layout(width=_FULL, margin="0"))
        self.position = widgets.IntSlider(
            value=0, min=0, max=1, description="position", tooltip="Position of the token whose distribution is shown",
            style={"description_width": _LABEL}, layout=widgets.Layout(width=_FULL, display="none"),
        )  # fmt: skip
        self.status = widgets.HTML("", layout=widgets.Layout(margin="0 0 0 8px"))
        self.answer = widgets.HTML("", layout=widgets.Layout(width=_FULL, margin="0"))
        self._more = toggle("More parameters", "sliders", "Parameters that are rarely changed")
        self._copy = toggle("Copy as code", "code", "This request as Python, as JSON, for the openai package, for curl")
        self._spelling = widgets.ToggleButtons(options=SPELLINGS, style={"button_width": "auto"})
        self._snippet = widgets.HTML(layout=widgets.Layout(width=_FULL, margin="0"))
        self.box = self._laid_out()
        self._set_values()

    def observe(self) -> None:
        """Pass every change that the user makes to the state, from now on."""
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self._state.change(self.name, name, change["new"]), names="value")
        self.position.observe(lambda change: self._state.move(self.name, change["new"]), names="value")
        self._spelling.observe(lambda _: self.show_snippets(), names="value")

    # --- what is shown ----------------------------------------------------------------------------------------------

    def show_answer(self, result: Result, *, live: bool) -> None:
        """Show the token strip; while the answer is in progress, its end stays visible."""
        completion = result.data
        drawn = strip(completion, names=completion.control_tokens, limit=_TOKENS)
        notes = Markup("").join(fragment('<div class="note">note: {}</div>', note) for note in result.notes)
        follow = " follow" if live and len(result) == 1 else ""
        self.answer.value = styled(f"answer{follow}", Markup(drawn) + notes)

    def show_run(self, run: Run) -> None:
        """Show a finished answer."""
        self.show_answer(run.result, live=False)
        reasons = run.result.finish_reasons
        self.status.value = "stopped" if "interrupted" in reasons else ""
        self.show_positions(run.result)
        self.show_snippets()

    def show_positions(self, result: Result | None) -> None:
        """Show the slider for the position in an answer, if there are distributions to show."""
        last = 0 if result is None or not result.choices else len(result.choices[0].tokens) - 1
        there = last > 0 and self._state.has_logits
        self.position.layout.display = "" if there else "none"
        self.position.value = 0
        self.position.max = max(last, 1)

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
        sampling, answer, more = (self._group(group) for group in ("sampling", "answer", "more"))
        more_box = widgets.VBox(more, layout=widgets.Layout(display="none", width=_FULL))
        copy_box = widgets.VBox([self._spelling, self._snippet], layout=widgets.Layout(display="none", width=_FULL))
        shows(self._more, more_box)
        shows(self._copy, copy_box)
        self._copy.observe(lambda _: self.show_snippets(), names="value")
        buttons = [self._more, self._copy, self.status]
        column = {"flex": "1 1 330px", "min_width": "0", "max_width": "720px"}
        controls = widgets.VBox([*sampling, *answer], layout=widgets.Layout(**column))
        distribution = widgets.VBox([self.distribution, self.position], layout=widgets.Layout(**column))
        return widgets.VBox(
            [
                self.heading,
                _wrapping([controls, distribution]),
                widgets.HBox(buttons, layout=widgets.Layout(flex_flow="row wrap", align_items="center")),
                more_box, copy_box, self._error, self.answer,
            ],
            layout=widgets.Layout(flex="1 1 340px", min_width="0", overflow="hidden"),
        )  # fmt: skip

    def _group(self, group: str) -> list[widgets.Widget]:
        return [
            widgets.VBox([self.controls[control.name], self._errors[control.name]], layout=widgets.Layout(width=_FULL))
            for control in self._state.controls
            if control.group == group
        ]

    def _set_values(self) -> None:
        for name, value in self._state.sides[self.name].values.items():
            control = self.controls[name]
            if hasattr(control, "min"):  # a slider must take every value that the API allows
                control.min, control.max = min(control.min, value), max(control.max, value)
            control.value = value


def make_control(control: Control) -> widgets.Widget:
    """The widget of a control, with its whole label."""
    label = _LONG_LABEL if control.group == "more" else _LABEL
    common: dict[str, Any] = {
        "description": control.name,
        "tooltip": control.hint,
        "style": {"description_width": label},
        "layout": widgets.Layout(width=_FULL, margin="1px 0"),
    }
    if control.kind in ("number", "count"):
        slider = widgets.FloatSlider if control.kind == "number" else widgets.IntSlider
        bounds = {"min": control.low, "max": control.high, "step": control.step, "value": control.default}
        more = {"readout_format": ".2f"} if control.kind == "number" else {}
        whole = (lambda value: value) if control.kind == "number" else int
        return slider(**{name: whole(value) for name, value in bounds.items()}, **more, **common)
    if control.kind == "flag":
        common["layout"] = widgets.Layout(width="auto", margin=f"1px 0 1px calc({label} + 4px)")
        return widgets.Checkbox(value=control.default, indent=False, **common)
    if control.kind == "choice":
        return widgets.Dropdown(options=control.choices, value=control.default, **common)
    return widgets.Text(value=control.default, placeholder=control.empty, continuous_update=False, **common)


def toggle(text: str, icon: str, hint: str) -> widgets.ToggleButton:
    """A button that stays pressed until it is clicked again, as wide as its text."""
    return widgets.ToggleButton(description=text, icon=icon, tooltip=hint, layout=widgets.Layout(width="auto"))


def shows(button: widgets.ToggleButton, box: widgets.Widget) -> None:
    """Show a box only while a button is pressed."""

    def follow(change: dict[str, Any]) -> None:
        box.layout.display = "" if change["new"] else "none"

    button.observe(follow, names="value")


def hidden_html(text: str = "") -> widgets.HTML:
    """A line of HTML that is hidden at first."""
    return widgets.HTML(text, layout=widgets.Layout(display="none", margin="0"))


def error_line(error: LLMLabError) -> str:
    """An error and its notes as HTML."""
    lines = [str(error), *getattr(error, "__notes__", ())]
    return styled("error", Markup("<br>").join(lines), role="alert")


def styled(kind: str, inside: Markup | str, *, role: str = "") -> str:
    """A part of the playground as HTML with its style sheet; text is escaped."""
    sheet = Markup(style_sheet("playground"))
    named = fragment(' role="{}"', role) if role else ""
    return str(fragment('<style>{}</style><div class="llmlab-playground {}"{}>{}</div>', sheet, kind, named, inside))


def _wrapping(parts: Sequence[widgets.Widget]) -> widgets.HBox:
    """Widgets next to each other, as far as there is room; the others go below."""
    layout = widgets.Layout(flex_flow="row wrap", width=_FULL, grid_gap="0 14px", align_items="flex-start")
    return widgets.HBox(list(parts), layout=layout)


#: Selects the snippet and copies it. This also works on pages that have no access to the clipboard API.
_COPY = (
    "const text = this.parentElement.querySelector('pre'); getSelection().selectAllChildren(text);"
    " document.execCommand('copy'); this.textContent = 'Copied'; setTimeout(() => this.textContent = 'Copy', 1500);"
)
