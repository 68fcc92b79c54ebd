"""A chunk in flight: the device runs the next chunk while the host reads the last; every row's tokens stay its own."""

import jax
import numpy as np
import pytest

from llmlab.engine.chunks import ChunkedBatch
from llmlab.engine.engine import Engine
from llmlab.engine.prompts import Prompts
from llmlab.engine.scheduler import Job
from llmlab.errors import EngineError
from tests.engine.rows import END, read, row, run
from tests.engine.test_seeds import same

SHORT = 1e-9  #: the seconds of a chunk of one step


def batch_in(engine, *, widths=(8,), lengths=(512,)):
    prompts = Prompts(engine.programs, lengths=lengths, memory=None)
    return ChunkedBatch(engine.programs, prompts, widths=widths, lengths=lengths, memory=None, ends=(END,))


def put(batch, *rows):
    """The rows in slots, and a job for each."""
    jobs = [Job(rows=[one], order="llmlab") for one in rows]
    for job in jobs:
        batch.admit([(job, 0)], reading=batch.begin(job.rows[0]), coming=1)
    return jobs


def more(batch, found, *, ahead=True, seconds=0.1):
    """Runs a chunk; adds the tokens of each job's row to `found` and returns the jobs that ended."""
    ended = []
    for live, piece in batch.run(order="llmlab", seconds=seconds, ahead=ahead):
        found.setdefault(live.job, []).extend(piece.tokens.tolist())
        ended += [live.job] if piece.finish else []
    return ended


def whole(batch, found, **options):
    while batch.live:
        more(batch, found, **options)


@pytest.mark.parametrize("seconds", [SHORT, 0.1])
def test_tokens_are_those_without_one(pinned, seconds):
    rows = [row(seed=seed, budget=20 + 7 * seed, min_tokens=seed) for seed in range(8)]
    expected = run(pinned, *rows)[0]
    for ahead in (False, True):
        batch, found = batch_in(pinned), {}
        jobs = put(batch, *rows)
        whole(batch, found, ahead=ahead, seconds=seconds)
        assert [found[job] for job in jobs] == expected


def test_the_next_chunk_is_launched_before_the_last_is_read(decoder, monkeypatch):
    engine = Engine(*decoder, ends=(END,), slots=2)
    events, chunk, get = [], engine.programs.chunk, jax.device_get
    monkeypatch.setattr(engine.programs, "chunk", lambda *a, **k: (events.append("launch"), chunk(*a, **k))[1])
    monkeypatch.setattr("llmlab.engine.chunks.jax.device_get", lambda x: (events.append("read"), get(x))[1])
    run(engine, row(budget=200, ignore_ends=True))
    assert events[:5] == ["launch", "launch", "read", "launch", "read"]
    # Nothing is launched for rows that are known to end, and all that was launched was read.
    assert events.count("launch") == events.count("read") and events[-2:] == ["read", "read"]
    engine.close()


def test_a_released_row_gets_nothing_and_its_slot_is_anothers(pinned):
    rows = [row(seed=seed, budget=60, ignore_ends=True) for seed in range(9)]
    expected = run(pinned, *rows)[0]
    batch, found = batch_in(pinned), {}
    jobs = put(batch, *rows[:8])
    more(batch, found, seconds=SHORT)
    assert batch.in_flight and batch.release(jobs[3], {0}) == 1
    before = list(found[jobs[3]])
    [late] = put(batch, rows[8])
    assert batch._live[3].job is late
    whole(batch, found, seconds=SHORT)
    assert found[jobs[3]] == before
    assert [found[job] for job in [*jobs[:3], *jobs[4:], late]] == [*expected[:3], *expected[4:]]


def test_a_chunk_of_rows_that_nobody_wants_is_dropped(pinned):
    batch, found = batch_in(pinned), {}
    [job] = put(batch, row(budget=60, ignore_ends=True))
    more(batch, found, seconds=SHORT)
    batch.release(job, {0})
    assert not batch.in_flight
    [other] = put(batch, row(budget=9, ignore_ends=True))
    whole(batch, found)
    assert found[other] == run(pinned, row(budget=9, ignore_ends=True))[0][0]


def test_rows_that_move_to_another_width_meanwhile(free):
    """The width, and with it the last bits, is another at other tokens; what is most likely by far is not."""
    rows = [row(f"{seed}", budget=budget, ignore_ends=True, temperature=0.0) for seed, budget in enumerate((6, 6, 70))]
    expected = [run(free, one)[0][0] for one in rows]
    batch, found = batch_in(free, widths=(1, 8), lengths=(128,)), {}
    jobs = put(batch, *rows)
    while len(batch.live) > 1:
        more(batch, found, seconds=SHORT)
    assert batch.in_flight
    batch.narrow()
    [late] = put(batch, rows[0])  # and back
    whole(batch, found, seconds=SHORT)
    assert [found[job] for job in [*jobs, late]] == [*expected, expected[0]]


def test_a_cache_that_must_grow_is_waited_for(free):
    batch, found = batch_in(free, widths=(8,), lengths=(128, 256)), {}
    [job] = put(batch, row("x" * 100, budget=100, ignore_ends=True, temperature=0.0))
    grown = None
    while batch.live:
        flew, length = batch.in_flight, batch._slots.length
        more(batch, found, seconds=SHORT)
        if batch._slots is not None and batch._slots.length > length:
            grown = flew, length, len(found[job])
    assert grown[:2] == (False, 128) and 100 + grown[2] <= 130
    assert found[job] == run(free, job.rows[0])[0][0]


def test_a_chunk_that_fails_while_another_is_read(pinned, monkeypatch):
    expected = run(pinned, row(budget=150, ignore_ends=True))
    chunk, calls = pinned.programs.chunk, []

    def third_fails(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("no such luck")
        return chunk(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pinned.programs, "chunk", third_fails)
        with pytest.raises(EngineError, match="no such luck"):
            run(pinned, row(budget=150, ignore_ends=True))
    assert not any(batch.in_flight for batch in pinned._lanes._chunked)
    same(run(pinned, row(budget=150, ignore_ends=True)), expected)


def test_rows_that_come_while_one_is_in_flight(pinned):
    """None is launched ahead of them, and a prompt is read once the device is free."""
    stream = pinned.submit([row(budget=400, ignore_ends=True)])
    blocks, others = iter(stream), []
    first = next(blocks)
    for seed in range(12):
        others.append(run(pinned, row(f"{seed}" * 40, budget=5, ignore_ends=True))[0][0])
    tokens = read([first, *blocks], 1)[0]
    assert tokens == run(pinned, row(budget=400, ignore_ends=True))[0]
    assert others == [run(pinned, row(f"{seed}" * 40, budget=5, ignore_ends=True))[0][0] for seed in range(12)]
    assert np.all([len(made) == 5 for made in others])
