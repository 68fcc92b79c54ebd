"""The playground's controls as a table: each field of a request, how it is set by hand, and what a setting means.

No widgets here: a `Control` says what kind of control a field wants, `fields_of` turns what the controls hold into a
request's fields, `values_of` does the opposite. A field at its default is left out of the request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from llmlab.errors import RequestError
from llmlab.protocol.backend import Backend
from llmlab.protocol.request import Request

#: Fields of a request that have no control, and why.
WITHOUT_CONTROL: Mapping[str, str] = {
    "messages": "the prompt's own boxes",
    "model": "the lab's",
    "max_completion_tokens": "max_tokens under its other name",
    "stream": "the playground always streams",
    "stream_options": "how an answer travels is no part of the question",
    "logprobs": "the strip has the figures of every token anyway",
    "top_logprobs": "likewise",
    "continue_final_message": "the prompt is what the user says",
    "user": "no effect on a local engine",
    "metadata": "no effect on a local engine",
    "store": "no effect on a local engine",
    "service_tier": "no effect on a local engine",
}


class Control(NamedTuple):
    """One field of a request as something to be set by hand.

    `kind` says what the control holds: "number" and "count" a number on a slider; "whole" an integer as text, empty for
    none; "text" a text, empty for none, that may also be JSON; "json" JSON, empty for none; "flag" a bool; "choice" one
    of `choices`. `acts` says what a change moves: the "law" of the next token, the "answer" alone, or the "prompt".
    `empty` is what an empty box shows: what that means, or an example.
    """

    name: str
    kind: Literal["number", "count", "whole", "text", "json", "flag", "choice"]
    group: Literal["sampling", "answer", "more"]
    acts: Literal["law", "answer", "prompt"]
    hint: str
    default: Any = ""
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01
    choices: tuple[str, ...] = ()
    empty: str = ""


_ON, _OFF, _TEMPLATES = "on", "off", "the template’s default"
_SWITCH = {_ON: True, _OFF: False}

CONTROLS: tuple[Control, ...] = (
    Control("temperature", "number", "sampling", "law", "divides the logits; 0 always takes the likeliest token",
            1.0, 0, 2, 0.05),
    Control("top_k", "count", "sampling", "law", "keeps the k likeliest tokens; 0 is off", 0, 0, 128, 1),
    Control("top_p", "number", "sampling", "law", "keeps the likeliest tokens that make up this much probability",
            1.0, 0.01, 1, 0.01),
    Control("min_p", "number", "sampling", "law", "drops what is less likely than this share of the likeliest",
            0.0, 0, 1, 0.01),
    Control("repetition_penalty", "number", "sampling", "law", "scales the logits of tokens in the prompt and answer",
            1.0, 0.05, 2, 0.05),
    Control("frequency_penalty", "number", "sampling", "law", "takes this much for each time a token was generated",
            0.0, -2, 2, 0.1),
    Control("presence_penalty", "number", "sampling", "law", "takes this much once from every token that was generated",
            0.0, -2, 2, 0.1),
    Control("logit_bias", "json", "sampling", "law", "added to the logits of tokens, by their ids",
            empty='{"42": -100}'),
    Control("order", "choice", "sampling", "law", "the order of the sampler’s stages: ours, or another engine’s",
            "llmlab", choices=("llmlab", "vllm", "sglang", "llama.cpp")),
    Control("max_tokens", "whole", "answer", "answer", "the longest answer",
            empty="what the context has left"),
    Control("stop", "text", "answer", "answer", "ends the answer; several as JSON",
            empty='END, or ["\\n", "END"]'),
    Control("seed", "whole", "answer", "answer", "of the noise", empty="drawn for each run"),
    Control("n", "count", "answer", "answer", "how many answers at once", 1, 1, 128, 1),
    Control("enable_thinking", "choice", "answer", "prompt", "whether the model reasons before it answers",
            _TEMPLATES, choices=(_TEMPLATES, _ON, _OFF)),
    Control("min_tokens", "count", "more", "law", "no end before so many tokens", 0, 0, 128, 1),
    Control("ignore_eos", "flag", "more", "answer", "go on behind the end, up to max_tokens", False),
    Control("include_stop", "flag", "more", "answer", "keep the stop’s text in the answer", True),
    Control("separate_reasoning", "flag", "more", "answer", "reasoning apart from the content", False),
    Control("response_format", "json", "more", "prompt", "text, json_object or json_schema",
            empty='{"type": "json_object"}'),
    Control("tools", "json", "more", "prompt", "functions that the model may call",
            empty='[{"type": "function", …}]'),
    Control("tool_choice", "text", "more", "prompt", "none, auto, required, or a named one as JSON",
            empty="auto"),
    Control("parallel_tool_calls", "flag", "more", "prompt", "more than one call an answer", True),
    Control("chat_template_kwargs", "json", "more", "prompt", "variables for the chat template", empty="{}"),
    Control("context_length_exceeded_behavior", "choice", "more", "answer", "what too large a max_tokens leads to",
            "truncate", choices=("truncate", "error")),
)  # fmt: skip


def controls_for(backend: Backend) -> tuple[Control, ...]:
    """The controls that have an effect with this backend: no switch that its chat template lacks, for example."""
    return tuple(control for control in CONTROLS if control.name not in backend.unsupported)


def fields_of(values: Mapping[str, Any], controls: Sequence[Control] = CONTROLS) -> dict[str, Any]:
    """What the controls hold as fields of a request (and `order`); those at their defaults are not there.

    Raises:
        RequestError: text that should be a number or JSON is neither; what is out of range is the request's to say.
    """
    return {
        control.name: _read(control, values[control.name])
        for control in controls
        if not _left_alone(control, values[control.name])
    }


def values_of(request: Request, *, order: str = "llmlab", controls: Sequence[Control] = CONTROLS) -> dict[str, Any]:
    """What the controls hold when they stand for a request.

    Raises:
        RequestError: the request has a field that no control stands for.
    """
    given = {**request.to_dict(), "order": order}
    given.setdefault("max_tokens", given.pop("max_completion_tokens", None))
    names = {control.name for control in controls} | {"order"}
    for name, value in given.items():
        if name not in names and name not in WITHOUT_CONTROL and name != "prompt" and value is not None:
            raise RequestError(f"{name} cannot be set here: this model has no use for it", param=name)
    return {control.name: _written(control, given.get(control.name)) for control in controls}


def _left_alone(control: Control, value: Any) -> bool:
    if control.kind in ("whole", "json"):
        return not value.strip()
    return bool(value == control.default)


def _read(control: Control, value: Any) -> Any:
    name = control.name
    if control.kind == "whole":
        text = value.strip().replace("−", "-")
        if not text.removeprefix("-").isdecimal():
            raise RequestError(f"{name} must be an integer, got {value!r}", param=name)
        return int(text)
    if control.kind == "json" or (control.kind == "text" and value.lstrip()[:1] in ("[", "{", '"')):
        try:
            return json.loads(value)
        except ValueError as error:
            raise RequestError(f"{name} must be JSON, such as {control.empty}: {error}", param=name) from None
    if name == "enable_thinking":
        return _SWITCH[value]
    return value


def _written(control: Control, value: Any) -> Any:
    if value is None:
        return control.default
    if control.kind == "whole":
        return str(value)
    if control.kind in ("text", "json"):
        plain = control.kind == "text" and isinstance(value, str) and value.lstrip()[:1] not in ("[", "{", '"')
        return value if plain else json.dumps(value, ensure_ascii=False)
    if control.name == "enable_thinking":
        return _ON if value else _OFF
    return value
