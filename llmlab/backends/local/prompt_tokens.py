"""The statistics of a prompt's own tokens, each given the tokens before it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from llmlab.backends.local.token_record import TokenRecord
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Row
from llmlab.protocol.completion import TokenBytes, Tokens
from llmlab.sampling.params import SamplingParams

__all__ = ["prompt_tokens"]


def prompt_tokens(
    engine: Engine,
    prompt: Int32[np.ndarray, " L"],
    *,
    token_bytes: Sequence[TokenBytes],
    watched: tuple[int, ...] = (),
    adapter: int = 0,
) -> Tokens:
    """Returns the L - 1 tokens of a prompt after its first one, which has no probability: nothing comes before it.

    Args:
        engine: runs the model.
        prompt: the prompt's token ids, at least one.
        token_bytes: the bytes of every token id.
        watched: tokens that are listed as alternatives of every token (`logprob_token_ids`).
        adapter: as in `engine.scheduler.Row`.
    """
    record = TokenRecord(token_bytes, watched=watched)
    given = prompt[1:]
    if len(given):
        row = Row(prompt[:1], SamplingParams(logprob_token_ids=watched), budget=0, adapter=adapter)
        record.add(given.tolist(), engine.score(row, given))
        for _ in given:
            record.assign("content")
    return record.tokens(0, len(record))
