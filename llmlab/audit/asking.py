"""Questions to an endpoint as the API's own JSON, counted against a budget; answers as they came, nothing repaired.

A lab over an endpoint elsewhere repairs what it can: it asks again for missing choices, sorts alternatives, and leaves
out refused fields. An audit must see all of that, and so sends bodies itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from llmlab.errors import LLMLabError, RequestError

#: Sends the body of a chat completion, and returns the JSON object that answers it; raises RequestError for a refusal.
Ask: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]
#: What a token is known by: its bytes, or its text where no bytes were sent.
Key: TypeAlias = bytes | str
#: A user's message, or the messages of a conversation.
Prompt: TypeAlias = str | Sequence[Mapping[str, str]]

#: Fields that turn every stage of the sampler off, which an endpoint's own defaults may not.
NEUTRAL: Mapping[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
#: Those that the OpenAI API lacks. An endpoint that refuses one is not sent it again.
_EXTENSIONS = ("top_k", "min_p", "repetition_penalty")


class BudgetError(Exception):
    """The next question would cost more than is left."""


@dataclass(frozen=True)
class Listed:
    """A token of `logprobs`, or one of its alternatives."""

    key: Key
    text: str
    logprob: float
    token_id: int | None = None


@dataclass(frozen=True)
class Drawn(Listed):
    """A generated token, with the alternatives in the order in which they were sent."""

    top: tuple[Listed, ...] = ()


@dataclass(frozen=True)
class Answer:
    """One choice of an answer."""

    index: int
    text: str
    tokens: tuple[Drawn, ...]
    finish_reason: str | None
    end_listed: bool = False  #: whether the end token was listed apart from the text's tokens
    counted: int | None = None  #: its tokens as the endpoint counts them, where the request has no other choice
    prompt: tuple[Drawn, ...] = ()  #: the prompt's tokens after the first, where the endpoint lists them
    prompt_tokens: int | None = None  #: how many the prompt has, as the endpoint says

    @property
    def keys(self) -> tuple[Key, ...]:
        """The tokens, for comparison with another answer; the text where no tokens were listed."""
        return tuple(token.key for token in self.tokens) if self.tokens else (self.text,)


@dataclass
class Asker:
    """Asks, and counts what it costs.

    Args:
        send: sends a body.
        model: the model's name in every body.
        max_requests: the most requests.
        max_tokens: the most generated tokens; a question is counted as n * max_tokens before it is sent.
        parallel: the most questions at once.
        seed: where given, each request that has no seed of its own gets one that follows from it.
    """

    send: Ask
    model: str
    max_requests: int
    max_tokens: int
    parallel: int = 8
    seed: int | None = None
    requests: int = 0
    tokens: int = 0
    refused: dict[str, str] = field(default_factory=dict)  #: field -> what the endpoint said
    #: (tokens listed, tokens that the endpoint counts, choices) of each answer that lists tokens.
    usage: list[tuple[int, int, int]] = field(default_factory=list)

    def __call__(self, prompt: Prompt, **fields: Any) -> list[Answer]:
        """Returns the choices of one answer, in the order in which they were sent."""
        return self.each([(prompt, fields)])[0]

    def each(
        self, questions: Sequence[tuple[Prompt, Mapping[str, Any]]], *, together: bool = True
    ) -> list[list[Answer]]:
        """Asks several questions, at the same time unless `together` is false.

        Raises:
            BudgetError: they would cost more than is left; none is sent then.
            RequestError: the endpoint refuses a field that the question itself has.
        """
        bodies = [self._body(prompt, fields) for prompt, fields in questions]
        cost = sum(body.get("n", 1) * body["max_tokens"] for body in bodies)
        if self.requests + len(bodies) > self.max_requests or self.tokens + cost > self.max_tokens:
            raise BudgetError
        if not together or len(bodies) == 1 or self.parallel == 1:
            return [self._one(*pair) for pair in zip(bodies, questions, strict=True)]
        with ThreadPoolExecutor(min(self.parallel, len(bodies))) as pool:
            return list(pool.map(self._one, bodies, questions))

    def _body(self, prompt: Prompt, fields: Mapping[str, Any]) -> dict[str, Any]:
        neutral = {name: value for name, value in NEUTRAL.items() if name not in self.refused}
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(one) for one in prompt]
        body = {"model": self.model, "messages": messages, **neutral, **fields}
        body.setdefault("max_tokens", 1)
        if self.seed is not None and "seed" not in body:
            self.seed += 1
            body["seed"] = self.seed
        return body

    def _one(self, body: dict[str, Any], question: tuple[Prompt, Mapping[str, Any]]) -> list[Answer]:
        while True:
            self.requests += 1
            try:
                found = self.send(body)
                break
            except LLMLabError as error:
                blamed = _blamed(error, body, question[1])
                if blamed is None:
                    raise
                self.refused[blamed] = error.message
                body = {name: value for name, value in body.items() if name != blamed}
        answers = read(found)
        listed = sum(len(answer.tokens) for answer in answers)
        counted = (found.get("usage") or {}).get("completion_tokens")
        self.tokens += max(listed, counted or 0)
        if listed and counted is not None:
            ends = sum(answer.end_listed for answer in answers)
            self.usage.append((listed + ends, counted, len(answers) - ends))
        return answers


def _blamed(error: LLMLabError, body: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """The added extension that a refusal is about, if it is about one."""
    if not isinstance(error, RequestError):
        return None
    added = [name for name in _EXTENSIONS if name in body and name not in asked]
    named = [name for name in added if name == error.param or name in error.message]
    return named[0] if named else None


def read(body: Mapping[str, Any]) -> list[Answer]:
    """The choices of an answer's JSON."""
    found = []
    choices, usage = body.get("choices") or (), body.get("usage") or {}
    prompt = tuple(_forced(entry) for entry in body.get("prompt_logprobs") or () if entry)
    for at, choice in enumerate(choices):
        message, logprobs = choice.get("message") or {}, choice.get("logprobs") or {}
        index = choice.get("index")
        found.append(
            Answer(
                index=at if index is None else int(index),
                text=message.get("content") or "",
                tokens=tuple(_drawn(entry) for entry in logprobs.get("content") or ()),
                finish_reason=choice.get("finish_reason"),
                end_listed=bool(logprobs.get("end")),
                counted=usage.get("completion_tokens") if len(choices) == 1 else None,
                prompt=prompt,
                prompt_tokens=usage.get("prompt_tokens"),
            )
        )
    return found


