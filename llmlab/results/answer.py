"""The answer to a request as text, frames and HTML: everything about it that needs no model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from llmlab.protocol.arguments import PlaceError, choice_at, file_path, whole
from llmlab.protocol.completion import Choice, Completion, ToolCall
from llmlab.text import numbers
from llmlab.text.spelling import speed, token_text

if TYPE_CHECKING:
    import pandas as pd
    from openai.types import CompletionUsage
    from openai.types.chat import ChatCompletion

    from llmlab.certainty.measure import Certainty
    from llmlab.metrics import Equivalence, Similarity
    from llmlab.protocol.request import Request

#: How much of a large result a terminal and a notebook show; `texts` and `to_html()` have all of it.
_SHOWN_CHOICES, _SHOWN_CHARACTERS, _SHOWN_TOKENS = 8, 2_000, 1_000
#: Control characters are escaped: a model's text must not move a terminal's cursor or change its colours.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Answer:
    """The answer to one request: its text, its tokens and their probabilities. It is immutable.

    `answer[0]` is the first choice, `len(answer)` the number of choices, and iterating yields them.

    Attributes:
        data: the completion that the backend returned; everything else is read from it.

    Args:
        completion: the completion.
    """

    __slots__ = ("__dict__", "data")

    data: Completion

    def __init__(self, completion: Completion) -> None:
        object.__setattr__(self, "data", completion)

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
    def tokens(self) -> list[str]:
        """The first choice's tokens as texts, as the column `token` of a frame has them; arrays are in `r[0].tokens`.

        A part of a character has U+FFFD for its bytes, and a control token its name.
        """
        if not self.choices:
            return []
        tokens = self.choices[0].tokens
        spelled = zip(tokens.bytes, tokens.ids.tolist(), strict=True)
        return [token_text(raw, token_id=token, names=self.control_tokens) for raw, token in spelled]

    @property
    def reasoning(self) -> str | None:
        """The first choice's reasoning, without its tags; None where there is none."""
        return self.choices[0].reasoning if self.choices else None

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The first choice's tool calls, each with `id`, `name` and `arguments` (JSON text)."""
        return self.choices[0].tool_calls if self.choices else ()

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The choices, each with its text, finish reason and tokens; the tokens hold one array per statistic."""
        return self.data.choices

    @property
    def request(self) -> Request:
        """The request that was answered."""
        return self.data.request

    @property
    def seed(self) -> int:
        """The request's seed, or the one that was drawn for it."""
        return self.data.seed

    @property
    def order(self) -> str:
        """The order of the sampler's stages with which the tokens were drawn, such as "llmlab" or "vllm"."""
        return self.data.order

    @property
    def model(self) -> str:
        """The name of the model that answered."""
        return self.data.model

    @property
    def control_tokens(self) -> Mapping[int, str]:
        """Token id -> name, for the tokens without bytes, such as `<|im_end|>`."""
        return self.data.control_tokens

    @property
    def prompt_ids(self) -> np.ndarray:
        """The prompt's token ids [L]."""
        return self.data.prompt_ids

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings about where an endpoint deviated from the request, such as a field that it ignored."""
        return self.data.notes

    @property
    def finish_reasons(self) -> list[str]:
        """Why each choice ended: stop, length or tool_calls; "interrupted" where the run was interrupted."""
        return [choice.finish_reason for choice in self.choices]

    @cached_property
    def completion(self) -> ChatCompletion:
        """The response as the API would send it, an `openai.types.chat.ChatCompletion`."""
        from llmlab.protocol.wire import chat_completion

        return chat_completion(self.data)

    @property
    def usage(self) -> CompletionUsage | None:
        """The number of tokens in the prompt, in the answers, and in both."""
        return self.completion.usage

    def logprobs_frame(self) -> pd.DataFrame:
        """One row per generated token, the end token included; see `llmlab.frames.tokens.logprobs_frame`.

        Columns: choice, position, segment, token, token_id, bytes, logprob (raw), sampling_logprob (in the distribution
        that was drawn from), rank, entropy, sampling_entropy, margin, kept. Natural logs; entropies in nats.
        """
        from llmlab.frames.tokens import logprobs_frame

        return logprobs_frame(self.data)

    def top_logprobs_frame(self, *, alternatives: int | None = None) -> pd.DataFrame:
        """One row per alternative of each token; see `llmlab.frames.tokens.top_logprobs_frame`.

        Args:
            alternatives: how many per token; by default the request's `top_logprobs`, else five.
        """
        from llmlab.frames.tokens import top_logprobs_frame

        return top_logprobs_frame(self.data, alternatives=alternatives)

    def samples_frame(self) -> pd.DataFrame:
        """One row per choice, with the log-probability of the whole answer; see `llmlab.frames.samples.samples_frame`.

        Columns: choice, text, finish_reason, tokens (the end token included), logprob (raw), sampling_logprob (in the
        distribution that was sampled from), both in nats. The metrics of samples read it, such as
        `metrics.semantic_entropy`.
        """
        from llmlab.frames.samples import samples_frame

        return samples_frame(self.choices)

    def certainty(
        self,
        *,
        equivalence: Equivalence = "exact",
        similarity: Similarity = "rouge_l",
        relevance: Similarity | None = None,
        distinct: bool = True,
    ) -> Certainty:
        """Measures how certain the model is of its answer, from the choices as samples; no model is asked.

            lab.chat("What is 7 + 8?", n=10, seed=7).certainty(equivalence="normalised").frame()

        For several prompts see `llmlab.certainty.measure`, whose arguments these are.
        """
        from llmlab.certainty.measure import measure

        return measure(
            self.data, equivalence=equivalence, similarity=similarity, relevance=relevance, distinct=distinct
        )

    def surprisal_frame(self) -> pd.DataFrame:
        """How surprising each token was to the model: one row per token.

        Columns: choice, position, segment, token, token_id, bytes, surprisal (minus the raw logprob, in nats), bits
        (the same in bits), total_bits (summed over the choice up to this token), expected_bits (the entropy of the raw
        distribution, in bits).

        Source: Shannon 1948; as a measure of reading difficulty Hale 2001, "A probabilistic Earley parser as a
        psycholinguistic model".
        """
        from llmlab.frames.tokens import surprisal_frame

        return surprisal_frame(self.data)

    def draft_frame(self) -> pd.DataFrame:
        """Which tokens were guessed rightly, where the model is loaded with `draft=`; one row per token.

        Columns: choice, position, token, token_id, guesses, guessed, passes; see `llmlab.frames.drafts.draft_frame`.
        """
        from llmlab.frames.drafts import draft_frame

        return draft_frame(self.data)

    @property
    def acceptance_rate(self) -> float:
        """The share of guesses that were right, of all choices; NaN where there was none.

        Raises:
            RequestError: the model is loaded without `draft=`.
        """
        from llmlab.frames.drafts import acceptance_rate

        return acceptance_rate(self.draft_frame())

    @property
    def perplexity(self) -> float:
        """The first choice's perplexity; see `perplexities`."""
        return self.perplexities[0] if self.choices else float("nan")

    @property
    def perplexities(self) -> list[float]:
        """Every choice's perplexity: exp of minus its mean raw logprob, the end token included; NaN where unknown.

        Endpoints other than llmlab's own list no end token. A note says so, because their perplexities cannot be
        compared with those of a local model.
        """
        from llmlab.metrics import perplexity

        frame = self.logprobs_frame()
        return [perplexity(frame[frame["choice"] == choice.index]) for choice in self.choices]

    def to_html(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        by: Literal["logprob", "sampling_logprob"] = "logprob",
        alternatives: int | None = None,
    ) -> str:
        """Returns an HTML page of all tokens, coloured by probability; see `llmlab.display.strip.strip`.

        Args:
            path: a file to write the page to as well.
            by: the logprob that gives a token its colour.
            alternatives: how many alternatives a token shows; by default as in `top_logprobs_frame`.

        Raises:
            RequestError: an argument is of the wrong type, or out of range.
        """
        from llmlab.display.strip import page

        target = None if path is None else file_path(path)
        html = page(self.data, by=by, alternatives=alternatives)
        if target is not None:
            target.write_text(html, encoding="utf-8")
        return html

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Writes `logprobs_frame()` to a CSV file, bytes as hexadecimal digits; returns its path.

        Read it so, because a token may be the text NA, null or 007, which pandas would convert otherwise:

            pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"token": str, "bytes": str})
        """
        from llmlab.frames.tokens import to_csv

        return to_csv(self.logprobs_frame(), path)

    def to_latex(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        columns: Sequence[str] = ("position", "token", "logprob", "sampling_logprob", "rank", "entropy"),
        digits: int = 3,
    ) -> str:
        """Returns `logprobs_frame()` as a LaTeX table that can be typeset; see `llmlab.frames.latex.to_latex`.

        Args:
            path: a file to write the table to as well.
            columns: the columns to show.
            digits: the number of digits after the decimal point.

        Raises:
            RequestError: there is no such column, or an argument is of the wrong type.
        """
        from llmlab.frames.latex import to_latex

        return to_latex(self.logprobs_frame(), path, columns=columns, digits=digits)

    def _repr_html_(self) -> str:
        from llmlab.display.strip import strip

        return strip(self.data, limit=_SHOWN_TOKENS)

    def __repr__(self) -> str:
        done, count = self.data, self.data.completion_tokens
        head = [f"Result: {done.model}", f"seed {done.seed}", numbers.count(len(self), "choice")]
        if count or all(choice.is_listed for choice in self.choices):
            head.append(numbers.count(count, "token"))
        if count and done.timing.total > 0:
            head.append(speed(count, done.timing.total))
        lines = [" · ".join(head), *(f"note: {note}" for note in done.notes)]
        for choice in self.choices[:_SHOWN_CHOICES]:
            size = (
                numbers.count(len(choice.tokens), "token")
                if choice.is_listed
                else "tokens not available from this endpoint"
            )
            lines.append(f"[{choice.index}] {choice.finish_reason}, {size}")
            if choice.reasoning and choice.reasoning not in choice.text:
                lines.append(f"(reasoning) {_shortened(choice.reasoning.strip())}")
            if choice.text or not choice.tool_calls:
                lines.append(_shortened(choice.text))
            lines += [f"→ {call.name}({_shortened(call.arguments)})" for call in choice.tool_calls]
        if len(self) > _SHOWN_CHOICES:
            lines.append(f"… and {numbers.count(len(self) - _SHOWN_CHOICES, 'more choice')}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text

    def __len__(self) -> int:
        return len(self.choices)

    def __iter__(self) -> Iterator[Choice]:
        return iter(self.choices)

    def __getitem__(self, index: int) -> Choice:
        """The choice at an index; a negative index counts from the end.

        Raises:
            IndexError: there is no such choice.
        """
        count = len(self.choices)
        at = whole("index", index)
        if not -count <= at < count:
            raise PlaceError(
                f"index {at} is outside the {numbers.count(count, 'choice')} of this result", param="index"
            )
        return self.choices[at]

    def _choice(self, choice: int) -> Choice:
        return self.choices[choice_at(choice, among=self.choices)]


def _shortened(text: str) -> str:
    text = text.translate(_CONTROLS)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}… ({len(text):,} characters)"
