"""Reruns: an answer's request under other parameters, with the same noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.counterfactuals.answered import Answered, logits_backend
from llmlab.errors import RequestError
from llmlab.protocol.backend import Backend, GivenTokens, Stream
from llmlab.protocol.completion import Completion
from llmlab.protocol.request import ChatRequest, Request, build_request

__all__ = ["changed_request", "rerun", "start"]


def rerun(done: Answered, backend: Backend, *, order: str | None, changes: Mapping[str, Any]) -> Completion | Stream:
    """Runs a request again with some fields changed; see `Result.rerun`.

    Returns:
        A stream that was started; or, for an answer whose tokens were all given, the completion that scores them again.
    """
    request = changed_request(done, changes)
    if all(choice.given == len(choice.tokens) > 0 for choice in done.choices):
        given = [GivenTokens(choice.index, choice.tokens.ids, choice.finish_reason) for choice in done.choices]
        order = done.order if order is None else order
        return logits_backend(backend).score(request, given, seed=_seed(request, done), order=order)
    return start(done, backend, request=request, order=order)


def start(done: Answered, backend: Backend, *, request: Request, order: str | None) -> Stream:
    """Starts a changed request of an answer; returns its stream. Tokens that were given to the answer are given again.

    Raises:
        RequestError: the number of choices changes although some of them begin with given tokens.
    """
    order = done.order if order is None else order
    if not any(choice.given for choice in done.choices):
        return backend.stream(request, order=order)
    if request.n != done.request.n:
        raise RequestError(
            f"n cannot be changed: {len(done.choices)} choices of this result begin with tokens that were given",
            param="n",
        )
    # Where the given tokens are the whole choice, the last one counts as drawn, so that it ends the choice again.
    given = [
        GivenTokens(choice.index, choice.tokens.ids[: choice.given], drawn=int(choice.given == len(choice.tokens)))
        for choice in done.choices
    ]
    return logits_backend(backend).continue_from(request, given, seed=_seed(request, done), order=order)


def changed_request(done: Answered, changes: Mapping[str, Any]) -> Request:
    """Returns an answer's request with its seed written into it and some fields changed; `system` sets that message.

    Raises:
        RequestError: a field is unknown or out of range.
    """
    if changes.get("stream"):
        raise RequestError("stream = True: a rerun is not streamed, its whole answer is returned", param="stream")
    fields = {"seed": done.seed, **changes}
    system = fields.pop("system", None)
    messages = fields.get("messages")
    if isinstance(messages, str) and isinstance(done.request, ChatRequest):
        fields["messages"] = [{"role": "user", "content": messages}]
    return build_request(done.request.replace(**fields), system=system)


def _seed(request: Request, done: Answered) -> int:
    return done.seed if request.seed is None else request.seed
