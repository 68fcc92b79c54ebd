"""Measures decoding speed at several batch sizes, with and without the sampler's stages, and the first token's time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from llmlab.backends.local.backend import LocalBackend
from llmlab.engine.scheduler import Row
from llmlab.sampling.params import SamplingParams

#: Fields that turn on every numeric stage of the sampler, and fields that turn on none.
SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.1}
PLAIN: dict[str, Any] = {"temperature": 1.0}


class Decoding(NamedTuple):
    """One line of the table. Rates are tokens per second over all rows, including prefill; the best run counts."""

    rows: int
    first_call: float  #: seconds of the first call, including compilation
    first_token: float  #: seconds until the first block of tokens was on the host, without compilation
    plain: float  #: tokens per second at temperature 1, with no other stage
    sampled: float  #: tokens per second with every numeric stage


def decoding(
    backend: LocalBackend,
    *,
    rows: Sequence[int] = (1, 8, 32, 128),
    prompt: int = 64,
    tokens: int = 128,
    repeats: int = 3,
) -> Iterator[Decoding]:
    """Yield the speed of decoding after a prompt of random tokens, for each batch size.

    Args:
        backend: the model; if its number of slots is pinned, at most so many rows run at once.
        rows: the batch sizes; one line is yielded for each.
        prompt: the number of prompt tokens.
        tokens: the number of generated tokens per row; end tokens are ignored.
        repeats: the number of runs; the best one counts.

    Raises:
        ValueError: the prompt and the tokens exceed the context.
    """
    size = backend.engine.config.vocab_size
    ids = np.random.default_rng(0).integers(0, size, prompt).astype(np.int32)
    for count in rows:
        plain, sampled = (
            [
                Row(ids, SamplingParams(seed=1, choice=i, **fields), budget=tokens, ignore_ends=True)
                for i in range(count)
            ]
            for fields in (PLAIN, SAMPLED)
        )
        first = _run(backend, plain)
        runs = [(_run(backend, plain), _run(backend, sampled)) for _ in range(repeats)]
        made = count * tokens
        yield Decoding(
            rows=count,
            first_call=first[1],
            first_token=min(run[0][0] for run in runs),
            plain=made / min(run[0][1] for run in runs),
            sampled=made / min(run[1][1] for run in runs),
        )


def _run(backend: LocalBackend, rows: Sequence[Row]) -> tuple[float, float]:
    """Seconds until the first block of tokens, and until the last."""
    began = time.perf_counter()
    first = 0.0
    for _ in backend.engine.submit(rows):
        first = first or time.perf_counter() - began
    return first, time.perf_counter() - began
