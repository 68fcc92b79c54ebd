"""Answers to raw prompts as the API's `text_completion` objects, whole or in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from llmlab.protocol.completion import Choice, Completion, Delta, Header
from llmlab.protocol.completions_request import CompletionsRequest
from llmlab.protocol.legacy_logprobs import Echo, Logprobs, Writer, joined, of_prompt
from llmlab.protocol.wire import envelope, finish_reason, prompt_logprobs_json, prompt_token_ids, token_ids

__all__ = ["TextCompletion", "TextStream", "text_chunks", "text_completion_json"]


@dataclass(frozen=True, eq=False)
class TextCompletion:
    """The answers to all prompts of one request.

    Attributes:
        request: the request.
        completions: one per prompt; the indices of their choices go on from one prompt to the next.
        echoes: the prompts as text, where the request asks for an echo.
    """

    request: CompletionsRequest
    completions: tuple[Completion, ...]
    echoes: tuple[Echo, ...] = ()

    @property
    def id(self) -> str:
        """The id of the response."""
        return text_id(self.completions[0])

    @cached_property
    def prompt_ids(self) -> np.ndarray:
        """The token ids of all prompts together."""
        return np.concatenate([one.prompt_ids for one in self.completions])

    @property
    def completion_tokens(self) -> int:
        """The number of generated tokens, of answers that are not returned too."""
        return sum(one.completion_tokens for one in self.completions)

    @property
    def choices(self) -> list[Choice]:
        """The answers that are returned, in the order of the prompts."""
        return [choice for one in self.completions for choice in best(one.choices, self.request.answers)]


@runtime_checkable
class TextStream(Protocol):
    """The answers to all prompts of one request, while they are made."""

    request: CompletionsRequest
    headers: Sequence[Header]  #: one per prompt
    echoes: tuple[Echo, ...]

    def __iter__(self) -> Iterator[Delta]: ...

    def result(self) -> TextCompletion:
        """Run to the end; returns all answers."""


def text_id(header: Header) -> str:
    """Returns the id of a response on this path."""
    return "cmpl-" + header.id.removeprefix("chatcmpl-")


def best(choices: Sequence[Choice], count: int) -> list[Choice]:
    """Returns the `count` choices with the highest mean raw logprob of their tokens, the best first; ties in order.

    Where there are no more than `count`, they are returned as they are.
    """
    if len(choices) <= count:
        return list(choices)
    return sorted(choices, key=_mean_logprob, reverse=True)[:count]


def _mean_logprob(choice: Choice) -> float:
    found = choice.tokens.logprob
    return float(found.mean(dtype=np.float64)) if len(found) and not np.isnan(found).any() else -np.inf


def text_completion_json(done: TextCompletion) -> dict[str, Any]:
    """Returns the answers as a `text_completion` JSON object."""
    request = done.request
    choices: list[dict[str, Any]] = []
    for at, completion in enumerate(done.completions):
        echo = done.echoes[at] if done.echoes else None
        for choice in best(completion.choices, request.answers):
            logprobs = _prompt_part(request, completion, echo)
            if logprobs is not None:
                logprobs = joined(logprobs, _writer(request, completion, echo).write(choice.tokens))
            choices.append(
                {
                    "index": len(choices),
                    "text": (echo.text if echo else "") + choice.text,
                    "logprobs": logprobs,
                    "finish_reason": finish_reason(choice.finish_reason),
                    **_reasoning(completion, choice.reasoning),
                    **_of_prompt(request, completion),
                    **token_ids(choice.tokens, completion),
                }
            )
    return {
        **_envelope(done.completions[0]),
        "seed": done.completions[0].seed,
        "choices": choices,
        "usage": _usage(len(done.prompt_ids), done.completion_tokens),
    }


def text_chunks(stream: TextStream, *, options: Mapping[str, bool] | None = None) -> Iterator[dict[str, Any]]:
    """Yields the answers in chunks as they are made: `text_completion` objects, each with one choice's new text.

    Args:
        stream: a stream from which nothing has been read yet.
        options: the request's `stream_options`; see `chunks.chunks`.
    """
    request, headers = stream.request, stream.headers
    include_usage = None if options is None else options.get("include_usage", False)
    running = bool(options and options.get("continuous_usage_stats"))
    prompt = sum(len(header.prompt_ids) for header in headers)
    more = {"usage": _usage(prompt, 0) if running else None} if include_usage else {}
    envelope = _envelope(headers[0])
    writers, generated, final = [], 0, None
    for index in range(request.n):
        header = headers[index // request.best_of]
        echo = stream.echoes[index // request.best_of] if stream.echoes else None
        writers.append(_writer(request, header, echo))
        about = _of_prompt(request, header)
        if echo is not None or about:
            logprobs = _prompt_part(request, header, echo)
            first = {**_choice(index, echo.text if echo else "", logprobs), **about}
            yield {**envelope, "choices": [first], **more}
    unfinished = request.n
    for delta in stream:
        generated += len(delta.tokens)
        more = {"usage": _usage(prompt, generated)} if running else more
        header = headers[delta.index // request.best_of]
        logprobs = None if request.logprobs is None else writers[delta.index].write(delta.tokens)
        new = {**_reasoning(header, delta.reasoning), **(token_ids(delta.tokens, header) if len(delta.tokens) else {})}
        if not (delta.text or delta.finish_reason or new or (logprobs and logprobs["tokens"])):
            continue
        choice = _choice(delta.index, delta.text, logprobs, finish=delta.finish_reason)
        chunk = {**envelope, "choices": [{**choice, **new}], **more}
        unfinished -= delta.finish_reason is not None
        if unfinished or not delta.finish_reason:
            yield chunk
        else:
            final = chunk
    if final is None:
        return
    usage = _usage(prompt, generated)
    final["seed"] = headers[0].seed
    if include_usage is None:
        final["usage"] = usage
    yield final
    if include_usage:
        yield {**envelope, "choices": [], "usage": usage, "seed": headers[0].seed}


def _choice(index: int, text: str, logprobs: Logprobs | None, *, finish: str | None = None) -> dict[str, Any]:
    reason = None if finish is None else finish_reason(finish)
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _writer(request: CompletionsRequest, header: Header, echo: Echo | None) -> Writer:
    return Writer(header, alternatives=request.logprobs or 0, start=len(echo.text) if echo else 0)


def _prompt_part(request: CompletionsRequest, header: Header, echo: Echo | None) -> Logprobs | None:
    """The logprobs of the text before the answer; None where the request asks for none."""
    if request.logprobs is None:
        return None
    if echo is None:
        return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    return of_prompt(echo, header, alternatives=request.logprobs)


def _of_prompt(request: CompletionsRequest, header: Header) -> dict[str, Any]:
    """What a choice says of its prompt, if the request asks for it."""
    logprobs = {} if request.prompt_logprobs is None else prompt_logprobs_json(header)
    return {**prompt_token_ids(header), **logprobs}


def _reasoning(header: Header, reasoning: str | None) -> dict[str, Any]:
    separate = header.request.separate_reasoning and reasoning
    return {"reasoning_content": reasoning} if separate else {}


def _envelope(header: Header) -> dict[str, Any]:
    return {**envelope(header, kind="text_completion"), "id": text_id(header)}


def _usage(prompt: int, generated: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
