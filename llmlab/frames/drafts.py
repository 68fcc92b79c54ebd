"""The frame of guessed tokens: which tokens of an answer came from a right guess, and how many passes it took."""

from __future__ import annotations

import numpy as np
import pandas as pd

from llmlab.errors import RequestError
from llmlab.frames.schema import DRAFT_COLUMNS, build
from llmlab.frames.tokens import logprobs_frame
from llmlab.protocol.completion import Completion

__all__ = ["acceptance_rate", "draft_frame"]


def draft_frame(completion: Completion) -> pd.DataFrame:
    """How each generated token came about where tokens are guessed (`load(draft=)`), one row per token.

    Columns: choice, position, token, token_id, guesses (how many the model read in the pass that this token is the
    first one of; 0 for the tokens that follow from the same pass), guessed (whether it was drawn from the logits after
    a guess, which was right), passes (of the model, from the choice's first token up to this one). Tokens that were
    given, as a branch's first ones are, count as one pass each.

    Raises:
        RequestError: nothing was guessed.
    """
    if all(choice.guessed is None for choice in completion.choices):
        raise RequestError("no token was guessed: load the model with draft=4, or another number", param="draft")
    frame = logprobs_frame(completion)
    known = [
        np.zeros(len(choice.tokens), np.int64) if choice.guessed is None else choice.guessed.astype(np.int64)
        for choice in completion.choices
    ]
    values = np.concatenate([np.zeros(0, np.int64), *known])
    columns = {name: frame[name] for name in ("choice", "position", "token", "token_id")}
    guessed = values < 0
    passes = pd.Series(~guessed).groupby(frame["choice"].to_numpy()).cumsum()
    return build({**columns, "guesses": np.maximum(values, 0), "guessed": guessed, "passes": passes}, DRAFT_COLUMNS)


def acceptance_rate(frame: pd.DataFrame) -> float:
    """The share of guesses that were right, of a draft frame or some of its rows; NaN where nothing was guessed."""
    guesses = int(frame["guesses"].sum())
    return float(frame["guessed"].sum()) / guesses if guesses else float("nan")
