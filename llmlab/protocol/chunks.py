"""A stream as the API's `chat.completion.chunk` JSON objects, yielded as they are made.

First comes a role chunk for each choice, the first of them with `prompt_logprobs` if the request asks for them; then
new text, the choices interleaved, each chunk with the logprobs of its tokens; then one finish chunk for each choice,
with those of the end token. A chunk holds reasoning, content or tool calls, never two of them, because many clients
look at only one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmlab.protocol.backend import Stream
from llmlab.protocol.completion import CallDelta, Delta, Header
from llmlab.protocol.wire import (
    envelope,
    finish_reason,
    logprobs_json,
    prompt_logprobs_json,
    prompt_token_ids,
    token_ids,
    usage,
)

#: A chunk as a JSON object.
Chunk = dict[str, Any]


def chunks(stream: Stream, *, options: Mapping[str, bool] | None = None) -> Iterator[Chunk]:
    """Yields the chunks of a stream: valid `openai.types.chat.ChatCompletionChunk`s, as dicts.

    Args:
        stream: a backend's stream from which nothing has been read yet.
        options: the request's `stream_options`. Without any, the last finish chunk has the usage. With `include_usage`
            one more chunk without choices has it, and it is null in all others, or, with `continuous_usage_stats`, that
            of the tokens so far. With `include_usage` false no chunk has it. The last finish chunk always has the seed.
    """
    header = stream.header
    include_usage = None if options is None else options.get("include_usage", False)
    running = bool(options and options.get("continuous_usage_stats"))
    spent = {"usage": usage(header, generated=0) if running else None} if include_usage else {}
    for index in range(header.request.n):
        opening = {} if index else {**prompt_token_ids(header), **prompt_logprobs_json(header)}
        yield _chunk(header, index, {"role": "assistant", "content": None}) | opening | spent
    unfinished, answered, generated = set(range(header.request.n)), set[int](), 0
    final: Chunk | None = None  # held back until the end, because an endpoint sends the usage after its last chunk
    reported: Mapping[str, int] | None = None
    for delta in stream:
        generated += len(delta.tokens)
        reported = delta.reported_usage or reported
        spent = {"usage": usage(header, generated=generated, reported=reported)} if running else spent
        ids = token_ids(delta.tokens, header) if len(delta.tokens) else {}
        pieces = list(_pieces(delta, header))
        if ids and not pieces and delta.finish_reason is None:
            pieces = [({}, None)]
        for piece, logprobs in pieces:
            if "content" in piece or "tool_calls" in piece:
                answered.add(delta.index)
            yield _chunk(header, delta.index, piece, logprobs=logprobs, ids=ids) | spent
            ids = {}
        if delta.finish_reason is None:
            continue
        unfinished.discard(delta.index)
        end = {"content": [], "end": logprobs_json(delta.tokens, header)["end"], "refusal": None}
        # A choice without text has an empty content, as in the whole answer, not a null one.
        last = {} if delta.index in answered else {"content": ""}
        logprobs = end if header.request.logprobs else None
        chunk = _chunk(header, delta.index, last, logprobs=logprobs, finish=delta.finish_reason, ids=ids) | spent
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
    ids: Mapping[str, list[int]] | None = None,
) -> Chunk:
    reason = None if finish is None else finish_reason(finish)
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason, **(ids or {})}
    return {**envelope(header, kind="chat.completion.chunk"), "choices": [choice]}


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
