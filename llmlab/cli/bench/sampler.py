"""The sampler by itself: each stage alone, all of them, and what an empty slot costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmlab.cli.bench.figures import Figure, in_turn
from llmlab.cli.bench.subject import PLAIN, SAMPLED, Options
from llmlab.sampling.history import history_of
from llmlab.sampling.params import SamplingParams, stack
from llmlab.sampling.pipeline import run

__all__ = ["VOCABULARIES", "sampler"]

VOCABULARIES = (4096, 32768, 151936)
#: The steps that are timed at once.
STEPS = 8

#: Fields that ask for one stage each.
_STAGES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "plain": PLAIN,
    "temperature": {"temperature": 0.8},
    "logit_bias": {"logit_bias": {1: 1.0}},
    "repetition": {"repetition_penalty": 1.1},
    "frequency": {"frequency_penalty": 0.5},
    "top_k": {"top_k": 50},
    "top_p": {"top_p": 0.95},
    "min_p": {"min_p": 0.05},
    "top_k, top_p": {"top_k": 50, "top_p": 0.95},
    "every stage": SAMPLED,
    "plain, no statistics": {**PLAIN, "statistics": False},
    "every stage, no statistics": {**SAMPLED, "statistics": False},
}


def sampler(options: Options) -> Iterator[Figure]:
    """Milliseconds of one step of the sampler, statistics of the tokens included, for each vocabulary and width."""
    for size in VOCABULARIES:
        for rows in options.rows:
            wanted = {name: fields for name, fields in _STAGES.items() if rows == 1 or name in _BATCH}
            runs = {name: _run(size, [fields] * rows) for name, fields in wanted.items()}
            yield from _figures(f"V {size}, rows {rows}", runs, options)
        few = {
            "one plain row alone": _run(size, [PLAIN]),
            "one plain row in 8 slots": _run(size, [PLAIN, *[SAMPLED] * 7], active=1),
        }
        found = list(_figures(f"V {size}", few, options))
        yield from found
        alone, among = (one.value for one in found)
        if alone and among:
            yield Figure("sampler", f"V {size}, one plain row in 8 slots / alone", among / alone, "x")


#: The settings that are measured in wider batches too.
_BATCH = ("greedy", "plain", "top_k, top_p", "every stage", "plain, no statistics", "every stage, no statistics")


def _figures(setting: str, runs: dict[str, Callable[[], Any]], options: Options) -> Iterator[Figure]:
    for name, took in in_turn(runs, repeats=options.repeats).items():
        yield Figure("sampler", f"{setting}, {name}", 1e3 * took / STEPS, "ms")


def _run(size: int, fields: list[dict[str, Any]], *, active: int | None = None) -> Callable[[], Any]:
    """One step for rows with these fields; `active` are the first rows whose token is wanted."""
    rows = [SamplingParams(seed=1, choice=choice, **one) for choice, one in enumerate(fields)]
    inputs = jax.tree.map(jnp.asarray, stack(rows, vocab_size=size))
    seen = history_of(np.arange(16), np.arange(4), vocab_size=size)
    history = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), len(rows), axis=0), seen)
    logits = 3 * jax.random.normal(jax.random.key(0), (len(rows), size))
    wanted = jnp.arange(len(rows)) < (len(rows) if active is None else active)
    return lambda: jax.block_until_ready(_steps(logits, inputs, history, wanted))


@jax.jit
def _steps(logits: Any, inputs: Any, history: Any, wanted: Any) -> Any:
    """`STEPS` steps in a loop on the device, as the engine takes them, each at its own position.

    A barrier ties the logits to the step before, so that nothing of a step is computed once for all of them. It copies
    nothing: work on the logits of every slot would be counted as the sampler's.
    """

    def body(i: Any, carry: Any) -> Any:
        x, total = jax.lax.optimization_barrier((logits, carry[0]))
        token, figures = run(x, inputs, history._replace(position=history.position + i), active=wanted)
        return total + token, figures

    total = jnp.zeros(logits.shape[0], jnp.int32)
    figures = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(body, 0, (total,))[1])
    return jax.lax.fori_loop(0, STEPS, body, (total, figures))
