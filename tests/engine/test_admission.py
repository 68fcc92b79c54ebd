"""Rows of one prompt enter a batch together, and are what they are one by one."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

import jax
import numpy as np
import pytest

from llmlab.engine import engine as engine_module
from llmlab.engine.engine import Engine
from llmlab.engine.mail import Call
from llmlab.engine.scheduler import Job, Scheduler
from llmlab.errors import EngineError
from llmlab.grammar.compose import JSON, grammar
from llmlab.grammar.vocabulary import Vocabulary
from llmlab.models.families import cache_bytes
from tests.engine.rows import END, read, row, run
from tests.engine.test_grammars import BYTES, LIST, under
from tests.engine.test_seeds import same


@contextmanager
def busy(engine):
    """The driver is kept waiting, so that all that is submitted meanwhile is in the queue at once."""
    goes = threading.Event()
    engine._post(Call(lambda: goes.wait(timeout=60), Future()))
    yield
    goes.set()


@pytest.fixture
def calls(pinned, monkeypatch):
    """How many rows each call of the program that admits rows put into slots."""
    found, admit = [], pinned.programs.admit

    def noted(slots, cache, *rows, **options):
        found.append(len(rows))
        return admit(slots, cache, *rows, **options)

    monkeypatch.setattr(pinned.programs, "admit", noted)
    return found


@pytest.fixture
def one_by_one(monkeypatch):
    """A function that runs rows which enter one by one."""

    def run_apart(engine, *rows):
        with monkeypatch.context() as patch:
            patch.setattr(engine._queue, "alike_after", lambda job, index, most: [(job, index)])
            return run(engine, *rows)

    return run_apart


def test_rows_of_one_prompt_are_one_call_and_have_the_bits_of_rows_that_come_alone(pinned, calls, one_by_one):
    numbers = {"temperature": 0.3, "top_k": 4, "top_p": 0.7, "presence_penalty": 1.0, "min_tokens": 9}
    rows = [
        row(budget=5),
        row(budget=12, choice=3, ignore_ends=False, logprob_token_ids=(5, 7)),
        row(budget=9, seed=-4, **numbers),
        row(budget=20, repetition_penalty=1.3, statistics=False),
    ]
    together = run(pinned, *rows)
    assert calls == [4]
    apart = one_by_one(pinned, *rows)
    assert calls == [4, 1, 1, 1, 1]
    same(together, apart)


def test_rows_whose_slots_differ_in_more_than_numbers_enter_apart(pinned, calls, one_by_one):
    made = np.array([65, 66], np.int32)
    whole = row()
    rows = [
        whole,
        replace(whole, ignore_ends=True),
        row(logit_bias={70: 3.0}),
        row(stop_token_ids=(101,)),
        # Its given tokens are those of the one after it, of which fewer count as generated.
        replace(row("Once", frequency_penalty=1.0), made=made),
        replace(row("OnceA", frequency_penalty=1.0), made=made[1:]),
        row("Once upon a tim"),
        replace(row("Once upon a tim"), budget=3),
    ]
    together = run(pinned, *rows)
    assert calls == [1, 1, 1, 1, 1, 1, 2]
    same(together, one_by_one(pinned, *rows))


def test_only_the_job_of_a_row_that_cannot_be_admitted_ends(pinned, calls):
    """Its seed is no signed 64-bit integer, which nobody asked before."""
    expected = run(pinned, *[row(seed=seed, budget=6) for seed in range(4)])
    del calls[:]
    with busy(pinned):
        first = pinned.submit([row(seed=seed, budget=6) for seed in (0, 1)])
        sick = pinned.submit([row(seed=2**63, budget=6)])
        last = pinned.submit([row(seed=seed, budget=6) for seed in (2, 3)])
    with pytest.raises(EngineError, match="64-bit"):
        list(sick)
    assert read(first, 2)[0] + read(last, 2)[0] == expected[0]
    assert not pinned._queue._jobs and not pinned._queue._running and not pinned._lanes.live


def test_rows_with_grammars_enter_together_too(pinned, calls, one_by_one):
    numbers = grammar(Vocabulary(BYTES, size=pinned.config.vocab_size, ends=(END,)), JSON(LIST))
    rows = [under(numbers, seed=seed, budget=8) for seed in range(3)]
    rows += [replace(each, grammar=None) for each in rows]
    together = run(pinned, *rows)
    assert calls == [3, 3]
    same(together, one_by_one(pinned, *rows))


def test_a_row_is_cancelled_before_the_others_enter(pinned, calls):
    expected = run(pinned, *[row(seed=seed, budget=6) for seed in range(3)])
    del calls[:]
    with busy(pinned):
        ticket = pinned.submit([row(seed=seed, budget=6) for seed in range(3)])
        ticket.cancel([1])
    tokens = read(ticket, 3)[0]
    assert calls == [2] and [tokens[0], tokens[2]] == [expected[0][0], expected[0][2]]


def test_more_rows_than_slots_enter_as_slots_become_free(pinned, calls):
    tokens, _, _ = run(pinned, *[row(seed=seed, budget=4 + 3 * (seed % 4), ignore_ends=True) for seed in range(30)])
    assert [len(made) for made in tokens] == [4 + 3 * (seed % 4) for seed in range(30)]
    assert calls[0] == 8 and sum(calls) == 30


def test_uneven_budgets_of_one_prompt_keep_to_the_memory(decoder, monkeypatch):
    """A row of a long budget makes every row's cache longer, so that fewer of them fit."""
    monkeypatch.setattr(engine_module, "WIDTHS", (1, 4, 8))
    monkeypatch.setattr(engine_module, "lane_count", lambda: 1)
    config, model = decoder
    memory = cache_bytes(config, batch=5, length=256, dtype=np.float32)  # to read one and hold 4, or 8 of 128 positions
    engine = Engine(config, model, ends=(END,), max_context=256, memory=memory)
    claims, run_lanes = [], engine._lanes.run

    def watched(**options):
        claims.append(sum(batch.claim for batch in engine._lanes._batches))
        return run_lanes(**options)

    monkeypatch.setattr(engine._lanes, "run", watched)
    budgets = [5 if i % 5 else 200 for i in range(16)]
    tokens, _, _ = run(engine, *[row("x", seed=i, budget=b, ignore_ends=True) for i, b in enumerate(budgets)])
    assert [len(made) for made in tokens] == budgets
    assert max(claims) <= memory
    engine.close()


