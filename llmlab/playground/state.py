"""What a playground does, without widgets: its settings, next-token distributions, answers in progress, and a history.

A `State` has two sides, A and B, which share a prompt. It tells a `View` what happens. The methods of the view are
called from threads of the playground, one at a time for each side, so that the thread of the notebook never waits.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from llmlab.display.bars import DistributionBars
from llmlab.display.html import fragment
from llmlab.errors import LLMLabError, RequestError
from llmlab.playground.bars import distribution_bars
from llmlab.playground.controls import WITHOUT_CONTROL, controls_for, fields_of, values_of
from llmlab.playground.latest import Latest
from llmlab.playground.run import Answer, Run, View, shown_error
from llmlab.protocol.backend import Backend, LogitsBackend
from llmlab.protocol.export import as_lab_call
from llmlab.protocol.request import ChatRequest, PromptRequest, Request
from llmlab.results.stream import Stream, branch_stream
from llmlab.sampling.registry import user_fields

if TYPE_CHECKING:
    from llmlab.results.next_token import NextToken
    from llmlab.results.result import Result

#: Seconds after the last keystroke before the distribution after a new prompt is computed.
TYPING = 0.35
#: Random seeds are smaller than this, so that they are short enough to be read.
_SEEDS = 2**32
#: Fields that have no control and that are sent nevertheless, with the values that the playground was opened with.
_KEPT = WITHOUT_CONTROL.keys() - {"messages", "max_completion_tokens", "stream", "stream_options"}
NO_DISTRIBUTION = "This endpoint gives no logits, so there is no distribution to show: llmlab.load a model for that."


@runtime_checkable
class ChatModel(Protocol):
    """A model that a playground can ask; a `Lab` is one. A playground knows no more of it than this."""

    backend: Backend

    def request(self, messages: Any = None, **fields: Any) -> Request:
        """Returns the validated request."""

    def stream(self, messages: Any = None, *, order: str = "llmlab", **fields: Any) -> Stream:
        """Starts a request."""

    def next_token(self, messages: Any = None, *, order: str = "llmlab", **fields: Any) -> NextToken:
        """Returns the next-token distribution after a request's prompt."""


