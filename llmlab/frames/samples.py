"""The frame of a completion's choices as samples: one row per choice, with the log-probability of the whole answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.frames.schema import SAMPLES_COLUMNS, build
from llmlab.protocol.completion import Choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


def samples_frame(choices: Sequence[Choice]) -> pd.DataFrame:
    """The choices, one row each.

    Columns: choice, text, finish_reason, tokens (with the end token), logprob (of all tokens together, in the raw
    distribution), sampling_logprob (in the distribution that was sampled from). Natural logs; NaN where an endpoint
    does not give them. If a choice calls tools, `tool_calls` comes after `text`: the calls as a JSON list of names and
    arguments.

    Args:
        choices: the choices of a completion.
    """
    kinds = dict(SAMPLES_COLUMNS)
    if any(choice.tool_calls for choice in choices):
        kinds = {"choice": kinds.pop("choice"), "text": kinds.pop("text"), "tool_calls": "text", **kinds}
    columns: dict[str, list[Any]] = {
        "choice": [choice.index for choice in choices],
        "text": [choice.text for choice in choices],
        "tool_calls": [spelled_calls(choice) for choice in choices],
        "finish_reason": [choice.finish_reason for choice in choices],
        "tokens": [len(choice.tokens) if choice.is_listed else -1 for choice in choices],
        "logprob": [_total(choice, choice.tokens.logprob) for choice in choices],
        "sampling_logprob": [_total(choice, choice.tokens.sampling_logprob) for choice in choices],
    }
    return build(columns, kinds)


def spelled_calls(choice: Choice) -> str | None:
    """The tool calls of a choice as JSON, a list of names and arguments; None if there are none."""
    said = [{"name": call.name, "arguments": call.arguments} for call in choice.tool_calls]
    return json.dumps(said, ensure_ascii=False) if said else None


def _total(choice: Choice, logprobs: np.ndarray) -> float:
    return float(logprobs.sum(dtype=np.float64)) if choice.is_listed else np.nan
