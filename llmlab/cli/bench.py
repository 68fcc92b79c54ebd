"""Decoding speed at each batch width, prefill speed, and what the sampler and the first compilation cost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from llmlab.backends.local.backend import LocalBackend
from llmlab.engine.scheduler import Row
from llmlab.sampling.params import SamplingParams

#: A law that every stage of the sampler touches, and one that none does.
SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.1}
PLAIN: dict[str, Any] = {"temperature": 1.0}


class Decoding(NamedTuple):
    """One line of the table. Rates are tokens a second over all rows, prompt included, the best of the repeats."""

    rows: int
    first_call: float  #: seconds of the first call, compiling included
    first_token: float  #: seconds until the first token was on the host, nothing left to compile
    plain: float  #: tokens a second at temperature 1, no other stage
    sampled: float  #: tokens a second with every numeric stage


def decoding(
    backend: LocalBackend,
    *,
    rows: Sequence[int] = (1, 8, 32, 128),
    prompt: int = 64,
    tokens: int = 128,
    repeats: int = 3,
) -> Iterator[Decoding]:
    """Time `tokens` steps after a prompt of `prompt` random tokens, for so many rows at once.

    Args:
        backend: the model; its pinned slots, if it has them, bound how many rows run together.
        rows: rows of each line, one line yielded for each.
        prompt: prompt tokens.
        tokens: generated tokens a row; end tokens are ignored.
        repeats: the best of so many runs counts.

    Raises:
        ValueError: prompt and tokens exceed the context.
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
    """Seconds to the first block, and in all."""
    began = time.perf_counter()
    first = 0.0
    for _ in backend.engine.submit(rows):
        first = first or time.perf_counter() - began
    return first, time.perf_counter() - began
