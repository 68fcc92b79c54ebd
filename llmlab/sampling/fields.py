"""A request field as a value: what it may be, what it means, and how it is set by hand.

A sampler stage declares its own fields (`llmlab.sampling.stages`); those of no stage are declared in
`llmlab.protocol.fields`. Everything else that knows a field reads these values: the request's checks, its JSON schema,
the exports, `SamplingParams` and `SamplerInputs`, the signatures that Tab shows, the playground's controls, the README.

Nothing here imports JAX or NumPy: a client that only sends requests reads these values too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

#: "number" and "integer" have bounds, and "by_token" is an object of token ids and such numbers; "choice" is one of
#: some texts; "value" has a check and a JSON schema of its own.
Kind: TypeAlias = Literal["number", "integer", "by_token", "flag", "choice", "text", "object", "value"]
#: What a change of a field changes first: the prompt, the next-token distribution, the answer alone, or nothing (the
#: field is accepted for the sake of clients, and a local engine ignores it).
Effect: TypeAlias = Literal["prompt", "distribution", "answer", "nothing"]


class Control(NamedTuple):
    """How a field is set by hand in the playground.

    `widget` says what the control holds: "number" and "count" a number on a slider; "whole" an integer as text, empty
    for none; "text" a text, empty for none, that may also be JSON; "json" JSON, empty for none; "flag" a bool; "choice"
    one of some texts; "switch" true, false or the model's own default. None takes the widget that suits the field's
    kind. `low`, `high` and `step` are the slider's, and the field's bounds where they are None; any other value can be
    typed. A slider's steps are equal ("linear") or have about equal ratios ("log", where `step` is the least positive
    value). `empty` is what an empty box shows: what that means, or an example.
    """

    group: Literal["sampling", "answer", "more"] = "sampling"
    widget: Literal["number", "count", "whole", "text", "json", "flag", "choice", "switch"] | None = None
    low: float | None = None
    high: float | None = None
    step: float | None = None
    empty: str = ""
    scale: Literal["linear", "log"] = "linear"


@dataclass(frozen=True, eq=False)
class Field:
    """A field of a request.

    Attributes:
        name: as the API spells it.
        kind: which values it takes.
        text: one line for readers, in the JSON schema, the README and the playground.
        default: its value in a request that does not give it; None where there is none.
        low: the least number; itself excluded where `above` is true.
        high: the largest number; None for no limit.
        above: whether `low` is excluded.
        off: further values, besides null, that stand for `default`.
        choices: the texts that a "choice" may be.
        optional: whether the field may have no value at all; its default is then None.
        extension: whether the OpenAI API lacks the field, so that its client sends it in `extra_body`.
        effect: what a change of it changes first.
        control: how it is set by hand; a text says why it is not.
        check: for a "value": returns it in the form that the request keeps, or raises.
        schema: for a "value": its JSON schema.
        values: for a "value": what it may be, in words.
        refused: integers within the bounds that the field cannot be, each with what the error says.
        neutral: the value at which a stage leaves every logit as it is; by default, `default`.
    """

    name: str
    kind: Kind
    text: str
    default: Any = None
    low: float | None = None
    high: float | None = None
    above: bool = False
    off: tuple[int, ...] = ()
    choices: tuple[str, ...] = ()
    optional: bool = False
    extension: bool = False
    effect: Effect = "answer"
    control: Control | str = Control()
    check: Callable[[Any], Any] | None = None
    schema: Mapping[str, Any] | None = None
    values: str = ""
    refused: Mapping[int, str] = field(default_factory=dict)
    neutral: Any = field(default=...)

    def __post_init__(self) -> None:
        if self.neutral is ...:
            object.__setattr__(self, "neutral", self.default)

    @property
    def is_scalar(self) -> bool:
        """Whether a value is one number, so that a batch of rows holds an array [B] of them."""
        return self.kind in ("number", "integer")


def number(name: str, low: float, high: float, *, default: float, text: str = "", **more: Any) -> Field:
    """A stage's field that holds a number in [low, high], or in (low, high] with `above=True`."""
    return Field(name, "number", text, default, low, high, **{"effect": "distribution", **more})


def integer(name: str, low: int, high: int | None, *, default: int, text: str = "", **more: Any) -> Field:
    """A stage's field that holds an integer in [low, high]; `high` may be None."""
    return Field(name, "integer", text, default, low, high, **{"effect": "distribution", **more})


#: Below this temperature the distribution has one token, the one with the largest logit.
GREEDY = 1e-5
