"""The work of a notebook: many answers to one prompt, the next turn, a stream beside others' prompts, scoring."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import numpy as np

from llmlab.cli.bench.figures import Figure, compiled, in_turn, seconds
from llmlab.cli.bench.subject import PLAIN, SAMPLED, Options, prompt_of, rows_of, run_rows, subject
from llmlab.engine.engine import IDLE_SECONDS, Engine
from llmlab.engine.scheduler import Row
from llmlab.engine.score_plan import Text
from llmlab.sampling.params import SamplingParams

__all__ = ["many", "mixed", "pinned", "scoring", "structured", "sweep", "turns"]


#: Answers to one prompt, and the prompt's tokens, or as many as the context has room for.
MANY = ((128, 512), (32, 2048))


def many(options: Options) -> Iterator[Figure]:
    """n answers to one prompt against one, and against as many answers to a short prompt."""
    with subject(options) as found:
        engine = found.engine
        for count, length in MANY:
            length = min(length, engine.max_context - 128)
            setting = f"n {count}, prompt {length}"
            fresh = _fresh_prompts(engine)

            def run(n: int, tokens: int, size: int, fresh: Callable[[int], np.ndarray] = fresh) -> None:
                run_rows(engine, rows_of(fresh(size), count=n, tokens=tokens))

            runs = {
                "one": partial(run, 1, 1, length),
                "all": partial(run, count, 1, length),
                "whole": partial(run, count, 64, length),
                "short": partial(run, count, 64, 16),
            }
            took = in_turn(runs, repeats=options.repeats)
            yield Figure("many", f"{setting}: first tokens of all / of one", took["all"] / took["one"], "x")
            decoding = took["whole"] - took["all"]
            yield Figure("many", f"{setting}: speed of decoding / with prompts of 16", took["short"] / decoding, "x")
            needed = engine.programs.cache_bytes(width=1, length=length + 64 * count)
            held = _most_bytes(engine, rows_of(fresh(length), count=count, tokens=64))
            yield Figure("many", f"{setting}: bytes of the cache / of one prompt and the answers", held / needed, "x")


def _most_bytes(engine: Engine, rows: list[Row]) -> int:
    """The most bytes of the caches of a batch while it is decoded, on the device, without what was kept before."""

    def held() -> int:
        # Arrays with rows, positions and heads: only caches have as many axes.
        return sum(x.nbytes for x in jax.live_arrays() if x.ndim == 4)

    time.sleep(IDLE_SECONDS + 1.0)  # until the batch before is freed
    before = held()
    return max(held() for _ in engine.submit(rows)) - before


def turns(options: Options) -> Iterator[Figure]:
    """The first token of a conversation's second turn against that of its first."""
    with subject(options) as found:
        engine = found.engine
        length = min(2048, engine.max_context // 2)
        ratios = []
        for seed in range(options.repeats + 1):
            first = prompt_of(engine, length, seed=100 + seed)
            began = time.perf_counter()
            answer = _first_piece(engine, rows_of(first, count=1, tokens=32))
            middle = time.perf_counter()
            further = np.concatenate([first, answer, prompt_of(engine, 24, seed=seed)])
            again = time.perf_counter()
            _first_piece(engine, rows_of(further, count=1, tokens=32))
            ratios.append((time.perf_counter() - again) / (middle - began))
        yield Figure("turns", f"second turn after {length} tokens / first", float(np.median(ratios[1:])), "x")
        if found.backend is not None:
            from llmlab.lab.lab import Lab

            before = engine.prefills
            Lab(found.backend).chat("Name a colour.", max_tokens=12, seed=1, ignore_eos=True).tree(depth=3, width=3)
            yield Figure("turns", "tree(depth=3, width=3)", engine.prefills - before, "prompts read")


def mixed(options: Options) -> Iterator[Figure]:
    """The longest gap between the tokens of a stream while seven long prompts come in, against that without them."""
    with subject(options) as found:
        engine = found.engine
        length = min(960, engine.max_context - 80)
        budget = min(256, engine.max_context - 32)

        def gap(others: int, seed: int) -> float:
            def come() -> None:
                rows = [rows_of(prompt_of(engine, length, seed=seed + i), count=1, tokens=8)[0] for i in range(others)]
                for ticket in [engine.submit([row]) for row in rows]:
                    list(ticket)

            beside = threading.Thread(target=come)
            times = []
            for block in engine.submit(rows_of(prompt_of(engine, 16, seed=seed), count=1, tokens=budget)):
                times.append(time.perf_counter())
                if others and len(times) == 3:
                    beside.start()
                del block
            if beside.ident is not None:
                beside.join()
            return max((b - a for a, b in pairwise(times)), default=0.0)

        gap(7, 1)
        gap(0, 2)
        rounds = [(gap(7, 10 * i + 20), gap(0, 10 * i + 21)) for i in range(options.repeats)]
        with_, without = (float(np.median(column)) for column in zip(*rounds, strict=True))
        yield Figure("mixed", f"longest gap beside 7 prompts of {length}", 1e3 * with_, "ms")
        yield Figure("mixed", "longest gap alone", 1e3 * without, "ms")
        yield Figure("mixed", "beside / alone", with_ / without, "x")


def structured(options: Options) -> Iterator[Figure]:
    """Decoding with a JSON schema against decoding without, and a plain row beside one with a schema."""
    with subject(options) as found:
        if found.backend is None:
            yield Figure("structured", "schema / none", None, "x", note="a shape has no tokenizer")
            return
        backend = found.backend
        schema = {"type": "array", "items": {"type": "integer"}, "minItems": 40, "maxItems": 60}
        form = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": schema}}
        from llmlab.lab.lab import Lab

        lab = Lab(backend)

        def run(n: int, **fields: Any) -> float:
            began = time.perf_counter()
            answer = lab.chat("Numbers?", n=n, seed=1, max_tokens=64, **fields)
            made = sum(len(choice.tokens) for choice in answer.choices)
            return made / (time.perf_counter() - began)

        for n in (1, 16):
            for fields in ({"response_format": form}, {"ignore_eos": True}):
                run(n, **fields)
            pairs = [(run(n, response_format=form), run(n, ignore_eos=True)) for _ in range(options.repeats)]
            with_, without = (float(np.median(column)) for column in zip(*pairs, strict=True))
            yield Figure("structured", f"n {n}: tokens/s with a schema", with_, "tokens/s")
            yield Figure("structured", f"n {n}: time a token with a schema / without", without / with_, "x")

        def plain() -> float:
            return run(1, ignore_eos=True)

        def beside() -> float:
            with lab.stream("Numbers?", seed=2, max_tokens=200, response_format=form) as other:
                next(iter(other))
                return plain()

        beside()
        pairs = [(beside(), plain()) for _ in range(options.repeats)]
        with_, without = (float(np.median(column)) for column in zip(*pairs, strict=True))
        yield Figure("structured", "a plain row beside one with a schema: speed / alone", with_ / without, "x")


def sweep(options: Options) -> Iterator[Figure]:
    """1,000 answers of uneven length to one prompt, against as many tokens in even rows."""
    with subject(options) as found:
        engine = found.engine
        lengths = np.random.default_rng(0).integers(4, 60, 1000)
        prompt = prompt_of(engine, 32)

        def rows(budgets: list[int]) -> list[Row]:
            return [
                Row(prompt, SamplingParams(seed=1, choice=i, **PLAIN), budget=budget, ignore_ends=True)
                for i, budget in enumerate(budgets)
            ]

        even = [int(lengths.mean())] * 128
        before = engine.prefills
        runs = {
            "uneven": lambda: run_rows(engine, rows(lengths.tolist())),
            "even": lambda: run_rows(engine, rows(even)),
        }
        for run in runs.values():
            run()
        with compiled() as programs:
            took = in_turn(runs, repeats=max(1, options.repeats // 2))
        busy = (lengths.sum() / took["uneven"]) / (sum(even) / took["even"])
        yield Figure("sweep", "1,000 uneven answers: speed / of full even batches", float(busy), "x")
        yield Figure("sweep", "prompts read for all of them", engine.prefills - before, "prompts")
        yield Figure("sweep", "compiled after the first run", len(programs), "programs")


def scoring(options: Options) -> Iterator[Figure]:
    """64 texts in one call, as a lab scores them, against 64 times one."""
    with subject(options) as found:
        engine = found.engine
        params = SamplingParams(seed=1, **PLAIN)
        for length in (1, 12, 20, 200):
            prompt = prompt_of(engine, 200)
            row = Row(prompt, params, budget=1)
            texts = [Text(row, prompt_of(engine, length, seed=seed)) for seed in range(64)]
            took = in_turn(
                {"all": partial(engine.score_all, texts), "one": partial(engine.score_all, texts[:1])},
                repeats=options.repeats,
            )
            ratio = took["all"] / (64 * took["one"])
            yield Figure("scoring", f"64 texts of {length} tokens / 64 x one", ratio, "x")


def pinned(options: Options) -> Iterator[Figure]:
    """The throughput of pinned slots against that of the free engine, measured one after the other."""
    rates = {}
    loads: dict[str, dict[str, int]] = {"free": {}, "pinned": {"slots": 32, "max_context": 512}}
    for name, load in loads.items():
        with subject(options, **load) as found:
            engine = found.engine
            rows = rows_of(prompt_of(engine, 32), count=32, tokens=64, fields=SAMPLED)
            rates[name] = 32 * 64 / seconds(partial(run_rows, engine, rows), repeats=options.repeats)
    yield Figure("pinned", "32 rows: pinned slots / free", rates["pinned"] / rates["free"], "x")


def _fresh_prompts(engine: Engine) -> Callable[[int], np.ndarray]:
    """A function that gives another prompt at each call, so that no cache of prompts answers for the model."""
    seeds = iter(range(1000, 10**6))
    return lambda length: prompt_of(engine, length, seed=next(seeds))


def _first_piece(engine: Engine, rows: list[Row]) -> np.ndarray:
    """The first tokens that come; the rest of the row is cancelled."""
    ticket = iter(engine.submit(rows))
    tokens = next(ticket)[0].tokens
    return np.asarray(tokens)
