"""A stream as the API's `chat.completion.chunk` JSON objects, yielded as they are made.

First comes a role chunk for each choice; then new text, the choices interleaved, each chunk with the logprobs of its
tokens; then one finish chunk for each choice. A chunk holds reasoning, content or tool calls, never two of them,
because many clients look at only one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmlab.protocol.backend import Stream
from llmlab.protocol.completion import CallDelta, Delta, Header
from llmlab.protocol.wire import envelope, finish_reason, logprobs_json, usage

#: A chunk as a JSON object.
Chunk = dict[str, Any]


def chunks(stream: Stream, *, include_usage: bool | None = None) -> Iterator[Chunk]:
    """Yields the chunks of a stream: valid `openai.types.chat.ChatCompletionChunk`s, as dicts.

    Args:
        stream: a backend's stream from which nothing has been read yet.
        include_usage: `stream_options.include_usage`. None (no options were given): the last finish chunk has the
            usage. False: no chunk has it. True: one more chunk without choices has it, and it is null in all others.
            The last finish chunk always has the seed.
    """
    header = stream.header
    for index in range(header.request.n):
        yield _chunk(header, index, {"role": "assistant", "content": None}, include_usage=include_usage)
    unfinished, answered, generated = set(range(header.request.n)), set[int](), 0
    final: Chunk | None = None  # held back until the end, because an endpoint sends the usage after its last chunk
    reported: Mapping[str, int] | None = None
    for delta in stream:
        generated += len(delta.tokens)
        reported = delta.reported_usage or reported
        for piece, logprobs in _pieces(delta, header):
            if "content" in piece or "tool_calls" in piece:
                answered.add(delta.index)
            yield _chunk(header, delta.index, piece, logprobs=logprobs, include_usage=include_usage)
        if delta.finish_reason is None:
            continue
        unfinished.discard(delta.index)
        # A choice without text has an empty content, as in the whole answer, not a null one.
        last = {} if delta.index in answered else {"content": ""}
        chunk = _chunk(header, delta.index, last, finish=delta.finish_reason, include_usage=include_usage)
        if unfinished:
            yield chunk
        else:
            final = chunk
    if final is None:
        return
    counted = usage(header, generated=generated, reported=reported)
    final["seed"] = header.seed
    if include_usage is None:
        final["usage"] = counted
    yield final
    if include_usage:
        yield {
            **envelope(header, kind="chat.completion.chunk"),
            "choices": [],
            "usage": counted,
            "seed": header.seed,
        }


def _chunk(
    header: Header,
    index: int,
    delta: dict[str, Any],
    *,
    logprobs: dict[str, Any] | None = None,
    finish: str | None = None,
    include_usage: bool | None,
) -> Chunk:
    reason = None if finish is None else finish_reason(finish)
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
    chunk = {**envelope(header, kind="chat.completion.chunk"), "choices": [choice]}
    return chunk | {"usage": None} if include_usage else chunk


def _pieces(delta: Delta, header: Header) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Yields the deltas of a chunk's choice, one per kind of text, with the logprobs of the new tokens.

    Tokens that have not produced any text yet come with an empty delta.
    """
    text: dict[str, Any] = {}
    if delta.reasoning:
        text["reasoning"] = {"reasoning_content": delta.reasoning}
    if delta.text:
        text["content"] = {"content": delta.text}
    if delta.calls:
        text["tool_calls"] = {"tool_calls": _calls(delta.calls)}
    if not header.request.logprobs:
        for piece in text.values():
            yield piece, None
        return
    lists = logprobs_json(delta.tokens, header)
    for kind in ("reasoning", "content", "tool_calls"):
        if kind in text or lists[kind]:
            yield text.get(kind, {}), {"content": [], kind: lists[kind], "refusal": None}


def _calls(deltas: Sequence[CallDelta]) -> list[dict[str, Any]]:
    """One entry per call, because clients take two entries of a chunk for two calls. The first one has the name."""
    entries: dict[int, dict[str, Any]] = {}
    for each in deltas:
        entry = entries.setdefault(each.index, {"index": each.index, "function": {"arguments": ""}})
        if each.id is not None:
            entry |= {"id": each.id, "type": "function", "function": {"name": each.name, "arguments": ""}}
        entry["function"]["arguments"] += each.arguments
    return list(entries.values())
