"""Counterfactuals: a result's request under other parameters and the same noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmlab.errors import RequestError
from llmlab.protocol.backend import GivenTokens, LogitsBackend
from llmlab.protocol.request import ChatRequest, Request
from llmlab.results.result import lab_of

if TYPE_CHECKING:
    from llmlab.lab.lab import Lab
    from llmlab.protocol.backend import Stream
    from llmlab.results.result import Result

__all__ = ["changed_request", "logits_backend", "rerun", "start"]


def rerun(result: Result, *, order: str | None, changes: Mapping[str, Any]) -> Result:
    """See `Result.rerun`."""
    lab, request = lab_of(result), changed_request(result, changes)
    if all(choice.given == len(choice.tokens) > 0 for choice in result.choices):
        # Nothing was drawn: these are figures of given tokens, and so they are again.
        given = [GivenTokens(choice.index, choice.tokens.ids, choice.finish_reason) for choice in result.choices]
        order = result.order if order is None else order
        found = logits_backend(lab).score(request, given, seed=_seed(request, result), order=order)
        return lab.keep(found, parent=result)
    return lab.read(start(lab, result, order=order, request=request), parent=result)


def start(lab: Lab, result: Result, *, request: Request, order: str | None) -> Stream:
    """Ask a result's question once more; tokens that were given to it are given again."""
    order = result.order if order is None else order
    if not any(choice.given for choice in result.choices):
        return lab.backend.stream(request, order=order)
    if request.n != result.request.n:
        raise RequestError(
            f"n cannot be changed: {len(result)} choices of this result begin with tokens that were given",
            param="n",
        )
    # The last of the given tokens counts as drawn where it ended the choice, so that it does so again.
    given = [
        GivenTokens(choice.index, choice.tokens.ids[: choice.given], drawn=int(choice.given == len(choice.tokens)))
        for choice in result.choices
    ]
    return logits_backend(lab).continue_from(request, given, seed=_seed(request, result), order=order)


def changed_request(result: Result, changes: Mapping[str, Any]) -> Request:
    """The result's request with its seed written down and some fields changed.

    Raises:
        RequestError: a field is unknown or out of range.
    """
    if changes.get("stream"):
        raise RequestError("stream = True: what is done again is done as a whole", param="stream")
    fields = {"seed": result.seed, **changes}
    messages = fields.get("messages")
    if isinstance(messages, str) and isinstance(result.request, ChatRequest):
        fields["messages"] = [{"role": "user", "content": messages}]
    return result.request.replace(**fields)


def logits_backend(lab: Lab) -> LogitsBackend:
    """The lab's backend, as one that takes tokens which are there already.

    Raises:
        RequestError: it is an endpoint that does not.
    """
    if not isinstance(lab.backend, LogitsBackend):
        raise RequestError(
            f"{lab.backend.name} is an endpoint that does not take tokens as they are; llmlab.load a model for that"
        )
    return lab.backend


def _seed(request: Request, result: Result) -> int:
    return result.seed if request.seed is None else request.seed
