"""Signatures that spell out a request's fields, so that Tab, Shift-Tab and help() know them.

The lab's methods take `**fields` and leave their checks to the request; a reader is shown the fields, with their
defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from inspect import Parameter, signature
from typing import Any, TypeVar

from llmlab.protocol.request import ChatRequest, PromptRequest

__all__ = ["LAW_FIELDS", "PROMPT_FIELDS", "STREAMING", "spells"]

Method = TypeVar("Method", bound=Callable[..., Any])

#: What is asked for most comes first.
_FIRST = ("temperature", "top_p", "top_k", "min_p", "n", "seed", "max_tokens", "stop")
_DEFAULTS = {
    name: None if field.is_required() else field.get_default(call_default_factory=True)
    for model in (ChatRequest, PromptRequest)
    for name, field in model.model_fields.items()
}
#: Those of a raw prompt.
PROMPT_FIELDS = tuple(PromptRequest.model_fields)
#: How an answer travels: of one that is waited for, no question.
STREAMING = ("stream", "stream_options")
#: Those that a law depends on; the others of a request say what is asked, or how long the answer gets.
LAW_FIELDS = (
    "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty",
    "logit_bias", "min_tokens", "seed",
)  # fmt: skip


class _Kept:
    """The default of what stays as the request at hand has it."""

    def __repr__(self) -> str:
        return "…"


_KEPT = _Kept()


def spells(
    *, only: Collection[str] = _DEFAULTS.keys(), but: Collection[str] = (), kept: bool = False
) -> Callable[[Method], Method]:
    """A decorator: the method's signature has a request's fields in the place of its `**fields`.

    Args:
        only: these fields.
        but: without these.
        kept: what is not given stays as it is in a request that is there.
    """

    def spelled(method: Method) -> Method:
        shown = signature(method)
        own = [one for one in shown.parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
        names = [name for name in (*_FIRST, *_DEFAULTS) if name in only and name not in {*but, *shown.parameters}]
        fields = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=_KEPT if kept else _DEFAULTS[name])
            for name in dict.fromkeys(names)
        ]
        vars(method)["__signature__"] = shown.replace(parameters=[*own, *fields])
        return method

    return spelled
