"""Method signatures that name the fields of a request, so that Tab, Shift-Tab and help() show them.

The lab's methods take `**fields` and leave the checks to the request; readers see the fields with their defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from inspect import Parameter, signature
from typing import Any, TypeVar

from llmlab.protocol.fields import FIELDS
from llmlab.protocol.request import PromptRequest
from llmlab.sampling.library import LIBRARY_FIELDS
from llmlab.sampling.stages import FIELDS as STAGE_FIELDS

__all__ = ["PROMPT_FIELDS", "SAMPLING_FIELDS", "STREAMING", "shows_fields"]

Method = TypeVar("Method", bound=Callable[..., Any])

#: The fields that are used most, which are shown first.
_FIRST = ("temperature", "top_p", "top_k", "min_p", "n", "seed", "max_tokens", "stop")
#: What methods with messages take besides the fields: the text of a system message.
_SYSTEM = ("system",)
#: The fields of a raw prompt.
PROMPT_FIELDS = tuple(PromptRequest.model_fields)
#: The fields that say how an answer is returned; a method that returns a whole answer does not have them.
STREAMING = ("stream", "stream_options")
#: The fields that change the next-token distribution or what is drawn from it, given the model's logits.
SAMPLING_FIELDS = (*STAGE_FIELDS, *LIBRARY_FIELDS, "seed")


class _Unchanged:
    """The default of a field that stays as an existing request has it."""

    def __repr__(self) -> str:
        return "…"


_UNCHANGED = _Unchanged()


def shows_fields(
    *, only: Collection[str] = FIELDS.keys(), without: Collection[str] = (), unchanged: bool = False
) -> Callable[[Method], Method]:
    """Returns a decorator that replaces `**fields` in a method's signature by the fields of a request.

    Args:
        only: the names of the fields to show.
        without: names to leave out.
        unchanged: whether a field that is not given stays as an existing request has it, so that no default is shown.
    """

    def decorate(method: Method) -> Method:
        shown = signature(method)
        own = [one for one in shown.parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
        allowed = [name for name in FIELDS if name in only and name not in {*without, *shown.parameters}]
        first = [name for name in _FIRST if name in allowed]
        names = [*first, *(_SYSTEM if "messages" in {*allowed, *shown.parameters} else ()), *allowed]
        defaults = {name: field.default for name, field in FIELDS.items()}
        fields = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=_UNCHANGED if unchanged else defaults.get(name))
            for name in dict.fromkeys(names)
        ]
        vars(method)["__signature__"] = shown.replace(parameters=[*own, *fields])
        return method

    return decorate
