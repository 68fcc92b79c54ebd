"""What goes wrong while rows are under way: every ticket hears of it, and the engine goes on."""

import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Job, Scheduler
from llmlab.errors import EngineError
from tests.engine.rows import END, read, row, run
from tests.engine.test_seeds import same


class Panic(BaseException):
    """As a library written in Rust raises one: no Exception."""


@pytest.mark.parametrize("error", [Panic("at the disco"), MemoryError("no more"), SystemExit(3)])
def test_whatever_a_program_raises_the_readers_hear_of_it(pinned, monkeypatch, error):
    expected = run(pinned, row())

    def broken(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(pinned.programs, "chunk", broken)
        tickets = [pinned.submit([row(seed=seed)]) for seed in range(3)]
        for ticket in tickets:
            with pytest.raises(EngineError, match=type(error).__name__):
                read(ticket, 1)
    same(run(pinned, row()), expected)


def test_a_row_that_cannot_join_leaves_the_others_alone(pinned, monkeypatch):
    rows = [row("A long way", seed=seed, budget=150, ignore_ends=True) for seed in range(3)]
    expected = run(pinned, *rows)
    ticket = pinned.submit(rows)
    blocks = iter(ticket)
    first = next(blocks)
    prefill = pinned.programs.prefill

    def narrow_minded(cache, tokens, start, **others):
        if tokens[0, 0] == ord("!"):
            raise RuntimeError("not this one")
        return prefill(cache, tokens, start, **others)

    monkeypatch.setattr(pinned.programs, "prefill", narrow_minded)
    bad = pinned.submit([row("!!", budget=3), row("! and another", budget=3)])
    good = pinned.submit([row("fine", budget=3, ignore_ends=True)])
    with pytest.raises(EngineError, match="not this one"):
        read(bad, 2)
    assert len(read(good, 1)[0][0]) == 3
    same(read([first, *blocks], 3), expected)
    assert not pinned._queue._jobs and not pinned._queue._running


def test_logits_that_are_not_numbers_are_an_error_of_their_own_rows(decoder):
    """A model whose numbers overflow (float16) must not answer with whatever token comes last."""
    config, model = decoder
    graph, weights = nnx.split(model)
    weights = jax.tree.map(lambda x: jnp.array(x), weights)
    sick = nnx.merge(graph, weights)
    sick.embedding[...] = sick.embedding[...].at[ord("?")].set(jnp.nan)
    engine = Engine(config, sick, ends=(END,), slots=4)
    # The output matrix is the embedding: no row's logits are all numbers.
    with pytest.raises(EngineError, match="not numbers"):
        run(engine, row("abc"))
    engine.close()


def test_a_ticket_that_was_read_to_its_end_has_nothing_more(pinned):
    ticket = pinned.submit([row(budget=3)])
    assert read(ticket, 1)[0][0]
    assert list(ticket) == []
    ticket.cancel()
    assert list(ticket) == []
    forgotten = pinned.submit([row(budget=300, ignore_ends=True)])
    forgotten.cancel()
    for _ in range(2):
        assert sum(len(piece.tokens) for block in forgotten for piece in block) == 0


def test_an_engine_that_is_closed_tells_every_reader(decoder):
    engine = Engine(*decoder, ends=(END,), slots=2)
    tickets = [engine.submit([row(seed=seed, budget=400, ignore_ends=True)]) for seed in range(4)]
    reached, told = threading.Event(), []

    def wait(ticket):
        try:
            for _ in ticket:
                reached.set()
        except EngineError as error:
            told.append(str(error))

    readers = [threading.Thread(target=wait, args=(ticket,)) for ticket in tickets]
    for reader in readers:
        reader.start()
    reached.wait(timeout=60)
    engine.close()
    for reader in readers:
        reader.join(timeout=60)
        assert not reader.is_alive()
    assert told and all("closed" in message for message in told)
    assert not any(thread is engine._thread for thread in threading.enumerate())


def test_rows_of_another_order_are_not_shut_out_by_those_that_keep_coming():
    line = Scheduler()
    first, other, later = (Job([row()] * 2, order) for order in ("llmlab", "vllm", "llmlab"))
    for job in (first, other, later):
        line.add(job)
    started = []
    while (found := line.first(order="llmlab")) is not None:
        started.append(found[0])
        line.started(found[0])
    assert started.count(first) == 2 and later.waiting  # now the batch runs empty
    for job in started:
        line.ended(job)
    assert line.first(order=None) == (other, 0)


def test_a_budget_of_nothing_is_refused(pinned):
    with pytest.raises(ValueError, match="budget"):
        pinned.submit([row(budget=0)])


def test_a_forked_process_is_told_and_does_not_wait_forever(tmp_path):
    code = """
import os, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import jax.numpy as jnp
from llmlab.checkpoints.load import load_model
from llmlab.engine.engine import Engine
from llmlab.errors import EngineError
from llmlab.testing import tiny_checkpoint
from tests.engine.rows import row
engine = Engine(*load_model(tiny_checkpoint(Path(sys.argv[1])), dtype=jnp.float32), slots=1)
if (child := os.fork()) == 0:
    try:
        engine.submit([row()])
    except EngineError as error:
        os._exit(7 if "fork" in str(error) else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
engine.close()
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tiny")], cwd=root, timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_nothing_is_left_behind(pinned):
    """Threads, jobs and prompts after several hundred requests, some of them left early."""
    run(pinned, row())
    threads = threading.active_count()
    for turn in range(60):
        tickets = [pinned.submit([row(f"prompt {turn} {i}", budget=2)]) for i in range(5)]
        tickets.pop().cancel()
        for ticket in tickets:
            read(ticket, 1)
    assert threading.active_count() <= threads
    assert not pinned._queue._jobs and not pinned._queue._running and not pinned._lanes.live
    assert not any(node.uses for node in pinned._lanes.prompts.store)
    assert np.isfinite(run(pinned, row())[1][0][0]).all()
