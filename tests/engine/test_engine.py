"""Rows in slots: they join, leave, are cancelled and fail without touching one another."""

import gc
import threading

import numpy as np
import pytest

from llmlab.engine import engine as engine_module
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import PATIENCE, Job, Scheduler
from llmlab.errors import EngineError
from llmlab.models.families import cache_bytes
from tests.engine.rows import END, read, row, run


def test_a_row_ends_at_its_budget_or_at_an_end_token(free):
    tokens, _, finish = run(free, *(row(seed=seed, budget=60) for seed in range(30)))
    for made, reason in zip(tokens, finish, strict=True):
        assert END not in made[:-1]
        assert reason == ("stop" if made[-1] == END else "length")
        assert len(made) == 60 or reason == "stop"
    assert set(finish) == {"stop", "length"}  # the seeds were chosen so that both happen


def test_ignored_ends_do_not_end_a_row(free):
    tokens, _, finish = run(free, *(row(seed=seed, budget=60, ignore_ends=True) for seed in range(30)))
    assert {len(made) for made in tokens} == {60}
    assert set(finish) == {"length"}
    assert any(END in made[:-1] for made in tokens)


def test_min_tokens_holds_the_end_back(free):
    tokens, _, _ = run(free, *(row(seed=seed, budget=60, min_tokens=50) for seed in range(30)))
    assert all(END not in made[:49] for made in tokens)


def test_greedy_is_the_argmax_at_every_step(free):
    (made,), _, _ = run(free, row(temperature=0.0, budget=8, ignore_ends=True))
    prompt = row().prompt
    for token in made:
        assert token == int(np.argmax(free.next_logits(prompt)))
        prompt = np.append(prompt, token).astype(np.int32)


def test_the_figures_are_those_of_the_logits(free):
    (made,), (figures,), _ = run(free, row(budget=5, ignore_ends=True, temperature=0.7))
    prompt = row().prompt
    for step, token in enumerate(made):
        logits = free.next_logits(prompt).astype(np.float64)
        raw = logits - np.logaddexp.reduce(logits)
        drawn = logits / 0.7 - np.logaddexp.reduce(logits / 0.7)
        logprob, sampling_logprob, rank, entropy = (figure[step] for figure in figures[:4])
        assert logprob == pytest.approx(raw[token], abs=1e-4)
        assert sampling_logprob == pytest.approx(drawn[token], abs=1e-4)
        assert rank == 1 + (raw > raw[token]).sum()
        assert entropy == pytest.approx(-(np.exp(raw) * raw).sum(), abs=1e-4)
        prompt = np.append(prompt, token).astype(np.int32)


def test_rows_of_one_prompt_share_its_prefill(decoder):
    engine = Engine(*decoder, ends=(END,))
    run(engine, *(row("a shared prompt", choice=i, budget=4) for i in range(40)))
    assert engine.prefills == 1
    run(engine, row("a shared prompt", budget=4), row("another", budget=4))
    assert engine.prefills == 2
    engine.close()


def test_long_prompts_are_prefilled_in_pieces(free):
    text = "abcdefghij" * 48  # nearly the whole context
    for size in (1, 2, 33, 129, 400):
        short = run(free, row(text[:size], budget=3, temperature=0.0))
        again = run(free, row(text[:size], budget=3, temperature=0.0))
        assert short[0] == again[0]
    (made,), _, finish = run(free, row(text[:480], budget=32, ignore_ends=True))
    assert len(made) == 32 and finish == ["length"]