class Side:
    """The settings of one side, and its last answer."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self.name = name
        self.values = dict(values)  #: name of a control -> its value
        self.position = 0  #: of the token whose distribution is shown; 0 is the first one after the prompt
        self.choice = 0  #: the choice that the position is in
        self.result: Result | None = None
        self.answer: Answer | None = None  #: the answer in progress, or the last one
        self.distributions = Latest(f"llmlab-distribution-{name}")


class State:
    """The two sides, the prompt that they share, and the history.

    Args:
        model: the model to ask.
        view: shows what happens.
        request: the request that the playground opens with.
        order: the order of the sampler's stages.

    Raises:
        RequestError: the request has a field that no control can set.
    """

    def __init__(self, model: ChatModel, view: View, *, request: Request, order: str = "llmlab") -> None:
        self.model = model
        self.view = view
        self.controls = controls_for(model.backend, order=order, given=request.to_dict().keys())
        values = values_of(request, order=order, controls=self.controls)
        self.sides = {name: Side(name, values) for name in "AB"}
        self.both = False  #: whether B is in use as well
        self.history: list[Run] = []
        self._first_step: tuple[str, NextToken] | None = None
        self._steps: dict[str, tuple[Result, tuple[int, int], NextToken]] = {}
        self._comparison = Latest("llmlab-comparison")
        self._asking = threading.Lock()  # one thread at a time asks for logits
        self._keeping = threading.Lock()
        #: Fields without a control; they are part of every request.
        self.kept = {name: value for name, value in request.to_dict().items() if name in _KEPT}
        self.prompt, self.system, self.raw = "", "", False
        self.before: list[dict[str, Any]] = []  #: the messages before the prompt, except the system message
        self._take_prompt(request)

    @property
    def has_logits(self) -> bool:
        """Whether the logits of the backend can be read."""
        return isinstance(self.model.backend, LogitsBackend)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sides that are in use."""
        return ("A", "B") if self.both else ("A",)

    # --- requests --------------------------------------------------------------------------------------------------

    def request(self, name: str) -> Request:
        """The validated request with the settings of a side.

        Raises:
            RequestError: a field is wrong; the message names the first one.
        """
        fields = {**self.kept, **fields_of(self.sides[name].values, self.controls)}
        fields.pop("order", None)
        if self.raw:
            return self.model.request(prompt=self.prompt, **fields)
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, *self.before, {"role": "user", "content": self.prompt}]
        return self.model.request(messages, **fields)

    def order(self, name: str) -> str:
        """The order of the sampler's stages that is set on a side."""
        return str(self.sides[name].values.get("order", "llmlab"))

    def snippets(self, name: str) -> dict[str, str]:
        """The request of a side as code, by the name of the format.

        If the side shows an answer to this request, its seed is included, so that the code gives the same answer.

        Raises:
            RequestError: as in `request`.
        """
        request, result = self.request(name), self.sides[name].result
        if result is not None and request.seed is None and _same(result.request.replace(seed=None), request):
            request = request.replace(seed=result.seed)
        spelled = {
            "Python": as_lab_call(request.to_dict(), order=self.order(name)),
            "JSON": request.to_json(indent=2),
        }
        if isinstance(request, ChatRequest):
            spelled["openai"] = request.to_openai(model=self.model.backend.name)
            spelled["curl"] = request.to_curl(model=self.model.backend.name)
        return spelled

    # --- changes ----------------------------------------------------------------------------------------------------

    def change(self, name: str, control: str, value: Any) -> None:
        """Take over the new value of a control of a side."""
        self.sides[name].values[control] = value
        self.redraw(name)

    def set_prompt(self, *, prompt: str, system: str, raw: bool) -> None:
        """Take over a new prompt; its distribution is computed when the user has stopped typing."""
        if (prompt, system, raw) != (self.prompt, self.system, self.raw):
            self.prompt, self.system, self.raw = prompt, system, raw
            for name in self.names:
                self.sides[name].position = self.sides[name].choice = 0
                self.redraw(name, delay=TYPING)

    def move(self, name: str, position: int, *, choice: int = 0) -> None:
        """Show the distribution at another position of a side's answer; 0 is the first token after the prompt."""
        self.sides[name].position, self.sides[name].choice = position, choice
        self.redraw(name)

    def load(self, run: Run, name: str) -> None:
        """Set a side to the request of a run in the history, including its seed."""
        request, side = run.result.request.replace(seed=run.result.seed), self.sides[name]
        side.values = values_of(request, order=run.order, controls=self.controls)
        side.result, side.position, side.choice = run.result, 0, 0
        self._take_prompt(request)
        self.redraw(name)
        self.compare()

    def copy(self, source: str, target: str) -> None:
        """Copy the settings of one side to the other."""
        self.sides[target].values = dict(self.sides[source].values)
        self.redraw(target)

    def redraw(self, name: str, *, delay: float = 0.0) -> None:
        """Show the next-token distribution under the present settings; the model is asked only if the prompt is new."""
        self.sides[name].distributions.ask(lambda: self._show_distribution(name), delay=delay)

    # --- answers ----------------------------------------------------------------------------------------------------

    def generate(self) -> None:
        """Stop the answers in progress, and send the request of each side in use. Sides without a seed share one."""
        self.stop()
        seed = secrets.randbelow(_SEEDS)
        for name in self.names:
            try:
                request = self.request(name)
            except LLMLabError as error:
                self.view.wrong(name, error)
                continue
            if request.seed is None and self.has_logits:  # not every endpoint accepts a seed
                request = request.replace(seed=seed)
            order = self.order(name)
            self._start(name, partial(self.model.stream, request, order=order), order=order)

    def go_on(self, name: str, token: int) -> None:
        """Continue a side's answer from the position that is shown, with a token there, under the present settings."""
        side = self.sides[name]
        if side.result is None:
            return
        self.stop()
        try:
            request, order = self.request(name), self.order(name)
        except LLMLabError as error:
            self.view.wrong(name, error)
            return
        acting = {one.name for one in self.controls if one.effect in ("distribution", "answer")} - {"n", "seed"}
        fields = {
            field: getattr(request, field) if field in request.model_fields_set else None  # None: its default
            for field in acting & {*type(request).model_fields, *user_fields()}
        }
        ask = partial(branch_stream, side.result, side.position, token, choice=side.choice, order=order, **fields)
        self._start(name, ask, order=order, position=side.position)

    def _start(self, name: str, ask: Callable[[], Stream], *, order: str, position: int = 0) -> None:
        """Start an answer; once it is there, the distribution at a position of it is shown."""
        side, view = self.sides[name], self.view

        def is_current() -> bool:
            """Whether no newer request was sent on this side."""
            return side.answer is answer

        def grew(result: Result) -> None:
            if is_current():
                view.grew(name, result)

        def finished(result: Result) -> None:
            run = self._add_to_history(name, result, order)
            if is_current():
                side.result, side.position, side.choice = result, min(position, _last(result)), 0
                view.finished(name, run)
                self.redraw(name)
                self.compare()

        def failed(error: Exception) -> None:
            if is_current():
                view.wrong(name, shown_error(error))

        answer = Answer(
            f"llmlab-playground-{name}", ask,
            waiting=partial(view.waiting, name), grew=grew, finished=finished, failed=failed,
        )  # fmt: skip
        side.answer = answer
        answer.start()

    def stop(self) -> None:
        """Stop the answers in progress; what was generated stays."""
        for side in self.sides.values():
            if side.answer is not None:
                side.answer.stop()

    def compare(self) -> None:
        """Show where the answers of both sides first differ and why, if both sides are in use and have one."""
        self._comparison.ask(self._compare)

    def _compare(self) -> None:
        before, after = (self.sides[name].result for name in "AB")
        shown = ""
        if self.both and before is not None and after is not None:
            try:
                shown = after.diff(before)._repr_html_()
            except Exception as error:
                shown = str(fragment("<div>{}</div>", shown_error(error)))
        self.view.compared(shown)

    @property
    def running(self) -> bool:
        """Whether an answer is in progress."""
        return any(side.answer is not None and side.answer.running for side in self.sides.values())

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all answers and distributions are shown, for each of them `timeout` seconds at most."""
        for side in self.sides.values():
            if side.answer is not None:
                side.answer.join(timeout)
            side.distributions.wait(timeout)
        self._comparison.wait(timeout)

    def _add_to_history(self, name: str, result: Result, order: str) -> Run:
        """Add an answer to the history, unless it was stopped before its first token."""
        with self._keeping:
            run = Run(len(self.history) + 1, name, result, order)
            if any(len(choice.tokens) or choice.text for choice in result.choices):
                self.history.append(run)
        return run

    # --- the next-token distribution ------------------------------------------------------------------------------

    def _show_distribution(self, name: str) -> None:
        try:
            found = self._bars(name)
        except Exception as error:
            self.view.wrong(name, shown_error(error))
            return
        self.view.wrong(name, None)
        self.view.distribution(name, found)

    def _bars(self, name: str) -> DistributionBars | str:
        side = self.sides[name]
        request, order, position = self.request(name), self.order(name), side.position
        if not self.has_logits:
            return NO_DISTRIBUTION
        acting = {control.name for control in self.controls if control.effect == "distribution"}
        fields = {field: getattr(request, field) for field in acting & request.model_fields_set}
        seed, place = request.seed, "the first token"
        if seed is None and side.result is not None:
            seed = side.result.seed
        if (position or side.choice) and side.result is not None:
            step = self._later(name, side.result, position, side.choice)
            place = f"position {position} of {f'choice {side.choice}' if len(side.result) > 1 else 'the answer'}"
            fields = self._all(request, acting)
        else:
            step = self._first(request)
        return distribution_bars(step, place=place, order=order, seed=seed, **fields)

    def _first(self, request: Request) -> NextToken:
        """The step of the first token. The model is asked again only if a field that changes the prompt has changed."""
        free = {control.name for control in self.controls if control.effect != "prompt"}
        key = json.dumps({field: value for field, value in request.to_dict().items() if field not in free})
        with self._asking:
            if self._first_step is None or self._first_step[0] != key:
                plain = request.replace(**dict.fromkeys(free & request.model_fields_set))
                self._first_step = (key, self.model.next_token(plain))
            return self._first_step[1]

    def _later(self, name: str, result: Result, position: int, choice: int) -> NextToken:
        with self._asking:
            known = self._steps.get(name)
            if known is None or known[0] is not result or known[1] != (position, choice):
                step = result.next_token(position, choice=choice)
                known = self._steps[name] = (result, (position, choice), step)
            return known[2]

    def _all(self, request: Request, acting: set[str]) -> dict[str, Any]:
        """Every sampling field, also those at their defaults: otherwise the step would use the answer's own fields."""
        known = {*type(request).model_fields, *user_fields()}
        return {field: getattr(request, field) for field in acting & known}

    def _take_prompt(self, request: Request) -> None:
        self.raw = isinstance(request, PromptRequest)
        self.system, self.before = "", []
        if isinstance(request, PromptRequest):
            if not isinstance(request.prompt, str):
                raise RequestError("the playground takes a prompt as text, not as token ids", param="prompt")
            self.prompt = request.prompt
            return
        messages: Sequence[dict[str, Any]] = request.messages
        if messages[0]["role"] == "system" and isinstance(messages[0]["content"], str) and len(messages) > 1:
            self.system, messages = messages[0]["content"], messages[1:]
        if messages[-1]["role"] != "user" or not isinstance(messages[-1]["content"], str):
            raise RequestError(
                "the last message must be a text of the user, for the playground to show it as the prompt",
                param="messages",
            )
        self.before, self.prompt = list(messages[:-1]), messages[-1]["content"]


def _last(result: Result) -> int:
    """The last position of the first choice that a token can be drawn at."""
    return max(len(result.choices[0].tokens) - 1, 0) if result.choices else 0


def _same(one: Request, other: Request) -> bool:
    return one.to_dict() == other.to_dict()
