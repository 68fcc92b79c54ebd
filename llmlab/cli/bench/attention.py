"""One layer's attention over a cache: the plain product against the kernel, in time and in what they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llmlab.backends.local.load_options import by_kernel
from llmlab.cli.bench import ceilings
from llmlab.cli.bench.figures import Figure, in_turn
from llmlab.cli.bench.subject import Options, subject
from llmlab.engine.scheduler import bucket, cache_lengths
from llmlab.errors import RequestError
from llmlab.models.config import ModelConfig
from llmlab.models.families import empty_cache
from llmlab.models.kv.attend import Scores

__all__ = ["attention", "compare"]

#: How often one program computes it, so that launching the program is a small part.
STEPS = 16


def attention(options: Options) -> Iterator[Figure]:
    """A step's attention for several numbers of rows and of filled positions, with this model's heads."""
    with subject(options._replace(attention="plain")) as found:
        engine = found.engine
        config, dtype, most = engine.config, str(engine.programs.dtype), engine.max_context
    try:
        by_kernel("kernel", config, device=jax.devices()[0], dtype=dtype)
    except RequestError as refused:
        yield Figure("attention", "plain and kernel", None, "us", note=refused.message)
        return
    for context in options.contexts:
        for rows in options.rows if context == min(options.contexts) else options.rows[:2]:
            setting = f"rows {rows}, context {context}"
            if context > most:
                yield Figure("attention", setting, None, "us", note="longer than the context")
                continue
            room = bucket(cache_lengths(most), context)
            run = compare(config, dtype, rows=rows, context=context, room=room, repeats=options.repeats)
            yield from _figures(*run, setting=f"{setting} of {room}", rates=options.ceilings)


def compare(
    config: ModelConfig, dtype: str, *, rows: int, context: int, room: int, repeats: int
) -> tuple[Mapping[str, float], float, int]:
    """The seconds of one layer's attention, plain and by kernel; the largest difference of what they give; and the
    bytes of the keys and values that are filled.

    Args:
        config: the decoder, whose first layer counts.
        dtype: of the cache.
        rows: the number of rows.
        context: the positions that are filled in each, that of the new token included.
        room: the positions that there is room for.
        repeats: the number of rounds; the median counts.
    """
    heads, size = config.held_kv_heads, config.head_dim
    keys = jax.random.split(jax.random.key(0), 3)
    k, v = (jax.random.normal(key, (rows, room, heads, size), dtype) for key in keys[:2])
    q = jax.random.normal(keys[2], (rows, 1, config.num_heads, size), dtype)
    runs: dict[str, Callable[[], Array]] = {}
    for name in ("plain", "kernel"):
        shape = replace(config, attention_kernel=name == "kernel", num_layers=1)
        cache: Any = empty_cache(shape, batch=rows, length=room, dtype=dtype)
        entries = cache.entries_of(k, v)
        cache = cache._replace(keys=(entries.keys,), values=(entries.values,))
        cache = cache.truncated(jnp.full(rows, context - 1, jnp.int32))
        runs[name] = _run(shape, cache, q, k[:, :1], v[:, :1], context - 1)
    given = {name: run().astype(jnp.float32) for name, run in runs.items()}
    took = in_turn(runs, repeats=repeats)
    apart = float(jnp.max(jnp.abs(given["plain"] - given["kernel"])))
    read = 2 * rows * context * heads * size * q.dtype.itemsize
    return {name: seconds / STEPS for name, seconds in took.items()}, apart, read


def _run(
    config: ModelConfig,
    cache: Any,
    q: Float[Array, "W 1 N H"],
    k: Float[Array, "W 1 K H"],
    v: Float[Array, "W 1 K H"],
    at: int,
) -> Callable[[], Array]:
    """Computes the attention of one new token per row several times, with the cache in place as in decoding."""
    scores = Scores(config.scale_of(0), window=config.window_of(0), softcap=config.attention_softcap)
    positions = jnp.full((q.shape[0], 1), at, jnp.int32)

    def step(_: Any, state: tuple[Any, Array]) -> tuple[Any, Array]:
        cache, out = state
        over = cache.begin(positions)
        # The next step's queries depend on this one's result, so that none is left out.
        out = over.attend(0, q + 1e-3 * out, k, v, scores=scores)
        return over.cache_after(), out

    def steps(cache: Any, q: Array) -> tuple[Any, Array]:
        with jax.default_matmul_precision("highest"):
            found: tuple[Any, Array] = jax.lax.fori_loop(0, STEPS, step, (cache, jnp.zeros_like(q)))
        return found

    compiled = jax.jit(steps, donate_argnums=0)

    def run() -> Array:
        nonlocal cache
        cache, out = compiled(cache, q)
        return out.block_until_ready()

    return run


def _figures(
    took: Mapping[str, float], apart: float, read: int, *, setting: str, rates: Mapping[str, float]
) -> Iterator[Figure]:
    for name, seconds in took.items():
        # Of the speed at which the filled part alone can be read.
        share = read / seconds / rates[ceilings.VECTOR] if ceilings.VECTOR in rates else None
        yield Figure("attention", f"{setting}, {name}", seconds * 1e6, "us", share, ceilings.VECTOR)
    yield Figure("attention", f"{setting}, plain / kernel", took["plain"] / took["kernel"], "x")
    yield Figure("attention", f"{setting}, largest difference", apart, "")