@pytest.mark.parametrize("max_context", [1, 20, 130, 256, 300, 512])
def test_a_prompt_may_fill_the_context_whatever_its_length(decoder, free, max_context):
    engine = Engine(*decoder, ends=(END,), max_context=max_context, slots=1)
    for size in {max_context - 1, max_context * 3 // 4}:
        if size:
            prompt = row("abcdefghij" * 52).prompt[:size]
            np.testing.assert_allclose(engine.next_logits(prompt), free.next_logits(prompt), atol=1e-4)
    engine.close()


def test_a_row_that_does_not_fit_is_refused_at_once(free):
    for bad in (row("x" * 500, budget=20), row("", budget=1)):
        with pytest.raises(ValueError, match="positions|at least one"):
            free.submit([bad])
    outside = row()
    with pytest.raises(ValueError, match="vocab|0..260"):
        free.submit([outside.__class__(np.array([300], np.int32), outside.params, budget=1)])
    with pytest.raises(ValueError, match="llama.cpp"):
        free.submit([row()], order="alphabetical")


def test_no_rows_is_an_empty_ticket(free):
    assert read(free.submit([]), 0) == ([], [], [])


def test_cancelled_rows_stop_and_the_others_go_on(pinned):
    alone = run(pinned, row(seed=1, budget=80, ignore_ends=True))[0][0]
    ticket = pinned.submit([row(seed=s, budget=80, ignore_ends=True) for s in (0, 1, 2)])
    tokens = {0: [], 1: [], 2: []}
    for block in ticket:
        for piece in block:
            tokens[piece.row] += piece.tokens.tolist()
        ticket.cancel([0, 2])
    assert tokens[1] == alone
    assert len(tokens[0]) < 80 and len(tokens[2]) < 80


def test_leaving_a_ticket_early_frees_its_rows(pinned):
    for _ in range(5):  # five times eight rows: without freed slots the sixth would wait forever
        for _block in pinned.submit([row(seed=s, budget=400, ignore_ends=True) for s in range(8)]):
            break
    forgotten = pinned.submit([row(seed=9, budget=400, ignore_ends=True)])
    del forgotten
    gc.collect()
    assert len(run(pinned, row(budget=5, ignore_ends=True))[0][0]) == 5


def test_an_interrupt_while_reading_cancels(pinned):
    ticket = pinned.submit([row(seed=s, budget=400, ignore_ends=True) for s in range(8)])
    with pytest.raises(KeyboardInterrupt):
        for _block in ticket:
            raise KeyboardInterrupt
    assert len(run(pinned, row(budget=5, ignore_ends=True))[0][0]) == 5


def test_a_short_question_is_not_shut_out_by_a_long_sweep(pinned):
    sweep = pinned.submit([row(seed=s, budget=200, ignore_ends=True) for s in range(40)])
    ended = []

    def drain():
        read(sweep, 40)
        ended.append("sweep")

    reader = threading.Thread(target=drain)
    reader.start()
    run(pinned, row(budget=3))
    ended.append("question")
    reader.join()
    assert ended == ["question", "sweep"]


def test_one_clients_jobs_come_one_after_the_other_and_others_between():
    line, sweep = Scheduler(), object()
    jobs = [Job([row()] * 2, "llmlab", client=sweep) for _ in range(3)]
    question = Job([row()] * 2, "llmlab")
    for job in (*jobs, question):
        line.add(job)
    started = []
    while (first := line.first(order=None)) is not None:
        started.append(first[0])
        line.started(first[0])
    # By turns while both have rows in line, and the sweep's jobs in their order.
    assert started == [jobs[0], question, jobs[0], question, jobs[1], jobs[1], jobs[2], jobs[2]]


def test_many_threads_at_once_get_their_own_answers(pinned):
    expected = {s: run(pinned, row(f"prompt {s % 3}", seed=s))[0] for s in range(12)}
    found = {}

    def ask(seed):
        found[seed] = run(pinned, row(f"prompt {seed % 3}", seed=seed))[0]

    threads = [threading.Thread(target=ask, args=(s,)) for s in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_a_failure_reaches_every_reader_and_the_engine_goes_on(decoder, monkeypatch):
    engine = Engine(*decoder, ends=(END,), slots=8)
    before = run(engine, row())
    with monkeypatch.context() as patch:
        patch.setattr(engine.programs, "chunk", lambda *_, **__: 1 / 0)
        for _ in range(2):
            with pytest.raises(EngineError, match="ZeroDivisionError"):
                run(engine, row())
    assert run(engine, row())[0] == before[0]
    with monkeypatch.context() as patch:
        patch.setattr(
            engine.programs, "prefill", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("RESOURCE_EXHAUSTED"))
        )
        with pytest.raises(EngineError, match="out of memory"):
            run(engine, row("something new"))
    engine.close()


def test_an_idle_engine_ends_its_thread_and_wakes_again(decoder, monkeypatch):
    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.05)
    engine = Engine(*decoder, ends=(END,), slots=8)
    first = run(engine, row())
    thread = next(t for t in threading.enumerate() if t.name == "llmlab-engine" and t is engine._thread)
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert engine._lanes._batches[0]._slots is None, "the batch's memory is free"
    assert run(engine, row())[0] == first[0]
    assert engine.prefills == 1, "the prompt is still there"
    engine.close()


