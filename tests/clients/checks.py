"""What each case of each program must say: the answer of the same model in this process, or the shape asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from llmlab.lab.lab import Lab
from tests.clients.programs.cases import ANIMAL, BEGINNING, MODEL, PERSON, STORY, TOOL, WEATHER

#: (program, case) -> the check of what it said, which gets the lab as well.
CHECKS: dict[tuple[str, str], Callable[[Any, Lab], None]] = {}
RESULT = '{"temperature": 7}'
PERSON_FORM = {
    "type": "json_schema",
    "json_schema": {
        "name": "Person",
        "strict": True,
        "schema": {
            "properties": {"name": {"title": "Name", "type": "string"}, "age": {"title": "Age", "type": "integer"}},
            "required": ["name", "age"],
            "title": "Person",
            "type": "object",
            "additionalProperties": False,
        },
    },
}


def check(program: str, *cases: str) -> Callable[[Callable[[Any, Lab], None]], None]:
    def keep(function: Callable[[Any, Lab], None]) -> None:
        CHECKS.update({(f"with_{program}", name): function for name in cases})

    return keep


def animal(lab: Lab) -> str:
    return lab.chat(ANIMAL, temperature=0).text


def person(lab: Lab) -> dict[str, Any]:
    """As the schema that pydantic writes has it, without the tools' detours."""
    return json.loads(lab.chat(PERSON, temperature=0, max_tokens=60, response_format=PERSON_FORM).text)


def is_person(said: Any, lab: Lab) -> None:
    """Of the right types; the texts depend on the schema and the words that a program adds."""
    assert list(said) == ["name", "age"] and isinstance(said["name"], str) and type(said["age"]) is int


