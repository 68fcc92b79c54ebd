"""What a playground does, without a widget: settings, the law under them, answers that grow, a history.

A `State` has two sides, A and B, which share a prompt. What happens is told to a `View`, whose methods are called
from threads of the playground's own, one at a time for each side: the thread that asks is never kept waiting.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmlab.display.bars import DistributionBars
from llmlab.errors import LLMLabError, RequestError
from llmlab.playground.bars import distribution_bars
from llmlab.playground.controls import WITHOUT_CONTROL, controls_for, fields_of, values_of
from llmlab.playground.latest import Latest
from llmlab.playground.run import Answer, Run, View, in_place
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.export import as_lab_call
from llmlab.protocol.request import ChatRequest, PromptRequest, Request

if TYPE_CHECKING:
    from llmlab.lab.lab import Lab
    from llmlab.results.next_token import NextToken
    from llmlab.results.result import Result

#: Seconds after the last keystroke before a prompt's law is worked out.
TYPING = 0.35
#: Seeds are drawn below this: short enough to be read.
_SEEDS = 2**32
#: Fields without a control that a request keeps all the same.
_KEPT = WITHOUT_CONTROL.keys() - {"messages", "max_completion_tokens", "stream", "stream_options"}
NO_LAW = "This endpoint gives no logits, so there is no law to show: llmlab.load a model for that."


class Side:
    """One side's settings and its last answer."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self.name = name
        self.values = dict(values)  #: control -> what it holds
        self.position = 0  #: of the token whose law is shown: 0 the first after the prompt
        self.result: Result | None = None
        self.answer: Answer | None = None  #: under way, or the last
        self.laws = Latest(f"llmlab-law-{name}")


