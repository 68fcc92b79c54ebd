"""The three ways to ask: `lab.chat`, `lab.stream`, and the `openai` client against `llmlab serve`.

Each gives the same thing, an `openai.types.chat.ChatCompletion`, so that what a field does is written down once.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionTokenLogprob
from openai.types.chat.chat_completion import Choice

from llmlab.errors import LLMLabError
from llmlab.lab.lab import Lab
from llmlab.sampling.params import SamplingParams
from tests.backends.client import accumulated
from tests.sampling.oracle import Case, Law, law

NAMES = ("chat", "stream", "http")
LISTS = ("content", "reasoning", "tool_calls", "end")
#: What the client takes as arguments; all else goes into `extra_body`.
KNOWN = set(inspect.signature(openai.resources.chat.Completions.create).parameters)


class Refusal(NamedTuple):
    """An error as the asker sees it."""

    status: int
    param: str | None
    code: str | None
    message: str


class Way:
    """One way to ask; `lab` is the model that answers in all of them, for what an answer is held against."""

    def __init__(self, name: str, lab: Lab, client: openai.OpenAI) -> None:
        self.name = name
        self.lab = lab
        self._client = client

    def ask(self, messages: Any = "Name an animal.", **fields: Any) -> ChatCompletion:
        """The whole answer."""
        if self.name == "chat":
            return self.lab.chat(messages, **fields).completion
        if self.name == "stream":
            request = self.lab.request(messages, **fields, stream=True)
            return accumulated(self.lab.stream(request), request)
        return self._post(messages, fields)

    def chunks(self, messages: Any = "Name an animal.", **fields: Any) -> list[ChatCompletionChunk]:
        """The chunks of a streamed answer; by `lab.chat` there are none, and asking is an error."""
        if self.name == "chat":
            self.lab.chat(messages, stream=True, **fields)
        if self.name == "stream":
            return list(self.lab.stream(messages, **fields))
        return list(self._post(messages, {**fields, "stream": True}))

    def refusal(self, messages: Any = "Name an animal.", **fields: Any) -> Refusal:
        """How a request is refused; fails where it is not."""
        try:
            self.ask(messages, **fields)
        except LLMLabError as error:
            return Refusal(error.status, error.param, error.code, error.message)
        except openai.APIStatusError as error:
            assert error.body.keys() == {"message", "type", "param", "code"}
            return Refusal(error.status_code, error.param, error.code, error.body["message"])
        raise AssertionError(f"{self.name}: {fields} was accepted")

    def _post(self, messages: Any, fields: Mapping[str, Any]) -> Any:
        known = {name: value for name, value in fields.items() if name in KNOWN}
        extra = {name: value for name, value in fields.items() if name not in KNOWN}
        chat = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        arguments = {"model": self.lab.backend.name, "messages": chat, **known, "extra_body": extra}
        return self._client.chat.completions.create(**arguments)

    def laws(self, answer: ChatCompletion, messages: Any, **fields: Any) -> Iterator[tuple[Any, Law, np.ndarray]]:
        """For each token of an answer's content: its entry, the law that an independent sampler says it was drawn
        from, and the raw logits [V] of that position. For answers without reasoning and calls, asked with `logprobs`.
        """
        request = self.lab.request(messages, **fields)
        prompt = tuple(self.lab.backend.render(request).tolist())
        ends = tuple(self.lab.backend.end_ids)
        params = self.lab.backend.sampling_params(request, seed=answer.seed)
        for choice in answer.choices:
            entries = choice.logprobs.content
            made = tuple(entry.token_id for entry in entries)
            for t, entry in enumerate(entries):
                logits = _logits(self.lab, prompt + made[:t])
                yield entry, law(_case(logits, params, prompt, made[:t], ends)), logits


def _case(
    logits: np.ndarray, params: SamplingParams, prompt: tuple[int, ...], made: tuple[int, ...], ends: tuple[int, ...]
) -> Case:
    in_prompt, counts = np.zeros(len(logits), bool), np.zeros(len(logits), np.int64)
    in_prompt[list(prompt)] = True
    np.add.at(counts, np.array(made, int), 1)
    return Case(logits, params, in_prompt, counts, position=len(made), ends=ends)


@cache
def _logits(lab: Lab, ids: tuple[int, ...]) -> np.ndarray:
    return lab.backend.next_logits(np.array(ids, np.int32))


def assert_laws(way: Way, messages: Any, **fields: Any) -> ChatCompletion:
    """Ask, and hold every probability that comes back against the independent sampler's; the answer."""
    answer = way.ask(messages, **fields, logprobs=True, top_logprobs=20)
    for entry, truth, _ in way.laws(answer, messages, **fields):
        with np.errstate(divide="ignore"):
            expected = np.log(truth.probs)
        if truth.close:
            continue
        assert entry.kept == truth.kept.sum()
        assert truth.kept[entry.token_id], "a token that could not be drawn"
        for other in (entry, *entry.top_logprobs):
            want = expected[other.token_id]
            if want == -np.inf:
                assert other.sampling_logprob == -9999.0
            elif want > -20:
                assert abs(other.sampling_logprob - want) < 5e-3, (other.token, other.sampling_logprob, want)
    return answer


def ids(answer: ChatCompletion, choice: int = 0) -> list[int]:
    """The token ids of a choice's content."""
    return [entry.token_id for entry in answer.choices[choice].logprobs.content]


def entries(choice: Choice, kind: str) -> list[ChatCompletionTokenLogprob]:
    """One of the lists of a choice's logprobs; the client's types know the first, and keep the others as they came."""
    listed = getattr(choice.logprobs, kind)
    return [e if kind == "content" else ChatCompletionTokenLogprob.model_validate(e) for e in listed]


def said(answer: ChatCompletion) -> str | None:
    """The content of the first choice."""
    return answer.choices[0].message.content


def calls(answer: ChatCompletion) -> list[tuple[str, Any]]:
    """The calls of the first choice: name, arguments."""
    made = answer.choices[0].message.tool_calls or []
    return [(call.function.name, json.loads(call.function.arguments)) for call in made]