def weather(lab: Lab) -> tuple[str, str, str]:
    """The call that the lab makes, and what it says to its result."""
    messages: list[Any] = [{"role": "user", "content": WEATHER}]
    first = lab.chat(messages, temperature=0, tools=[TOOL])
    [call] = first.choices[0].tool_calls
    messages += [first.completion.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": RESULT}]
    return call.name, call.arguments, lab.chat(messages, temperature=0, tools=[TOOL]).text


def begun(lab: Lab, prompt: str = BEGINNING, tokens: int = 5) -> str:
    return lab.complete(prompt, temperature=0, max_tokens=tokens).text


# ---- openai


@check("openai", "models")
def _(said: Any, lab: Lab) -> None:
    assert said == [[MODEL], MODEL]


@check("openai", "chat")
def _(said: Any, lab: Lab) -> None:
    text, finish, tokens, usage = said
    result = lab.chat(ANIMAL, temperature=0, logprobs=True, top_logprobs=2)
    listed = result.logprobs_frame().query("segment == 'content'")
    assert (text, finish) == (result.text, result.finish_reasons[0])
    assert [[token, top] for token, _, top in tokens] == [[token, 2] for token in listed.token]
    assert [logprob for _, logprob, _ in tokens] == pytest.approx(listed.logprob.tolist(), abs=1e-6)
    assert usage == result.usage.to_dict(exclude_unset=True, exclude_none=True)


@check("openai", "chat_choices")
def _(said: Any, lab: Lab) -> None:
    assert said == lab.chat(STORY, n=3, seed=7, max_tokens=12).texts


@check("openai", "chat_stream")
def _(said: Any, lab: Lab) -> None:
    text, tokens, chunks = said
    assert (text, tokens) == (lab.chat(STORY, seed=7, max_tokens=12).text, 12)
    assert chunks > 3, "a role, more than one text, an end and the usage"


@check("openai", "chat_stream_helper")
def _(said: Any, lab: Lab) -> None:
    assert said[0] == person(lab)
    assert {"chunk", "content.delta", "content.done"} <= set(said[1])


@check("openai", "chat_parse")
def _(said: Any, lab: Lab) -> None:
    assert said == person(lab)


@check("openai", "chat_tools")
def _(said: Any, lab: Lab) -> None:
    assert tuple(said) == weather(lab)


@check("openai", "chat_tools_parse")
def _(said: Any, lab: Lab) -> None:
    assert said == ["GetWeather", True]


@check("openai", "chat_async")
def _(said: Any, lab: Lab) -> None:
    assert said == [animal(lab)] * 4


@check("openai", "refusal")
def _(said: Any, lab: Lab) -> None:
    assert said == ["temperature", "invalid_request_error"]


@check("openai", "completion")
def _(said: Any, lab: Lab) -> None:
    text, tokens, logprobs, prompt_tokens = said
    assert text == BEGINNING + begun(lab, tokens=8)
    scored = lab.score(prompt=BEGINNING).logprobs_frame()
    made = lab.complete(BEGINNING, temperature=0, max_tokens=8).logprobs_frame()
    assert logprobs[0] is None and tokens[1:prompt_tokens] == scored.token.tolist()
    assert tokens[prompt_tokens:] == made.token.tolist()
    assert logprobs[1:] == pytest.approx([*scored.logprob, *made.logprob], abs=1e-4)


@check("openai", "completions_of_several_prompts")
def _(said: Any, lab: Lab) -> None:
    assert said == [[begun(lab), begun(lab, "The cat")], begun(lab)]


@check("openai", "response")
def _(said: Any, lab: Lab) -> None:
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": ANIMAL}]
    result = lab.chat(messages, temperature=0)
    assert said == [result.text, "completed", result.usage.prompt_tokens, result.usage.completion_tokens]


@check("openai", "response_stream")
def _(said: Any, lab: Lab) -> None:
    assert said == [animal(lab), "response.created", "response.completed"]


@check("openai", "response_parse")
def _(said: Any, lab: Lab) -> None:
    assert said == person(lab)


@check("openai", "response_tools")
def _(said: Any, lab: Lab) -> None:
    name, arguments, text = said
    assert (name, arguments) == weather(lab)[:2] and text


# ---- langchain-openai


@check("langchain", "invoke")
def _(said: Any, lab: Lab) -> None:
    assert said == [animal(lab), 2, "stop"]


@check("langchain", "stream")
def _(said: Any, lab: Lab) -> None:
    assert said == animal(lab)


@check("langchain", "batch", "responses")
def _(said: Any, lab: Lab) -> None:
    assert said == [animal(lab)] * 2


@check("langchain", "logprobs")
def _(said: Any, lab: Lab) -> None:
    assert "".join(said) == animal(lab)


@check("langchain", "structured")
def _(said: Any, lab: Lab) -> None:
    assert said == ["Person", "Person"]


@check("langchain", "tools")
def _(said: Any, lab: Lab) -> None:
    name, arguments, text = weather(lab)
    assert said == [name, json.loads(arguments), text]


@check("langchain", "raw_prompt")
def _(said: Any, lab: Lab) -> None:
    assert said == begun(lab)


# ---- litellm


@check("litellm", "completion")
def _(said: Any, lab: Lab) -> None:
    assert said == [animal(lab), "stop", 2]


@check("litellm", "stream", "responses")
def _(said: Any, lab: Lab) -> None:
    assert said == animal(lab)


@check("litellm", "tools")
def _(said: Any, lab: Lab) -> None:
    assert tuple(said) == weather(lab)[:2]


@check("litellm", "text_completion")
def _(said: Any, lab: Lab) -> None:
    assert said == begun(lab)


# ---- instructor, pydantic-ai, openai-agents

check("instructor", "by_tools", "by_json_schema")(is_person)
check("pydantic_ai", "by_tool", "by_schema")(is_person)


@check("pydantic_ai", "text", "responses")
def _(said: Any, lab: Lab) -> None:
    assert said == lab.chat(ANIMAL, temperature=0, max_tokens=60).text


@check("pydantic_ai", "tool")
def _(said: Any, lab: Lab) -> None:
    cities, text, requests = said
    assert cities == ["Oslo"] and text and requests == 2


@check("agents", "chat", "responses")
def _(said: Any, lab: Lab) -> None:
    (streamed, whole), cities = said
    assert streamed == whole and whole and cities == ["Oslo", "Oslo"]


# ---- llmeter


@check("llmeter", "whole", "streamed")
def _(said: Any, lab: Lab) -> None:
    assert said["errors"] == [] and said["tokens"] == [12] * 12
    assert said["texts"] == [lab.chat(STORY, seed=7, max_tokens=12).text] * 12
