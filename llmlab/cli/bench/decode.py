"""Decoding and prefill: tokens a second, and the share of what memory and arithmetic allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from llmlab.cli.bench import ceilings
from llmlab.cli.bench.figures import Figure, compiled, in_turn, seconds
from llmlab.cli.bench.subject import PLAIN, SAMPLED, Options, Subject, prompt_of, rows_of, run_rows, subject
from llmlab.engine.engine import Engine
from llmlab.models.plan import abstract_mesh, footprint

__all__ = ["Work", "decode", "growth", "ideal", "prefill"]


class Work(NamedTuple):
    """What one step, or one prompt, must do at least."""

    read: float  #: bytes of parameters and cache
    operations: float  #: of the products with the parameters: two for each number and token


def ideal(work: Work, rates: Mapping[str, float], *, rows: int) -> tuple[float, str]:
    """The seconds that the device's own rates allow for this work, and which of them bounds it.

    One row's products are matrix-vector products, bounded by reading; those of many rows may be bounded by arithmetic.
    """
    reading = work.read / rates.get(ceilings.VECTOR, np.inf)
    computing = work.operations / rates.get(ceilings.MATRIX, np.inf) if rows > 1 else 0.0
    return max((reading, ceilings.VECTOR), (computing, ceilings.MATRIX))


def prefill(options: Options) -> Iterator[Figure]:
    """Prompts of several lengths, read with an empty batch."""
    with subject(options) as found:
        engine = found.engine
        for length in options.contexts:
            if length >= engine.max_context:
                yield Figure("prefill", f"{length} tokens", None, "tokens/s", note="longer than the context")
                continue
            prompts = iter([prompt_of(engine, length, seed=seed) for seed in range(options.repeats + 1)])
            took = seconds(partial(_next, engine, prompts), repeats=options.repeats)
            best, name = ideal(_work(found, rows=1, context=0, tokens=length), options.ceilings, rows=length)
            share = best / took if options.ceilings else None
            yield Figure("prefill", f"{length} tokens", length / took, "tokens/s", share, name)


def decode(options: Options) -> Iterator[Figure]:
    """Batches of several widths after prompts of several lengths, without and with the stages of the sampler."""
    with subject(options) as found, compiled() as programs:
        engine = found.engine
        lengths = sorted({options.prompt, *options.contexts})
        for length in lengths:
            for rows in options.rows if length == options.prompt else options.rows[:2]:
                setting = f"rows {rows}, context {length}"
                if length + options.tokens > engine.max_context:
                    yield Figure("decode", setting, None, "tokens/s", note="longer than the context")
                    continue
                yield from _decode(found, options, rows=rows, length=length, setting=setting)
    yield Figure("compile", "decode", len(programs), "programs", note=f"{sum(programs):.1f} s in all")


#: Rows of the batch in which the time of a step is measured against the context: enough that the cache counts.
_GROWING = 8


def growth(options: Options) -> Iterator[Figure]:
    """The time of a step against the context: its slope over that of the bytes to read, and how straight it is.

    The contexts fill the buckets of the cache, of which every position is read.
    """
    with subject(options) as found:
        engine, tokens = found.engine, 17
        contexts = [length - tokens - 1 for length in engine.lengths if length <= min(8192, engine.max_context)]
        if len(contexts) < 3:
            yield Figure("growth", "slope", None, "x", note="the context is too short")
            return

        def run(context: int, made: int) -> Callable[[], int]:
            # Prompts of their own: rows that share one would read it once.
            prompts = [prompt_of(engine, context, seed=seed) for seed in range(_GROWING)]
            rows = [row for prompt in prompts for row in rows_of(prompt, count=1, tokens=made)]
            return lambda: run_rows(engine, rows)

        runs = {(context, made): run(context, made) for context in contexts for made in (1, tokens)}
        took = in_turn(runs, repeats=options.repeats)
        steps = [(took[context, tokens] - took[context, 1]) / (tokens - 1) for context in contexts]
        if min(steps) <= 0:
            yield Figure("growth", "slope", None, "x", note="too few tokens to be measured")
            return
        read = [_GROWING * engine.programs.cache_bytes(width=1, length=length) for length in engine.lengths]
        read = read[: len(contexts)]
        slope, start = np.polyfit(read, steps, 1)
        off = float(np.max(np.abs(np.polyval([slope, start], read) - steps)) / max(steps))
        yield Figure("growth", "most that a step differs from the line / the longest step", off, "x")
        if rate := options.ceilings.get(ceilings.VECTOR):
            yield Figure(
                "growth", "seconds for a byte of the cache / at the matrix-vector rate", float(slope * rate), "x"
            )


def _decode(found: Subject, options: Options, *, rows: int, length: int, setting: str) -> Iterator[Figure]:
    engine, prompt = found.engine, prompt_of(found.engine, length)
    kinds = {"plain": PLAIN, "every stage": SAMPLED}

    def run(fields: dict[str, Any], tokens: int) -> Callable[[], int]:
        return lambda: run_rows(engine, rows_of(prompt, count=rows, tokens=tokens, fields=fields))

    # What a batch takes before its second token is that of one of a single token; the prompt is in memory by then.
    short = {(name, 1): run(fields, 1) for name, fields in kinds.items()}
    long = {(name, options.tokens): run(fields, options.tokens) for name, fields in kinds.items()}
    took = in_turn(short | long, repeats=options.repeats)
    for name in kinds:
        decoding = took[name, options.tokens] - took[name, 1]
        if decoding <= 0:
            yield Figure("decode", f"{setting}, {name}", None, "tokens/s", note="too few tokens to be measured")
            continue
        rate = rows * (options.tokens - 1) / decoding
        context = length + options.tokens // 2
        best, ceiling = ideal(_work(found, rows=rows, context=context, tokens=rows), options.ceilings, rows=rows)
        share = best * rate / rows if options.ceilings else None
        yield Figure("decode", f"{setting}, {name}", rate, "tokens/s", share, ceiling)


def _next(engine: Engine, prompts: Iterator[np.ndarray]) -> None:
    engine.next_logits(next(prompts))


def _work(found: Subject, *, rows: int, context: float, tokens: int) -> Work:
    """What `rows` rows with `context` positions each have to read, and `tokens` tokens to compute."""
    programs = found.engine.programs
    config, own = found.engine.config, str(programs.dtype)
    floats = footprint(config, abstract_mesh(), dtype=own)
    # What is held in int8 is read in int8, and multiplied as often.
    held = footprint(config, abstract_mesh(), dtype=programs.weights_dtype, cache_dtype=own)
    operations = 2 * tokens * floats.active / programs.dtype.itemsize
    return Work(read=held.active + rows * context * held.token, operations=operations)
