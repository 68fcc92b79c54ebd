"""The request of `/v1/completions`: one or several raw prompts, and how they are continued.

It becomes one `PromptRequest` per prompt, which checks all fields that the two have in common. The others are here:
`prompt`, `max_tokens`, `logprobs`, `echo`, `best_of` and `suffix` are spelled as the API's oldest path spells them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel

from llmlab.errors import RequestError, short
from llmlab.protocol.checks import FieldError, check_prompt, check_text
from llmlab.protocol.fields import Fieldspec, SharedFields
from llmlab.protocol.own_fields import OwnFields, with_fields_of
from llmlab.protocol.request import PromptRequest
from llmlab.protocol.schemas import PROMPT

__all__ = ["CompletionsFields", "CompletionsRequest"]

#: The most answers of a request: prompts times best_of.
MOST_ANSWERS = 2048

#: The tokens of an answer where the request does not say, as in the API.
MAX_TOKENS = 16

#: Fields of a `PromptRequest` that have another name or another meaning on this path.
_ELSEWHERE = {
    "top_logprobs": "logprobs, which is here the number of alternatives",
    "max_completion_tokens": "max_tokens",
    "kept_logprobs": "not offered: its logprobs have no ids of tokens",
}


def check_prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """One prompt (a text, or token ids), or a list of them; as a tuple of prompts."""
    if not isinstance(value, list | tuple) or not value or not isinstance(value[0], str | list | tuple):
        return (check_prompt(value),)
    if len(value) > MOST_ANSWERS:
        raise FieldError(f"holds {len(value)} prompts; at most {MOST_ANSWERS} at a time")
    return tuple(_at(index, prompt) for index, prompt in enumerate(value))


def _at(index: int, prompt: Any) -> str | tuple[int, ...]:
    try:
        return check_prompt(prompt)
    except FieldError as bad:
        raise FieldError(str(bad), path=f"[{index}]{bad.path}") from None


def check_suffix(value: Any) -> None:
    """An empty text, which is no suffix; the models that are loaded here cannot fill in a middle."""
    if check_text(value):
        raise FieldError(f"is not supported: only what follows a prompt is generated, got {short(value)}")


class _OwnFields(OwnFields):
    """The fields that this path alone has, or that mean something else elsewhere."""

    prompt: Annotated[
        Any,
        Fieldspec(
            "value", "What is to be continued, without a chat template; several prompts get `n` answers each.",
            values="a text, token ids, or a list of either", check=check_prompts, required=True, effect="prompt",
            schema={"anyOf": [*PROMPT["anyOf"], {"type": "array", "minItems": 1, "items": PROMPT}]},
        ),
    ]  # fmt: skip
    suffix: Annotated[
        str | None,
        Fieldspec(
            "value", "Refused, unless it is empty: only what follows a prompt is generated.", values="an empty text",
            check=check_suffix, schema={"type": "string", "maxLength": 0}, effect="prompt",
        ),
    ] = None  # fmt: skip
    max_tokens: Annotated[
        int, Fieldspec("integer", "The most tokens to generate for an answer; 0 generates nothing.", low=0)
    ] = MAX_TOKENS
    best_of: Annotated[
        int | None,
        Fieldspec(
            "integer", "How many answers to generate for a prompt; the `n` with the highest mean logprob are returned.",
            low=1, high=128,
        ),
    ] = None  # fmt: skip
    echo: Annotated[bool, Fieldspec("flag", "Whether an answer begins with its prompt, with its logprobs too.")] = False
    logprobs: Annotated[
        int | None,
        Fieldspec(
            "integer", "Whether to return the logprob of each token, and how many of the likeliest beside it.",
            low=0, high=20,
        ),
    ] = None  # fmt: skip


#: All fields of the request, for their JSON schema.
CompletionsFields: type[BaseModel] = with_fields_of(
    _OwnFields, SharedFields, name="CompletionsRequest", without=frozenset(_ELSEWHERE)
)


@dataclass(frozen=True)
class CompletionsRequest:
    """A validated request to continue raw prompts, immutable.

    Attributes:
        prompts: one request per prompt, each of which makes `best_of` answers.
        answers: how many answers to each prompt are returned: the field `n`.
        max_tokens: the most tokens of an answer; where it is 0, the prompts' requests make no sense of their own.
        logprobs: the number of alternatives of each token; None for no logprobs.
        echo: whether an answer begins with its prompt.
        prompt_logprobs: the number of alternatives of each of the prompt's tokens; None where the field is not given.
    """

    prompts: tuple[PromptRequest, ...]
    answers: int
    max_tokens: int
    logprobs: int | None
    echo: bool
    prompt_logprobs: int | None

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> CompletionsRequest:
        """Returns the request with these fields; None stands for a field's default, as in the API.

        Raises:
            RequestError: a field is wrong or unknown; the error names it.
        """
        own, given = _OwnFields.take(fields)
        if fields.get("prompt") is None:
            raise RequestError("prompt is missing: give a text or token ids, or a list of them", param="prompt")
        for name, other in _ELSEWHERE.items():
            if given.pop(name, None) is not None:
                raise RequestError(f"{name} belongs to a chat; on this path it is {other}", param=name)
        max_tokens, logprobs, echo = own["max_tokens"], own["logprobs"], own["echo"]
        silent = given.get("prompt_logprobs") is None
        if echo and logprobs is not None and silent:
            given["prompt_logprobs"] = logprobs  # an echo has the same statistics
        if logprobs is not None:
            given |= {"logprobs": True, "top_logprobs": logprobs}
        first = PromptRequest(prompt=own["prompt"][0], max_tokens=max(max_tokens, 1), **given)
        if first.min_tokens > max_tokens:
            raise RequestError(
                f"min_tokens must not exceed max_tokens ({max_tokens}), got {first.min_tokens}", param="min_tokens"
            )
        best_of = own["best_of"] or first.n
        if best_of < first.n:
            raise RequestError(f"best_of must not be below n ({first.n}), got {best_of}", param="best_of")
        if best_of > first.n and first.stream:
            raise RequestError("best_of above n cannot be streamed: the best are known at the end", param="best_of")
        if len(own["prompt"]) * best_of > MOST_ANSWERS:
            raise RequestError(
                f"{len(own['prompt'])} prompts with {best_of} answers each are too many; at most {MOST_ANSWERS} "
                "answers at a time",
                param="prompt",
            )
        prompts = tuple(first.replace(prompt=prompt, n=best_of) for prompt in own["prompt"])
        return cls(prompts, first.n, max_tokens, logprobs, echo, None if silent else first.prompt_logprobs)

    @property
    def best_of(self) -> int:
        """How many answers to each prompt are made."""
        return self.prompts[0].n

    @property
    def n(self) -> int:
        """How many answers are made to all prompts together."""
        return len(self.prompts) * self.best_of

    @property
    def stream(self) -> bool:
        """Whether the answers are returned in chunks."""
        return self.prompts[0].stream

    @property
    def stream_options(self) -> dict[str, bool] | None:
        """The options of the stream."""
        return self.prompts[0].stream_options
