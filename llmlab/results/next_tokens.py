"""The next-token distributions at all positions of an answer, from one pass of the model over its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from jaxtyping import Bool, Float32, Float64

from llmlab.distributions.probabilities import log_softmax
from llmlab.errors import RequestError
from llmlab.protocol.arguments import OrderLike, most, place
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.completion import Choice, Completion
from llmlab.protocol.signatures import SAMPLING_FIELDS, shows_fields
from llmlab.results.next_token import NextToken
from llmlab.results.next_token_at import SAME, choice_of, model_of, other_weights
from llmlab.results.next_token_grid import MOST_ROWS
from llmlab.sampling.trail import Negative, Trail
from llmlab.text.token_names import TokenNames

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NextTokens", "kept_frame_of", "next_tokens", "read_tokens"]


class NextTokens(Sequence[NextToken]):
    """The T distributions from which the tokens of one choice were drawn; `result.next_tokens()` returns them.

    `next_tokens[i]` is the distribution at position i, and iterating yields all of them.

    Args:
        logits: the model's, float32 [T, V], before every stage of the sampler.
        steps: the distributions themselves.
    """

    def __init__(self, logits: Float32[np.ndarray, "T V"], steps: Sequence[NextToken]) -> None:
        self.logits = logits
        self._steps = tuple(steps)

    @overload
    def __getitem__(self, index: int) -> NextToken: ...

    @overload
    def __getitem__(self, index: slice) -> NextTokens: ...

    def __getitem__(self, index: int | slice) -> NextToken | NextTokens:
        """The distribution at a position; a negative one counts from the end. A slice returns several.

        Raises:
            IndexError: there is no such position.
        """
        if isinstance(index, slice):
            return NextTokens(self.logits[index], self._steps[index])
        choice = self._steps[0].choice if self._steps else 0
        return self._steps[place(index, among=self._steps, choice=choice)]

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[NextToken]:
        return iter(self._steps)

    @cached_property
    def logprobs(self) -> Float64[np.ndarray, "T V"]:
        """Log-probabilities of the raw distributions, in nats."""
        return log_softmax(self.logits)

    @cached_property
    def entropies(self) -> Float64[np.ndarray, " T"]:
        """Entropies of the raw distributions, in nats."""
        return np.array([step.entropy for step in self._steps], np.float64)

    @shows_fields(only=SAMPLING_FIELDS, unchanged=True)
    def frame(self, *, top: int | None = 5, order: str | None = None, **fields: Any) -> pd.DataFrame:
        """One row per position and token: the `top` most likely tokens of each raw distribution (None: all V).

        Columns: position, then those of `NextToken.frame`.

        Raises:
            RequestError: a field is unknown or out of range, or the frame would have more than 5,000,000 rows.
        """
        from llmlab.frames.distribution import NEXT_TOKEN_COLUMNS
        from llmlab.frames.schema import build

        T, V = self.logits.shape
        count = min(most(top) or V, V)
        if T * count > MOST_ROWS:
            raise RequestError(f"{T:,} positions of {count:,} tokens: ask for fewer with top=", param="top")
        kinds = {"position": "index", **NEXT_TOKEN_COLUMNS}
        columns: dict[str, list[Any]] = {name: [] for name in kinds}
        for step in self._steps:
            frame = step.frame(top=count, order=order, **fields)
            columns["position"] += [len(step.made)] * count
            for name in NEXT_TOKEN_COLUMNS:
                columns[name] += frame[name].tolist()
        return build(columns, kinds)

    @shows_fields(only=SAMPLING_FIELDS, unchanged=True)
    def kept(self, *, order: OrderLike | None = None, **fields: Any) -> Bool[np.ndarray, "T V"]:
        """Which tokens could be drawn at each position: those that no stage of the sampler and no grammar removed.

        The mask that training on sampled answers has to lay on the logits where the sampler truncates.

        Raises:
            RequestError: a field is unknown or out of range.
        """
        found = [np.isfinite(step.sampling_logprobs(order=order, **fields)) for step in self._steps]
        return np.stack(found) if found else np.zeros(self.logits.shape, bool)

    @shows_fields(only=SAMPLING_FIELDS, unchanged=True)
    def kept_frame(self, *, order: OrderLike | None = None, **fields: Any) -> pd.DataFrame:
        """One row per position and token that could be drawn there, the most likely first.

        Columns: position, token, token_id, bytes, logprob (raw), sampling_logprob, drawn (whether it is the answer's).

        Raises:
            RequestError: a field is unknown or out of range, or the frame would have more than 5,000,000 rows.
        """
        from llmlab.frames.distribution import kept_frame

        found = [step.sampling_logprobs(order=order, **fields) for step in self._steps]
        ids = [step.ranking[np.isfinite(one[step.ranking])] for step, one in zip(self._steps, found, strict=True)]
        if (rows := sum(map(len, ids))) > MOST_ROWS:
            raise RequestError(f"{rows:,} tokens could be drawn at {len(ids):,} positions: truncate, or take a slice")
        return kept_frame(
            ids,
            [step.logprobs[some] for step, some in zip(self._steps, ids, strict=True)],
            [one[some] for one, some in zip(found, ids, strict=True)],
            positions=[len(step.made) for step in self._steps],
            drawn=[step.drawn for step in self._steps],
            names=self._steps[0].token_names if self._steps else None,
        )

    def __repr__(self) -> str:
        T = len(self)
        over = f" over a vocabulary of {self.logits.shape[1]:,}" if T else ""
        return f"<the next-token distributions at {T:,} position{'' if T == 1 else 's'} of an answer{over}>"


def next_tokens(completion: Completion, backend: object, *, choice: int) -> NextTokens:
    """The distributions at all positions of a choice, computed by one pass of the model (teacher forcing).

    Args:
        completion: what the backend's model answered.
        backend: a `LogitsBackend`.
        choice: the index of the choice.

    Raises:
        PlaceError: there is no such choice.
        RequestError: the backend gives no logits, the ids of the tokens are not known, or the completion was made with
            other weights.
    """
    model, found = model_of(completion, backend), choice_of(completion, choice)
    read = read_tokens(completion, model, choice=choice, model=completion.request.model)
    for at, (row, token) in enumerate(zip(read.logits, found.tokens.ids, strict=True)):
        if token >= len(row) or abs(row[token] - _log_sum(row) - found.tokens.logprob[at]) > SAME:
            raise other_weights(completion, position=at, logprob=float(found.tokens.logprob[at]))
    return read


def read_tokens(completion: Completion, backend: LogitsBackend, *, choice: int, model: str | None) -> NextTokens:
    """The distributions that a model, whichever it is, has at all positions of a choice; one pass of it.

    Args:
        completion: any model's, over the same vocabulary.
        backend: the model that reads it.
        choice: the index of the choice.
        model: the name by which the backend is asked, as a request has it; None for the model's own.

    Raises:
        PlaceError: there is no such choice.
        RequestError: the ids of the tokens are not known.
    """
    ids = choice_of(completion, choice).tokens.ids
    if (ids < 0).any():
        raise RequestError("the endpoint did not return the ids of these tokens, so they cannot be read again")
    parts = list(backend.logits(completion.prompt_ids, ids, model=model)) if len(ids) else []
    logits = parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
    V = logits.shape[1]
    names = TokenNames(backend.token_bytes, backend.token_names, vocab_size=V)
    request = completion.request if completion.request.model == model else completion.request.replace(model=model)
    negative = Negative(
        lambda: backend.logits(backend.negative_prompt(request, completion.prompt_ids), ids, model=model)
    )
    trail = Trail(lambda: [logits], prompt=completion.prompt_ids, made=ids, negative=negative)
    steps = [
        NextToken(
            row, backend=backend, request=request, prompt_ids=completion.prompt_ids, made=ids[:at],
            order=completion.order, seed=completion.seed, choice=choice, drawn=int(ids[at]), token_names=names,
            trail=trail,
        )
        for at, row in enumerate(logits)
    ]  # fmt: skip
    return NextTokens(logits, steps)


def kept_frame_of(completion: Completion, backend: object, *, choice: Choice) -> pd.DataFrame:
    """The tokens that could be drawn at each position of a choice: from the logits, or from what an endpoint listed.

    Raises:
        RequestError: as in `next_tokens`; the endpoint did not list them.
    """
    if isinstance(backend, LogitsBackend):
        return next_tokens(completion, backend, choice=choice.index).kept_frame()
    from llmlab.frames.tokens import kept_frame

    return kept_frame(completion, choice)


def _log_sum(row: Float32[np.ndarray, " V"]) -> float:
    most_likely = row.max()
    return float(most_likely + np.log(np.exp(row - most_likely).sum(dtype=np.float64)))
