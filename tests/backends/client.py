"""Puts the chunks of a stream together, as a client does, and checks their shapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llmlab.protocol.request import Request

LISTS = ("content", "reasoning", "tool_calls", "end")


def accumulated(chunks: Iterable[ChatCompletionChunk], request: Request) -> ChatCompletion:
    """The whole answer of a stream; fails where the chunks are not in the shapes and the order of the contract."""
    got = [chunk.model_dump(exclude_unset=True) for chunk in chunks]
    head = {name: got[0][name] for name in ("id", "object", "created", "model", "system_fingerprint")}
    assert head["id"].startswith("chatcmpl-") and head["object"] == "chat.completion.chunk"
    for chunk in got:
        assert {name: chunk[name] for name in head} == head
    options = request.stream_options
    assert [chunk for chunk in got if "prompt_token_ids" in chunk] == (got[:1] if request.return_token_ids else [])
    head |= {name: got[0][name] for name in ("prompt_token_ids",) if name in got[0]}
    usage, seed = _usage(got, None if options is None else options.get("include_usage", False))
    choices: dict[int, dict[str, Any]] = {}
    asked = request.prompt_logprobs is not None
    assert [at for at, chunk in enumerate(got) if "prompt_logprobs" in chunk] == ([0] if asked else [])
    prompt = {"prompt_logprobs": got[0]["prompt_logprobs"]} if asked else {}
    for chunk in got:
        for choice in chunk["choices"]:
            _take(choices, choice, request)
    # All roles before anything else, in order; nothing of a choice after its end.
    roles = [c["index"] for chunk in got for c in chunk["choices"] if "role" in c["delta"]]
    assert roles == list(range(len(roles))) == [c["index"] for chunk in got[: len(roles)] for c in chunk["choices"]]
    assert sorted(choices) == roles
    assert all(choice["finish_reason"] for choice in choices.values())
    whole = {**head, "object": "chat.completion", "seed": seed, "choices": [choices[i] for i in sorted(choices)]}
    return ChatCompletion.model_validate(whole | prompt | {"usage": usage})


def _usage(got: list[dict[str, Any]], include_usage: bool | None) -> tuple[dict[str, Any] | None, int]:
    ends = [chunk for chunk in got for choice in chunk["choices"] if choice["finish_reason"]]
    assert [chunk["seed"] for chunk in got if chunk["choices"] and "seed" in chunk] == [ends[-1]["seed"]]
    if include_usage:
        *others, last = got
        assert last["choices"] == [] and last["seed"] == ends[-1]["seed"]
        assert all(chunk["usage"] is None and chunk["choices"] for chunk in others)
        return last["usage"], last["seed"]
    assert got[-1] is ends[-1] and all(len(chunk["choices"]) == 1 for chunk in got)
    with_usage = [chunk for chunk in got if "usage" in chunk]
    assert with_usage == ([] if include_usage is False else [ends[-1]])
    return (None if include_usage is False else ends[-1]["usage"]), ends[-1]["seed"]


def _take(choices: dict[int, dict[str, Any]], choice: dict[str, Any], request: Request) -> None:
    index, delta = choice["index"], choice["delta"]
    if "role" in delta:
        assert index not in choices and delta == {"role": "assistant", "content": None}
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        if request.separate_reasoning:
            message["reasoning_content"] = None
        logprobs = {name: [] for name in LISTS} | {"refusal": None} if request.logprobs else None
        ids = {"token_ids": []} if request.return_token_ids else {}
        choices[index] = {"index": index, "message": message, "finish_reason": None, "logprobs": logprobs, **ids}
    so_far = choices[index]
    assert so_far["finish_reason"] is None
    message = so_far["message"]
    for name in ("content", "reasoning_content"):
        if delta.get(name) is not None:
            message[name] = (message[name] or "") + delta[name]
    for piece in delta.get("tool_calls", ()):
        calls = message.setdefault("tool_calls", [])
        if piece["index"] == len(calls):
            assert piece["type"] == "function" and piece["id"]
            calls.append({"id": piece["id"], "type": "function", "function": dict(piece["function"])})
        else:
            assert "id" not in piece and "name" not in piece["function"]
            calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    if choice["logprobs"] is not None:
        for name in LISTS:
            so_far["logprobs"][name] += choice["logprobs"].get(name, [])
    if "token_ids" in choice:
        so_far["token_ids"] += choice["token_ids"]
    if choice["finish_reason"]:
        assert set(delta) <= {"content"} and not delta.get("content")
        so_far["finish_reason"] = choice["finish_reason"]