class State:
    """The two sides, the prompt that they share, and the history.

    Args:
        lab: who is asked.
        view: who shows it.
        request: what the playground opens with.
        order: of the sampler's stages.

    Raises:
        RequestError: the request has a field that no control stands for.
    """

    def __init__(self, lab: Lab, view: View, *, request: Request, order: str = "llmlab") -> None:
        self.lab = lab
        self.view = view
        self.controls = controls_for(lab.backend)
        values = values_of(request, order=order, controls=self.controls)
        self.sides = {name: Side(name, values) for name in "AB"}
        self.both = False  #: whether B is asked along with A
        self.history: list[Run] = []
        self._law: tuple[str, NextToken] | None = None
        self._steps: dict[str, tuple[Result, int, NextToken]] = {}
        self._asking = threading.Lock()  # for the logits of a law
        self._keeping = threading.Lock()
        #: What was given beside the controls' fields: it goes with every request.
        self.kept = {name: value for name, value in request.to_dict().items() if name in _KEPT}
        self.prompt, self.system, self.raw = "", "", False
        self.before: list[dict[str, Any]] = []  #: the messages before the prompt, but for the system's
        self._take_prompt(request)

    @property
    def has_law(self) -> bool:
        """Whether the backend gives logits."""
        return isinstance(self.lab.backend, LogitsBackend)

    @property
    def names(self) -> tuple[str, ...]:
        """The sides that are in use."""
        return ("A", "B") if self.both else ("A",)

    # --- what is asked ----------------------------------------------------------------------------------------------

    def request(self, name: str) -> Request:
        """The validated request that a side stands for.

        Raises:
            RequestError: naming the first field that is wrong.
        """
        fields = {**self.kept, **fields_of(self.sides[name].values, self.controls)}
        fields.pop("order", None)
        if self.raw:
            return self.lab.request(prompt=self.prompt, **fields)
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, *self.before, {"role": "user", "content": self.prompt}]
        return self.lab.request(messages, **fields)

    def order(self, name: str) -> str:
        """The order of the sampler's stages on a side."""
        return str(self.sides[name].values.get("order", "llmlab"))

    def snippets(self, name: str) -> dict[str, str]:
        """A side's request in other spellings, by their names; with its answer's seed, if it is the one asked for.

        Raises:
            RequestError: as `request`.
        """
        request, result = self.request(name), self.sides[name].result
        if result is not None and request.seed is None and _same(result.request.replace(seed=None), request):
            request = request.replace(seed=result.seed)
        spelled = {
            "Python": as_lab_call(request.to_dict(), order=self.order(name)),
            "JSON": request.to_json(indent=2),
        }
        if isinstance(request, ChatRequest):
            spelled["openai"] = request.to_openai(model=self.lab.backend.name)
            spelled["curl"] = request.to_curl(model=self.lab.backend.name)
        return spelled

    # --- changes ----------------------------------------------------------------------------------------------------

    def change(self, name: str, control: str, value: Any) -> None:
        """A control of a side holds something else now."""
        self.sides[name].values[control] = value
        self.redraw(name)

    def set_prompt(self, *, prompt: str, system: str, raw: bool) -> None:
        """The prompt is another one; its law is worked out once nobody types any more."""
        if (prompt, system, raw) != (self.prompt, self.system, self.raw):
            self.prompt, self.system, self.raw = prompt, system, raw
            for name in self.names:
                self.sides[name].position = 0
                self.redraw(name, delay=TYPING)

    def move(self, name: str, position: int) -> None:
        """Show the law of another token of a side's answer; 0 is the first after the prompt."""
        self.sides[name].position = position
        self.redraw(name)

    def load(self, run: Run, name: str) -> None:
        """Set a side to what a run of the history asked, its seed included."""
        request, side = run.result.request.replace(seed=run.result.seed), self.sides[name]
        side.values = values_of(request, order=run.order, controls=self.controls)
        side.result, side.position = run.result, 0
        self._take_prompt(request)
        self.redraw(name)

    def copy(self, source: str, target: str) -> None:
        """Set one side as the other is."""
        self.sides[target].values = dict(self.sides[source].values)
        self.redraw(target)

    def redraw(self, name: str, *, delay: float = 0.0) -> None:
        """Have the law of the next token shown as the settings are now; the model is asked only for another prompt."""
        self.sides[name].laws.ask(lambda: self._show_law(name), delay=delay)

    # --- answers ----------------------------------------------------------------------------------------------------

    def generate(self) -> None:
        """Ask on each side that is in use; what was under way is stopped. Sides without a seed get the same one."""
        self.stop()
        seed = secrets.randbelow(_SEEDS)
        for name in self.names:
            try:
                request = self.request(name)
            except LLMLabError as error:
                self.view.wrong(name, error)
                continue
            if request.seed is None and self.has_law:  # not every endpoint takes one
                request = request.replace(seed=seed)
            answer = self.sides[name].answer = Answer(self, name, request, order=self.order(name))
            answer.start()

    def stop(self) -> None:
        """Stop what is under way; what was made stays."""
        for side in self.sides.values():
            if side.answer is not None:
                side.answer.stop()

    @property
    def running(self) -> bool:
        """Whether an answer is under way."""
        return any(side.answer is not None and side.answer.running for side in self.sides.values())

    def wait(self, timeout: float | None = None) -> None:
        """Until everything that was asked for has been shown."""
        for side in self.sides.values():
            if side.answer is not None:
                side.answer.join(timeout)
            side.laws.wait(timeout)

    def keep(self, answer: Answer, result: Result) -> Run:
        """A finished answer: in the history if there is a token in it, and its side's own unless there is a newer."""
        with self._keeping:
            run = Run(len(self.history) + 1, answer.side, result, answer.order)
            if any(len(choice.tokens) or choice.text for choice in result.choices):
                self.history.append(run)
        if self.is_current(answer):
            side = self.sides[answer.side]
            side.result, side.position = result, 0
        return run

    def is_current(self, answer: Answer) -> bool:
        """Whether nothing has been asked on its side since."""
        return self.sides[answer.side].answer is answer

    # --- the law ----------------------------------------------------------------------------------------------------

    def _show_law(self, name: str) -> None:
        try:
            found = self._bars(name)
        except Exception as error:
            self.view.wrong(name, in_place(error))
            return
        self.view.wrong(name, None)
        self.view.law(name, found)

    def _bars(self, name: str) -> DistributionBars | str:
        side = self.sides[name]
        request, order, position = self.request(name), self.order(name), side.position
        if not self.has_law:
            return NO_LAW
        acting = {control.name for control in self.controls if control.effect == "distribution"}
        fields = {field: getattr(request, field) for field in acting & request.model_fields_set}
        seed, place = request.seed, "the first token"
        if seed is None and side.result is not None:
            seed = side.result.seed
        if position and side.result is not None:
            step, place = self._later(name, side.result, position), f"position {position} of the answer"
            fields = self._all(request, acting)
        else:
            step = self._first(request)
        return distribution_bars(step, place=place, order=order, seed=seed, **fields)

    def _first(self, request: Request) -> NextToken:
        """The first token's logits: asked for once, as long as what they depend on stays the same."""
        free = {control.name for control in self.controls if control.effect != "prompt"}
        key = json.dumps({field: value for field, value in request.to_dict().items() if field not in free})
        with self._asking:
            if self._law is None or self._law[0] != key:
                plain = request.replace(**dict.fromkeys(free & request.model_fields_set))
                self._law = (key, self.lab.next_token(plain))
            return self._law[1]

    def _later(self, name: str, result: Result, position: int) -> NextToken:
        with self._asking:
            known = self._steps.get(name)
            if known is None or known[0] is not result or known[1] != position:
                known = self._steps[name] = (result, position, result.ledger(position))
            return known[2]

    def _all(self, request: Request, acting: set[str]) -> dict[str, Any]:
        """Every sampling field, also those at their defaults: a step of an answer has the answer's own otherwise."""
        return {field: getattr(request, field) for field in acting if field in type(request).model_fields}

    def _take_prompt(self, request: Request) -> None:
        self.raw = isinstance(request, PromptRequest)
        self.system, self.before = "", []
        if isinstance(request, PromptRequest):
            if not isinstance(request.prompt, str):
                raise RequestError("a playground's prompt is a text, not token ids", param="prompt")
            self.prompt = request.prompt
            return
        messages: Sequence[dict[str, Any]] = request.messages
        if messages[0]["role"] == "system" and isinstance(messages[0]["content"], str) and len(messages) > 1:
            self.system, messages = messages[0]["content"], messages[1:]
        if messages[-1]["role"] != "user" or not isinstance(messages[-1]["content"], str):
            raise RequestError("a playground's last message is a text of the user's", param="messages")
        self.before, self.prompt = list(messages[:-1]), messages[-1]["content"]


def _same(one: Request, other: Request) -> bool:
    return one.to_dict() == other.to_dict()
