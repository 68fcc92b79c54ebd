"""A stream put together again by its reader is what chat answers, to the bit, for any mix of fields."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from llmlab.lab.lab import Lab
from llmlab.protocol.completion import Choice, Tokens
from tests.backends.client import accumulated

REQUESTS = 304

WEATHER, TIME = (
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Tells {what}",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name, what in (("get_weather", "the weather"), ("get_time", "the time"))
)
QUESTIONS = (
    "Tell me a story.",
    "What is 17 + 25?",
    "Name a colour.",
    "Say something in Chinese, with an emoji 🦊.",
    "What is the weather in Paris, and what in Rome?",
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hello 中文"}]}],
)
STOPS = ("a", ". ", "e", "the", "\n", " t", "🦊", "é", "1", "zzz", " the ", "in")


def generated(rng: random.Random, ids: dict[str, int]) -> dict[str, Any]:
    """The fields of a request: each is there or not, whatever the others are, where they need not agree."""

    def sometimes(share: float = 0.3, /, **choices: Any) -> dict[str, Any]:
        return {name: value() for name, value in choices.items() if rng.random() < share}

    fields: dict[str, Any] = {"seed": rng.getrandbits(62), "max_tokens": rng.randint(1, 10)}
    fields |= sometimes(
        n=lambda: rng.randint(2, 4),
        temperature=lambda: rng.choice([0, 0.5, 1.5, 2]),
        top_p=lambda: rng.choice([0.5, 0.9]),
        top_k=lambda: rng.choice([1, 5, 50]),
        min_p=lambda: rng.choice([0.01, 0.2]),
        frequency_penalty=lambda: rng.choice([-2, 1, 2]),
        presence_penalty=lambda: rng.choice([-1, 2]),
        repetition_penalty=lambda: rng.choice([0.8, 1.3]),
        stop=lambda: rng.sample(STOPS, rng.randint(1, 4)),
        include_stop=lambda: False,
        min_tokens=lambda: rng.randint(0, fields["max_tokens"]),
        ignore_eos=lambda: True,
        enable_thinking=lambda: True,
        separate_reasoning=lambda: True,
        stream_options=lambda: rng.choice([{}, {"include_usage": True}, {"include_usage": False}]),
        logit_bias=lambda: {ids[rng.choice(list(ids))]: rng.choice([-100, 5, 20]) for _ in range(rng.randint(1, 3))},
    )
    if rng.random() < 0.7:
        fields |= {"logprobs": True} | sometimes(top_logprobs=lambda: rng.randint(0, 20))
    if rng.random() < 0.3:
        fields["tools"] = [WEATHER, TIME][: rng.randint(1, 2)]
        named = {"type": "function", "function": {"name": "get_weather"}}
        fields |= sometimes(
            tool_choice=lambda: rng.choice(["none", "auto", "required", named]), parallel_tool_calls=lambda: False
        )
        if rng.random() < 0.4:  # long enough for a call or two, and little to keep them from coming
            fields = {name: fields[name] for name in fields if name not in ("n", "stop", "logit_bias", "temperature")}
            fields["max_tokens"] = 48
    elif rng.random() < 0.1:
        fields["response_format"] = rng.choice([{"type": "text"}, {"type": "json_object"}])
    return fields


@pytest.fixture(scope="module")
def cases(demo: Lab) -> list[tuple[Any, dict[str, Any]]]:
    rng = random.Random(20)
    tokenizer = demo.backend.tokenizer
    names = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>")
    ids = {name: tokenizer.id_of(name) for name in names} | {"byte": tokenizer.encode("🦊")[0]}
    return [(rng.choice(QUESTIONS), generated(rng, ids)) for _ in range(REQUESTS)]


@pytest.mark.slow
def test_a_stream_read_to_its_end_is_what_chat_answers(demo: Lab, cases: list[tuple[Any, dict[str, Any]]]) -> None:
    def ask(case: tuple[Any, dict[str, Any]]) -> tuple[str, int]:
        messages, fields = case
        whole = demo.chat(messages, **{name: value for name, value in fields.items() if name != "stream_options"})
        stream = demo.stream(messages, **fields)
        there = accumulated(stream, demo.request(messages, **fields, stream=True))
        expected = whole.completion.model_dump(exclude_unset=True)
        found = there.model_dump(exclude_unset=True)
        if fields.get("stream_options", {}).get("include_usage") is not True and "stream_options" in fields:
            del expected["usage"], found["usage"]
        assert plain(found) == plain(expected), (messages, fields)
        result = stream.result()
        assert plain(result.completion.model_dump()) == plain(whole.completion.model_dump())
        assert result.request == whole.request
        for one, other in zip(result.choices, whole.choices, strict=True):
            same(one, other)
        return "+".join(sorted(set(whole.finish_reasons))), sum(len(choice.tool_calls) for choice in whole.choices)

    # Several at once: what runs beside a request must not show either.
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(ask, cases))
    reasons = {reason for reason, _ in seen}
    assert {"stop", "length", "tool_calls"} <= reasons, "the requests have not met enough"
    assert sum(calls for _, calls in seen) > 5


def plain(response: dict[str, Any]) -> dict[str, Any]:
    """A response without what differs between two runs of one request."""
    return {name: value for name, value in response.items() if name not in ("id", "created")}


def same(one: Choice, other: Choice) -> None:
    for name in ("index", "text", "finish_reason", "reasoning", "tool_calls"):
        assert getattr(one, name) == getattr(other, name)
    for name in Tokens.__dataclass_fields__:
        a, b = getattr(one.tokens, name), getattr(other.tokens, name)
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, name
