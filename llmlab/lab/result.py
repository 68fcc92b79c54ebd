"""A result: what a chat answered, to be read as text, as frames and as pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmlab.backends.protocol import Choice, Completion, ToolCall
from llmlab.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from openai.types import CompletionUsage
    from openai.types.chat import ChatCompletion

    from llmlab.lab.diff import Diff
    from llmlab.lab.lab import Lab
    from llmlab.lab.next_token import NextToken
    from llmlab.request import Request

#: What a terminal and a notebook show of a large result; `texts` and `to_html()` have all of it.
_SHOWN_CHOICES, _SHOWN_CHARACTERS, _SHOWN_TOKENS = 8, 2_000, 1_000


class Result:
    """The answer to one request: immutable, and picklable (a copy from a pickle has no `lab`).

    A notebook shows it as tokens coloured by probability, a terminal as text. `len(result)` is the number of choices.

    Args:
        completion: what the backend answered; every figure below is read from it.
        lab: where it was asked.
        parent: the result that this one was made from, by `rerun` or `branch`.
    """

    __slots__ = ("__dict__", "_completion", "_lab", "_parent")

    _completion: Completion
    _lab: Lab | None
    _parent: Result | None

    def __init__(self, completion: Completion, lab: Lab | None = None, parent: Result | None = None) -> None:
        object.__setattr__(self, "_completion", completion)
        object.__setattr__(self, "_lab", lab)
        object.__setattr__(self, "_parent", parent)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Result is immutable: {name!r} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Result is immutable: {name!r} cannot be deleted")

    def __reduce__(self) -> tuple[Any, ...]:
        return Result, (self._completion, None, self._parent)

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
    def lab(self) -> Lab | None:
        """Where it was asked; None where it was loaded without one."""
        return self._lab

    @property
    def parent(self) -> Result | None:
        """The result that this one was made from, by `rerun` or `branch`; None for a first answer."""
        return self._parent

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
        from llmlab.backends.wire import chat_completion

        return chat_completion(self._completion)

    @property
    def usage(self) -> CompletionUsage | None:
        """Tokens of the prompt, of the answers, and of both."""
        return self.completion.usage

    def logprobs_frame(self) -> pd.DataFrame:
        """One row a generated token, the end token included; see `llmlab.lab.frames.logprobs_frame`."""
        from llmlab.lab.frames import logprobs_frame

        return logprobs_frame(self._completion, names=self._completion.names)

    def top_logprobs_frame(self, *, alternatives: int | None = None) -> pd.DataFrame:
        """One row an alternative, `top_logprobs` of them a token, else five; `llmlab.lab.frames.top_logprobs_frame`."""
        from llmlab.lab.frames import top_logprobs_frame

        return top_logprobs_frame(self._completion, alternatives=alternatives, names=self._completion.names)

    def ledger(self, position: int, *, choice: int = 0) -> NextToken:
        """The exact law of the step that drew the token at a position (negative: from the end), stage by stage.

        The object that `lab.next_token` gives, with what came before counted in: `.stages()`, `.flip_points(token)`,
        `.under(...)`, `.draws(...)`; `.drawn` is the token that was drawn. The model goes the same way again, token by
        token, so that the law is the one of then.

        Raises:
            IndexError: there is no such position or choice.
            RequestError: the result has no lab any more, its endpoint gives no logits, or other weights made it.
        """
        from llmlab.lab.ledger import ledger

        if self._lab is None:
            raise RequestError("this result came from a file and has no lab: llmlab.load the model that made it")
        return ledger(self._completion, self._lab.backend, position=position, choice=choice)

    def plot_logprobs(self, *, choice: int = 0, ax: Axes | None = None) -> Axes:
        """How likely each token of a choice was; see `llmlab.lab.plots.plot_logprobs`."""
        from llmlab.lab import plots

        return plots.plot_logprobs(plots.trace(self._choice(choice), names=self._completion.names), ax=ax)

    def plot_alternatives(self, position: int, *, choice: int = 0, top: int = 10, ax: Axes | None = None) -> Axes:
        """What else could have come at a position (negative: from the end), the `top` best of it."""
        from llmlab.lab import plots

        data = plots.alternatives(self._choice(choice), position, top=top, names=self._completion.names)
        return plots.plot_alternatives(data, ax=ax)

    def rerun(self, *, order: str | None = None, **changes: Any) -> Result:
        """The same request and the same noise under other parameters: a coupled counterfactual, whose `parent` this is.

            r.rerun(temperature=0.3).diff()

        The noise of a token depends on the seed, the choice and the position alone (Gumbel-max), so that what comes out
        otherwise is the changed parameters' doing. Without a change it is this result again; to the bit where the
        batch's width is pinned (`load(slots=...)`). Tokens that were given stay given.

        Args:
            order: of the sampler's stages; by default this result's.
            changes: fields of the request; None sets one back to its default.

        Raises:
            RequestError: a field is unknown or out of range; the result was loaded without a lab.
        """
        from llmlab.lab.compare import rerun

        return rerun(self, order=order, changes=changes)

    def diff(self, other: Result | None = None) -> Diff:
        """Where this result parts from the one it was made from (or from any other), and which parameter parted them.

        Args:
            other: the run before; by default `parent`.

        Raises:
            RequestError: there is no other to compare with.
        """
        from llmlab.lab.diff import Diff

        before = self.parent if other is None else other
        if before is None:
            raise RequestError("this result was made from no other: give the one to compare it with, r.diff(other)")
        return Diff(before, self)

    def to_html(
        self, *, by: Literal["logprob", "sampling_logprob"] = "logprob", alternatives: int | None = None
    ) -> str:
        """The token strip as a page of its own, all tokens of all choices; see `llmlab.lab.html.strip`."""
        from llmlab.lab.html import page

        return page(self._completion, names=self._completion.names, by=by, alternatives=alternatives)

    def save_html(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write `to_html(**options)` to a file, and return its path."""
        path = Path(path)
        path.write_text(self.to_html(**options), encoding="utf-8")
        return path

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything of it to a .parquet file, a row a choice; `Result.load` reads it. Its path."""
        from llmlab.lab.keeping import save

        return save(path, [self._completion], kind="result")

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, lab: Lab | None = None) -> Result:
        """The result that `save` wrote, tied to a lab if one is given.

        Raises:
            FileNotFoundError: there is no such file.
            RequestError: it holds something else.
        """
        from llmlab.lab.keeping import load

        return cls(load(path, kind="result").completions[0], lab)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write `logprobs_frame()` as CSV, its bytes as hexadecimal digits, and return its path."""
        from llmlab.lab.keeping import to_csv

        return to_csv(self.logprobs_frame(), path)

    def _repr_html_(self) -> str:
        from llmlab.lab.html import strip

        return strip(self._completion, names=self._completion.names, limit=_SHOWN_TOKENS)

    def __repr__(self) -> str:
        done, count = self._completion, self._completion.completion_tokens
        head = [f"Result: {done.model}", f"seed {done.seed}", _count(len(self), "choice"), _count(count, "token")]
        if count and done.timing.total > 0:
            head.append(f"{count / done.timing.total:,.0f} tokens/s")
        lines = [" · ".join(head), *(f"note: {note}" for note in done.notes)]
        for choice in self.choices[:_SHOWN_CHOICES]:
            lines.append(f"[{choice.index}] {choice.finish_reason}, {_count(len(choice.tokens), 'token')}")
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
        if not 0 <= choice < len(self.choices):
            raise IndexError(f"choice {choice} is outside the {_count(len(self), 'choice')} of this result")
        return self.choices[choice]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}… ({len(text):,} characters)"
