"""The page of the playground: a prompt, every sampling parameter, and what they do to the next token and the answer.

This file has only widgets, all of them from ipywidgets itself. `playground.state` decides what is sent and when,
`playground.controls` knows what each control means, and `llmlab.display` draws the bars and the token strip.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ipywidgets as widgets

from llmlab.display.bars import DistributionBars
from llmlab.display.html import Markup, fragment
from llmlab.display.strip import strip
from llmlab.errors import ContextLengthError, LLMLabError, RequestError
from llmlab.playground.looks import Looks
from llmlab.playground.run import Run
from llmlab.playground.side import SideView, error_line, shows, styled
from llmlab.playground.state import ChatModel, State
from llmlab.protocol.request import Request
from llmlab.results.result import Result

#: Seconds that the first distribution may take; after that the notebook shows the widgets without it.
_FIRST = 60.0
#: The most tokens that the static picture shows.
_TOKENS = 400
_FULL = "100%"
_NOTE = "A picture of the llmlab playground; run the cell to use its sliders."


class Playground:
    """Widgets for a prompt and every sampling parameter; `lab.playground` makes one.

    A notebook shows it as widgets, and as a static picture where widgets cannot run. All of it can be used from the
    keyboard.

    Args:
        model: the model to ask; a `Lab` is one.
        request: the request that the playground opens with.
        order: the order of the sampler's stages.

    Attributes:
        state: the settings and answers of both sides, and the history.
        widget: the whole page, an `ipywidgets.Widget`.

    Raises:
        RequestError: the request has a field that no control can set.
    """

    def __init__(self, model: ChatModel, request: Request, *, order: str = "llmlab") -> None:
        self.state = State(model, self, request=request, order=order)
        self._looks = looks = Looks()
        self._prompt = self._text(self.state.prompt, rows=3, hint="What do you want to ask?")
        self._system = self._text(
            self.state.system, rows=2, hint="How the model should behave; leave it empty for no system message"
        )
        self._raw = looks.make(
            widgets.Checkbox, value=self.state.raw, description="raw text, without the chat template", indent=False,
            layout=looks.layout(width="auto", margin="2px 8px"),
        )  # fmt: skip
        self._prompt_error = looks.hidden_html()
        self._before = looks.hidden_html()
        self._compared = looks.hidden_html()
        self._generate = looks.button(
            "Generate", "play", "Send the request; an answer in progress is stopped", button_style="primary"
        )
        self._stop = looks.button("Stop", "stop", "Stop the answer; what was generated stays")
        self._both = looks.toggle("Compare A and B", "columns", "Compare with other settings, under the same noise")
        self._same = looks.button(
            "Copy A to B", "clone", "Set all parameters of B to those of A",
            layout=widgets.Layout(width="auto", display="none"),
        )  # fmt: skip
        self._with_system = looks.toggle("System message", "comment", "The message before the conversation")
        self._past = looks.toggle("History", "history", "Earlier answers")
        self._history = looks.make(widgets.Select, options=[], rows=6, layout=looks.layout(width=_FULL))
        self._show_in = {
            name: looks.button(f"Show in {name}", "reply", f"Set {name} to the selected request") for name in "AB"
        }
        self._sides = {"A": SideView(self.state, "A", looks)}  #: B is made when it is first shown
        self._side_by_side = looks.make(widgets.HBox, [self._sides["A"].box], layout=looks.layout(
            flex_flow="row wrap", width=_FULL, grid_gap="8px 18px", align_items="flex-start"
        ))  # fmt: skip
        self.widget = self._laid_out()
        self._observe()
        self._show_prompt()
        self.state.redraw("A")

    # --- for later cells of a notebook------------------------------------------------------------------------------

    @property
    def result(self) -> Result | None:
        """The last answer on side A; None if there is none yet."""
        return self.state.sides["A"].result

    @property
    def results(self) -> list[Result]:
        """All answers in the history, the oldest first."""
        return [run.result for run in self.state.history]

    @property
    def request(self) -> Request:
        """The request with the present settings of side A.

        Raises:
            RequestError: a setting is not valid.
        """
        return self.state.request("A")

    def close(self) -> None:
        """Stop the answers in progress, and remove the widgets from the page."""
        self.state.stop()
        tree = list(_tree(self.widget))
        looks = {id(look): look for widget in tree for look in (widget.layout, getattr(widget, "style", None)) if look}
        for widget in [*tree, *looks.values()]:  # what refers to a model is closed before it
            widget.close()

    # --- called by the state, from its threads; see `View` ---------------------------------------------------------

    def distribution(self, side: str, shown: DistributionBars | str) -> None:
        """See `View`."""
        if side in self._sides:  # B can be set before it is shown
            self._sides[side].show_distribution(shown)
            self._sides[side].show_snippets()

    def waiting(self, side: str, what: str) -> None:
        """See `View`."""
        self._sides[side].status.value = fragment("{} …", what)

    def grew(self, side: str, result: Result) -> None:
        """See `View`."""
        self._sides[side].status.value = "writing …"
        self._sides[side].show_answer(result, live=True)

    def finished(self, side: str, run: Run) -> None:
        """See `View`."""
        self._sides[side].show_run(run)
        self._history.options = [(each.title, each.number) for each in reversed(self.state.history)]

    def compared(self, shown: str) -> None:
        """See `View`."""
        self._compared.value = styled("compared", Markup(shown)) if shown else ""
        self._compared.layout.display = "" if shown else "none"

    def wrong(self, side: str, error: LLMLabError | None) -> None:
        """See `View`."""
        of_prompt = error is not None and (
            error.param in ("messages", "prompt") or (error.param is None and isinstance(error, ContextLengthError))
        )
        text = error_line(error) if error is not None and of_prompt else ""
        if self._prompt_error.value != text:
            self._prompt_error.value = text
            self._prompt_error.layout.display = "" if text else "none"
        if side in self._sides:
            self._sides[side].show_error(None if of_prompt else error)

    # --- the page ---------------------------------------------------------------------------------------------------

    def _laid_out(self) -> widgets.Widget:
        facts = self.state.model.backend.describe()
        where = " · ".join(str(facts[name]) for name in ("model", "device") if facts.get(name))
        looks = self._looks
        title = looks.make(widgets.HTML, styled("title", fragment("<b>llmlab playground</b> &nbsp;{}", where)))
        row = looks.layout(flex_flow="row wrap", align_items="center", width=_FULL)
        system = looks.make(
            widgets.VBox, [self._label("system"), self._system], layout=widgets.Layout(display="none", width=_FULL)
        )
        history_box = looks.make(
            widgets.VBox,
            [self._history, looks.make(widgets.HBox, list(self._show_in.values()))],
            layout=widgets.Layout(display="none", width=_FULL),
        )
        shows(self._with_system, system)
        shows(self._past, history_box)
        buttons = [
            self._generate, self._stop, self._both, self._same, self._past, self._with_system, self._raw,
        ]  # fmt: skip
        return looks.make(
            widgets.VBox,
            [
                title, system, self._before, self._label("prompt"), self._prompt, self._prompt_error,
                looks.make(widgets.HBox, buttons, layout=row), history_box, self._side_by_side, self._compared,
            ],
            layout=looks.layout(width=_FULL, padding="2px 6px 8px 2px"),
        )  # fmt: skip

    def _text(self, value: str, *, rows: int, hint: str) -> widgets.Textarea:
        layout = self._looks.layout(width=_FULL)
        return self._looks.make(widgets.Textarea, value=value, rows=rows, placeholder=hint, layout=layout)

    def _label(self, text: str) -> widgets.Label:
        return self._looks.make(widgets.Label, text, layout=self._looks.layout(margin="0"))

    def _observe(self) -> None:
        for box in (self._prompt, self._system, self._raw):
            box.observe(lambda _: self._prompt_changed(), names="value")
        self._generate.on_click(lambda _: self._ask())
        self._stop.on_click(lambda _: self.state.stop())
        self._both.observe(lambda change: self._show_both(change["new"]), names="value")
        self._same.on_click(lambda _: self._set_alike())
        for name, button in self._show_in.items():
            button.on_click(lambda _, name=name: self._load(name))

    def _prompt_changed(self) -> None:
        self.state.set_prompt(prompt=self._prompt.value, system=self._system.value, raw=self._raw.value)
        for name in self.state.names:
            self._sides[name].show_positions(None)

    def _ask(self) -> None:
        for name in self.state.names:
            self._sides[name].status.value = "waiting …"
        self.state.generate()

    def _show_both(self, both: bool) -> None:
        if both and "B" not in self._sides:
            side = self._sides["B"] = SideView(self.state, "B", self._looks)
            self._side_by_side.children = [*self._side_by_side.children, side.box]
        self.state.both = both
        for name, side in self._sides.items():
            side.heading.layout.display = "" if both else "none"
            if name == "B":
                side.box.layout.display = "" if both else "none"
        self._same.layout.display = "" if both else "none"
        if both:
            self.state.redraw("B")
        self.state.compare()

    def _set_alike(self) -> None:
        self.state.copy("A", "B")
        if "B" in self._sides:
            self._sides["B"].show_values()

    def _load(self, name: str) -> None:
        chosen = next((run for run in self.state.history if run.number == self._history.value), None)
        if chosen is None:
            return
        self.state.load(chosen, name)
        if name == "B":
            self._both.value = True
        self._show_prompt()
        self._sides[name].show_values()

    def _show_prompt(self) -> None:
        state = self.state
        prompt, system, raw = state.prompt, state.system, state.raw  # each assignment below calls `set_prompt`
        self._prompt.value, self._system.value, self._raw.value = prompt, system, raw
        if system:
            self._with_system.value = True
        said = Markup("").join(
            fragment("<div><b>{}</b> {}</div>", message["role"], str(message.get("content") or ""))
            for message in state.before
        )
        self._before.value = styled("", said)
        self._before.layout.display = "" if said else "none"

    # --- what a notebook shows --------------------------------------------------------------------------------------

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        for side in self.state.sides.values():
            side.distributions.wait(_FIRST)  # the picture includes the distribution
        shown = self.widget._repr_mimebundle_() or {}
        return {**shown, "text/plain": repr(self), "text/html": self.to_html()}

    def to_html(self) -> str:
        """The playground as a static picture in HTML, without widgets."""
        parts: list[str] = [styled("note", _NOTE)]
        for name in self.state.names:
            side = self.state.sides[name]
            parts.append(fragment("<div><b>{}</b></div>", name) if self.state.both else "")
            try:
                parts.append(self.state.request(name)._repr_html_())
            except RequestError as error:
                parts.append(error_line(error))
            parts.append(self._sides[name].distribution.value)
            if side.result is not None:
                completion = side.result.data
                parts.append(strip(completion, names=completion.control_tokens, limit=_TOKENS))
        parts.append(self._compared.value)
        # The parts are HTML already: each was escaped where it was made.
        return "".join(fragment('<div style="margin:.5em 0">{}</div>', Markup(part)) for part in parts if part)

    def __repr__(self) -> str:
        count = len(self.state.history)
        return f"<a playground of {self.state.model.backend.name}, {count} answer{'' if count == 1 else 's'}>"


def _tree(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from _tree(child)
