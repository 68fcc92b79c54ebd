"""A stream in the API's own shapes: `chat.completion.chunk`, one after the other, as they are made.

First a role chunk for each choice, then what is new, choices interleaved, each piece with the logprobs of its tokens,
then one finish chunk for each choice. A piece is reasoning, content or tool calls, never two of them, since many
clients look at one alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmlab.protocol.backend import Stream
from llmlab.protocol.completion import CallDelta, Delta, Header
from llmlab.protocol.wire import envelope, finish_reason, listed, usage

#: A chunk as JSON has it.
Chunk = dict[str, Any]


def chunks(stream: Stream, *, include_usage: bool | None = None) -> Iterator[Chunk]:
    """The chunks of a stream, until it ends; valid `openai.types.chat.ChatCompletionChunk`s.

    Args:
        stream: what a backend's `stream` returned, not read from yet.
        include_usage: `stream_options.include_usage`. None (there were no options): the usage is on the last finish
            chunk; False: nowhere; True: in one more chunk, which has no choices, and null in all others. The seed is
            on the last finish chunk always.
    """
    header = stream.header
    for index in range(header.request.n):
        yield _chunk(header, index, {"role": "assistant", "content": None}, include_usage=include_usage)
    unfinished, answered, made = set(range(header.request.n)), set[int](), 0
    final: Chunk | None = None  # it waits for the end, behind which an endpoint has the usage
    reported: Mapping[str, int] | None = None
    for delta in stream:
        made += len(delta.tokens)
        reported = delta.reported_usage or reported
        for piece, logprobs in _pieces(delta, header):
            if "content" in piece or "tool_calls" in piece:
                answered.add(delta.index)
            yield _chunk(header, delta.index, piece, logprobs=logprobs, include_usage=include_usage)
        if delta.finish_reason is None:
            continue
        unfinished.discard(delta.index)
        # Nothing was said: an empty content, as in the whole answer, and not none.
        last = {} if delta.index in answered else {"content": ""}
        chunk = _chunk(header, delta.index, last, finish=delta.finish_reason, include_usage=include_usage)
        if unfinished:
            yield chunk
        else:
            final = chunk
    if final is None:
        return
    counted = usage(header, made=made, reported=reported)
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
    """What is new, by kind; with the tokens that came with it, also where they have not made any text yet."""
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
    lists = listed(delta.tokens, header)
    for kind in ("reasoning", "content", "tool_calls"):
        if kind in text or lists[kind]:
            yield text.get(kind, {}), {"content": [], kind: lists[kind], "refusal": None}


def _calls(deltas: Sequence[CallDelta]) -> list[dict[str, Any]]:
    """One entry a call: clients take two entries of one chunk for two calls. Only a call's first piece has its name."""
    entries: dict[int, dict[str, Any]] = {}
    for each in deltas:
        entry = entries.setdefault(each.index, {"index": each.index, "function": {"arguments": ""}})
        if each.id is not None:
            entry |= {"id": each.id, "type": "function", "function": {"name": each.name, "arguments": ""}}
        entry["function"]["arguments"] += each.arguments
    return list(entries.values())