def test_a_row_that_does_not_fit_lets_others_pass_but_not_for_ever():
    queue = Scheduler()
    long = Job(rows=[row(budget=200)], order="llmlab")
    queue.add(long)
    short = [Job(rows=[row(budget=5)], order="llmlab") for _ in range(2 * PATIENCE)]
    for job in short:
        queue.add(job)

    def fits(one):
        return one.budget < 100

    for job in short[:PATIENCE]:
        assert queue.first(order="llmlab", fits=fits) == (job, 0)
        queue.started(job)
        queue.ended(job)
    assert queue.first(order="llmlab", fits=fits) is None, "the batch empties for the row that waits"
    assert queue.first(order="llmlab") == (long, 0)
    queue.started(long)
    assert queue.first(order="llmlab", fits=fits) == (short[PATIENCE], 0)


def test_short_rows_run_while_a_long_one_waits_for_memory(decoder, monkeypatch):
    monkeypatch.setattr(engine_module, "lane_count", lambda: 1)
    config, model = decoder
    one = cache_bytes(config, batch=1, length=1, dtype=np.float32)
    engine = Engine(config, model, ends=(END,), memory=one * 128 * 9, max_context=256)  # 8 rows of 128, or 1 of 256
    first = iter(engine.submit([row(choice=i, budget=100, ignore_ends=True) for i in range(2)]))
    next(first)
    long = engine.submit([row("x", budget=200, ignore_ends=True)])
    (made,), _, _ = run(engine, row("y", budget=3, ignore_ends=True))
    assert len(made) == 3 and long._job.passed == 1 and long._job.results.empty()
    assert [len(tokens) for tokens in read(list(long), 1)[0]] == [200]
    engine.close()


def test_a_closed_engine_says_so(decoder):
    engine = Engine(*decoder, ends=(END,))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.submit([row()])


@pytest.mark.slow
def test_a_batch_that_does_not_fit_the_memory_waits(decoder):
    config, model = decoder
    one = cache_bytes(config, batch=1, length=1, dtype=np.float32)
    engine = Engine(config, model, ends=(END,), memory=one * 512 * 17)  # 8 rows of 512 positions, or 32 of 256
    tokens, _, _ = run(engine, *(row(choice=i, budget=400, ignore_ends=True) for i in range(20)))
    assert {len(made) for made in tokens} == {400}
    assert ("decode", 8, 512, "llmlab") in engine.programs._met
    # Short rows may be many; a long one that joins them must wait until the batch is narrow enough.
    short = engine.submit([row(choice=i, budget=100 + 5 * i, ignore_ends=True) for i in range(20)])
    blocks = iter(short)
    made = sum(len(piece.tokens) for piece in next(blocks))
    assert run(engine, row(budget=400, ignore_ends=True))[0] == tokens[:1]
    made += sum(len(piece.tokens) for block in blocks for piece in block)
    assert made == sum(100 + 5 * i for i in range(20))
    assert ("decode", 32, 256, "llmlab") in engine.programs._met
    assert ("decode", 32, 512, "llmlab") not in engine.programs._met
    engine.close()


def test_many_rows_run_in_two_lanes_and_share_one_prefill(free):
    """What they say is what they would say in one batch: `test_seeds` compares 40 rows with eight pinned slots."""
    rows = [row("A prompt of its own", choice=i, budget=200 + i % 5, ignore_ends=True) for i in range(40)]
    before = free.prefills
    blocks = iter(free.submit(rows))
    first = next(blocks)
    busy = [len(batch.live) for batch in free._lanes._chunked]
    tokens, _, finish = read([first, *blocks], len(rows))
    assert busy == [40 // len(busy)] * len(busy)
    assert free.prefills - before == 1
    assert [len(made) for made in tokens] == [one.budget for one in rows]
    assert set(finish) == {"length"}


def test_an_error_in_one_lane_leaves_an_engine_that_works(free, monkeypatch):
    wide = [row(choice=i, budget=300, ignore_ends=True) for i in range(40)]
    ticket = free.submit(wide)
    blocks = iter(ticket)
    next(blocks)

    def broken(**options):
        raise RuntimeError("no such luck")

    with monkeypatch.context() as patch:
        patch.setattr(free._lanes._chunked[-1], "run", broken)
        with pytest.raises(EngineError, match="no such luck"):
            list(blocks)
    assert len(run(free, row(budget=5, ignore_ends=True))[0][0]) == 5
