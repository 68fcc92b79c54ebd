"""What a chat answered, to be read as text, as frames and as a strip of tokens: no lab is needed for any of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmlab.protocol.arguments import choice_at, file_path
from llmlab.protocol.completion import Choice, Completion, ToolCall
from llmlab.text.spelling import speed

if TYPE_CHECKING:
    import pandas as pd
    from openai.types import CompletionUsage
    from openai.types.chat import ChatCompletion

    from llmlab.protocol.request import Request

#: What a terminal and a notebook show of a large result; `texts` and `to_html()` have all of it.
_SHOWN_CHOICES, _SHOWN_CHARACTERS, _SHOWN_TOKENS = 8, 2_000, 1_000
#: What a model wrote must not move a terminal's cursor or change its colours: control characters are spelled out.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Answer:
    """The answer to one request, immutable. `len(answer)` is the number of choices.

    Args:
        completion: what the backend answered; every figure below is read from it.
    """

    __slots__ = ("__dict__", "_completion")

    _completion: Completion

    def __init__(self, completion: Completion) -> None:
        object.__setattr__(self, "_completion", completion)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a {type(self).__name__} is immutable: {name!r} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {type(self).__name__} is immutable: {name!r} cannot be deleted")

    @property
    def text(self) -> str:
        """The first choice's content."""
        return self.choices[0].text if self.choices else ""

    @property
    def texts(self) -> list[str]:
        """Every choice's content."""
        return [choice.text for choice in self.choices]

    @property
    def reasoning(self) -> str | None:
        """What the first choice thought before it answered, without the tags; None where it did not."""
        return self.choices[0].reasoning if self.choices else None

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The first choice's calls of tools, each with its `id`, `name` and `arguments` (JSON text)."""
        return self.choices[0].tool_calls if self.choices else ()

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The choices as the backend answered them, with every figure of every token."""
        return self._completion.choices

    @property
    def request(self) -> Request:
        """The request that was answered."""
        return self._completion.request

    @property
    def seed(self) -> int:
        """The request's seed, or the one that was drawn for it."""
        return self._completion.seed

    @property
    def order(self) -> str:
        """The order of the sampler's stages that the tokens were drawn in."""
        return self._completion.order

    @property
    def model(self) -> str:
        """The model that answered."""
        return self._completion.model

    @property
    def names(self) -> Mapping[int, str]:
        """What tokens without bytes are called, such as `<|im_end|>`, by id."""
        return self._completion.names

    @property
    def prompt_ids(self) -> np.ndarray:
        """The prompt's token ids [L]."""
        return self._completion.prompt_ids

    @property
    def notes(self) -> tuple[str, ...]:
        """What an endpoint was seen to do otherwise than asked, such as a field ignored or choices not sent."""
        return self._completion.notes

    @property
    def finish_reasons(self) -> list[str]:
        """Why each choice ended: stop, length, tool_calls; interrupted where it was stopped by hand."""
        return [choice.finish_reason for choice in self.choices]

    @cached_property
    def completion(self) -> ChatCompletion:
        """The response as the API would send it."""
        from llmlab.protocol.wire import chat_completion

        return chat_completion(self._completion)

    @property
    def usage(self) -> CompletionUsage | None:
        """Tokens of the prompt, of the answers, and of both."""
        return self.completion.usage

    def logprobs_frame(self) -> pd.DataFrame:
        """One row a generated token, the end token included; see `llmlab.frames.tokens.logprobs_frame`."""
        from llmlab.frames.tokens import logprobs_frame

        return logprobs_frame(self._completion, names=self._completion.names)

    def top_logprobs_frame(self, *, alternatives: int | None = None) -> pd.DataFrame:
        """One row per alternative, `top_logprobs` per token or else five; see `llmlab.frames.tokens`."""
        from llmlab.frames.tokens import top_logprobs_frame

        return top_logprobs_frame(self._completion, alternatives=alternatives, names=self._completion.names)

    def surprisal_frame(self) -> pd.DataFrame:
        """How surprising each token was to the model: one row a token.

        Columns: choice, position, segment, token, token_id, bytes, surprisal (minus the raw logprob, in nats), bits
        (the same in bits), total_bits (of its choice so far), expected_bits (the raw law's entropy).

        Source: Shannon 1948; as a measure of reading difficulty Hale 2001, "A probabilistic Earley parser as a
        psycholinguistic model".
        """
        from llmlab.frames.tokens import surprisal_frame

        return surprisal_frame(self._completion)

    @property
    def perplexity(self) -> float:
        """The first choice's; see `perplexities`."""
        return self.perplexities[0] if self.choices else float("nan")

    @property
    def perplexities(self) -> list[float]:
        """Every choice's exp of minus its mean raw logprob, the end token included; NaN where that is not known.

        An endpoint lists no end token: its perplexities are over the others, and not to be compared with a local one's.
        """
        from llmlab.metrics import perplexity

        frame = self.logprobs_frame()
        return [perplexity(frame[frame["choice"] == choice.index]) for choice in self.choices]

    def to_html(
        self, *, by: Literal["logprob", "sampling_logprob"] = "logprob", alternatives: int | None = None
    ) -> str:
        """The token strip as a page of its own, all tokens of all choices; see `llmlab.display.strip.strip`."""
        from llmlab.display.strip import page

        return page(self._completion, names=self._completion.names, by=by, alternatives=alternatives)

    def save_html(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write `to_html(**options)` to a file, and return its path."""
        path = file_path(path)
        path.write_text(self.to_html(**options), encoding="utf-8")
        return path

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write `logprobs_frame()` as CSV, its bytes as hexadecimal digits, and return its path.

        A token may spell NA, null or 007, which pandas takes for something else unless it is told:

            pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"token": str, "bytes": str})
        """
        from llmlab.frames.tokens import to_csv

        return to_csv(self.logprobs_frame(), path)

    def _repr_html_(self) -> str:
        from llmlab.display.strip import strip

        return strip(self._completion, names=self._completion.names, limit=_SHOWN_TOKENS)

    def __repr__(self) -> str:
        done, count = self._completion, self._completion.completion_tokens
        head = [f"Result: {done.model}", f"seed {done.seed}", _count(len(self), "choice")]
        if count or all(choice.is_listed for choice in self.choices):
            head.append(_count(count, "token"))
        if count and done.timing.total > 0:
            head.append(speed(count, done.timing.total))
        lines = [" · ".join(head), *(f"note: {note}" for note in done.notes)]
        for choice in self.choices[:_SHOWN_CHOICES]:
            size = _count(len(choice.tokens), "token") if choice.is_listed else "its tokens not said"
            lines.append(f"[{choice.index}] {choice.finish_reason}, {size}")
            if choice.reasoning and choice.reasoning not in choice.text:
                lines.append(f"(reasoning) {_shortened(choice.reasoning.strip())}")
            if choice.text or not choice.tool_calls:
                lines.append(_shortened(choice.text))
            lines += [f"→ {call.name}({_shortened(call.arguments)})" for call in choice.tool_calls]
        if len(self) > _SHOWN_CHOICES:
            lines.append(f"… and {_count(len(self) - _SHOWN_CHOICES, 'more choice')}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text

    def __len__(self) -> int:
        return len(self.choices)

    def _choice(self, choice: int) -> Choice:
        return self.choices[choice_at(choice, among=self.choices)]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _shortened(text: str) -> str:
    text = text.translate(_CONTROLS)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}… ({len(text):,} characters)"
