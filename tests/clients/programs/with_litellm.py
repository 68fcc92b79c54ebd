"""`litellm`: its one function for all providers, over the chat, completions and responses paths."""

from __future__ import annotations

import litellm
from cases import ANIMAL, BEGINNING, MODEL, TOOL, WEATHER, case, report, url

SETTINGS = {"model": f"openai/{MODEL}", "api_base": url(), "api_key": "none", "temperature": 0}


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@case
def completion():
    answer = litellm.completion(messages=asked(ANIMAL), **SETTINGS)
    return [answer.choices[0].message.content, answer.choices[0].finish_reason, answer.usage.completion_tokens]


@case
def stream():
    chunks = litellm.completion(messages=asked(ANIMAL), stream=True, **SETTINGS)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@case
def tools():
    answer = litellm.completion(messages=asked(WEATHER), tools=[TOOL], **SETTINGS)
    [call] = answer.choices[0].message.tool_calls
    return [call.function.name, call.function.arguments]


@case
def text_completion():
    settings = {**SETTINGS, "model": f"text-completion-openai/{MODEL}"}
    return litellm.text_completion(prompt=BEGINNING, max_tokens=5, **settings).choices[0].text


@case
def responses():
    answer = litellm.responses(input=ANIMAL, store=False, **SETTINGS)
    return "".join(part.text for item in answer.output if item.type == "message" for part in item.content)


report()