def test_a_group_is_what_comes_next_in_turn():
    """Against the queue itself, asked for one row after the other."""
    rng = np.random.default_rng(5)
    sizes = set()
    for _ in range(300):
        queue, clients = Scheduler(), [None, "a", "b"]
        orders = ["llmlab", "llmlab", "llmlab", "vllm" if rng.random() < 0.1 else "llmlab"]
        prompts = "xxxy" if rng.random() < 0.5 else "x"
        for _ in range(rng.integers(1, 6)):
            rows = [row(rng.choice(list(prompts))) for _ in range(rng.integers(1, 5))]
            queue.add(Job(rows, str(rng.choice(orders)), client=clients[rng.integers(3)]))
        for job in [job for job in queue._jobs if rng.random() < 0.3]:
            queue.started(job)
        first, most = queue.first(order=None), int(rng.integers(1, 9))
        if first is None:
            continue
        group = queue.alike_after(*first, most=most)
        sizes.add(len(group))
        one, expected, following = first[0].rows[first[1]], [], first
        while following is not None and len(expected) < most and following[0].rows[following[1]].like(one):
            expected.append(following)
            queue.started(following[0])
            following = queue.first(order=one and first[0].order)
        mixed = len({job.order for job in [first[0], *queue._jobs]}) > 1
        assert group == (expected[: len(group)] if mixed else expected) and group
    assert sizes >= {1, 2, 3, 4, 5}


@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_program_writes_those_slots_and_no_others(pinned, count):
    programs = pinned.programs
    rng, rows = np.random.default_rng(count), [row(seed=i, budget=i + 1, top_k=i) for i in range(count)]
    blank = programs.empty(width=8, length=512)
    before = jax.tree.map(lambda x: rng.integers(0, 2, x.shape).astype(x.dtype), blank)
    held = pinned._call(lambda: pinned._lanes.prompts.read(rows[0], length=512))
    at = rng.permutation(8)[:count].tolist()
    slots = jax.tree.map(jax.numpy.asarray, before)
    after = programs.admit(slots, held, *rows, at=at, ends=(END,))
    for i, slot in enumerate(at):
        fields = programs.row_fields(rows[i], ends=(END,))
        expected = fields._asdict() | {"cache": held.truncated(jax.numpy.asarray(fields.position))}
        for name, value in expected.items():
            got = jax.tree.map(lambda x, slot=slot: np.asarray(x[slot]), getattr(after, name))
            jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[0]), got, value)
    others = np.setdiff1d(np.arange(8), at)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x)[others], y[others]), after, before)