def _drawn(entry: Mapping[str, Any]) -> Drawn:
    one = _listed(entry)
    top = tuple(_listed(each) for each in entry.get("top_logprobs") or ())
    return Drawn(one.key, one.text, one.logprob, one.token_id, top)


def _forced(entry: Mapping[str, Mapping[str, Any]]) -> Drawn:
    """A token of a prompt: the first of an entry's, token id -> what is known of it, then the alternatives."""
    one, *others = every = [
        Listed(number, str(said.get("decoded_token", "")), _logprob(said), int(number))
        for number, said in entry.items()
    ]
    # The prompt's own token may be far less likely than the likeliest ones, of which no list leaves one out.
    least = all(one.logprob < other.logprob for other in others)
    return Drawn(one.key, one.text, one.logprob, one.token_id, tuple(others if least else every))


def _logprob(entry: Mapping[str, Any]) -> float:
    found = entry.get("logprob")
    return float("-inf") if found is None or found <= -999 else float(found)


def _listed(entry: Mapping[str, Any]) -> Listed:
    text, raw = str(entry.get("token", "")), entry.get("bytes")
    number = entry.get("token_id", entry.get("id"))
    if number is None and text.startswith("token_id:") and text[9:].isdigit():  # vLLM, with return_tokens_as_token_ids
        number = int(text[9:])
    return Listed(text if raw is None else bytes(raw), text, _logprob(entry), number)
