"""What is read between two chunks: the planner by a clock of its own, and the order of an engine's calls."""

from __future__ import annotations

import numpy as np
import pytest

from llmlab.engine.engine import Engine
from llmlab.engine.planner import READ_SECONDS, Planner, Shares
from tests.engine.rows import END, read, row, run


def gaps(planner, *, chunk, piece, pieces, others=True):
    """The seconds from each chunk's end to the next one's while so many pieces are waiting to be read."""
    found = []
    while pieces:
        planner.chunk_done(chunk)
        spent = 0.0
        while pieces and planner.may_read("shape", others=others):
            planner.piece_done("shape", piece)
            spent, pieces = spent + piece, pieces - 1
        found.append(spent + chunk)
    return found


@pytest.mark.parametrize("chunk", [0.005, 0.03, 0.1])
@pytest.mark.parametrize("piece", [0.001, 0.004, 0.04])
def test_a_streams_gaps_at_most_double_or_hold_one_piece(chunk, piece):
    found = gaps(Planner(), chunk=chunk, piece=piece, pieces=400)
    assert max(found) <= chunk + max(chunk, piece) + 1e-9
    # Nor is the reading slower than that asks for, once a piece's time is known.
    assert np.mean(found[1:-1]) >= chunk + max(min(chunk, READ_SECONDS) - piece, piece) - 1e-9


def test_a_slow_chunk_is_no_licence_to_read_for_long():
    assert max(gaps(Planner(), chunk=5.0, piece=0.01, pieces=100)) <= 5 + READ_SECONDS + 1e-9


def test_a_clients_own_prompts_are_read_at_once():
    assert len(gaps(Planner(), chunk=0.01, piece=1.0, pieces=20, others=False)) == 1


def test_a_piece_that_compiled_is_not_taken_for_the_rule():
    planner = Planner()
    gaps(planner, chunk=0.1, piece=30.0, pieces=1)
    gaps(planner, chunk=0.1, piece=0.01, pieces=1)
    assert len(gaps(planner, chunk=0.1, piece=0.01, pieces=30)) <= 4


def test_nothing_to_decode_leaves_messages_their_turn():
    assert max(gaps(Planner(), chunk=0.0, piece=0.01, pieces=5)) == pytest.approx(0.01)
    planner = Planner()
    planner.piece_done("shape", 0.01)
    planner.chunk_done(None)
    read = 0
    while planner.may_read("shape", others=True):
        planner.piece_done("shape", 0.01)
        read += 1
    assert read == pytest.approx(READ_SECONDS / 0.01, abs=1)


def shared(*, chunk, steps, step, turns=200):
    """The steps and the seconds of both kinds of rows, by turns, where a step with masks takes `step` seconds."""
    shares, made, took = Shares(), 0, 0.0
    for _ in range(turns):
        burst = shares.chunk_done(steps, chunk)
        if burst is None:
            continue
        spent, count = step, 1
        while count < burst.steps and spent < burst.seconds:
            spent, count = spent + step, count + 1
        shares.burst_done(spent)
        made, took = made + count, took + spent
    return made / (steps * turns), took / (chunk * turns)


@pytest.mark.parametrize("chunk", [0.004, 0.05, 0.2])
@pytest.mark.parametrize("steps", [1, 5, 32])
@pytest.mark.parametrize("slower", [0.2, 1.0, 3.0, 70.0])
def test_rows_with_grammars_get_as_many_steps_as_others_but_no_more_time(chunk, steps, slower):
    step = slower * chunk / steps
    of_steps, of_time = shared(chunk=chunk, steps=steps, step=step)
    assert of_steps <= 1 + 1e-9 and of_time <= 1 + step / chunk / 200 + 1e-9
    # Nor less than one of the two allows, but for the steps that do not fit evenly.
    assert of_steps == pytest.approx(1) or of_time > 0.5


def test_time_alone_is_no_credit():
    shares = Shares()
    shares.chunk_done(1, 0.1)
    shares.burst_done(5.0)
    assert shares.chunk_done(1, 0.1) is None
    shares.alone()
    assert shares.chunk_done(3, 0.1) == (3, 0.1)
    for _ in range(9):
        burst = shares.chunk_done(3, 0.1)
    assert burst == (3, 0.1)


@pytest.fixture
def noted(decoder, monkeypatch):
    """An engine, and the names of its calls in their order; no piece is known to fit between two chunks but the one.

    A chunk has a single step, so that a stream has many, however quick the machine is.
    """
    monkeypatch.setattr("llmlab.engine.planner.READ_SECONDS", 0.0)
    monkeypatch.setattr("llmlab.engine.lanes.CHUNK_SECONDS", 0.0)
    engine = Engine(*decoder, ends=(END,), slots=8)
    calls = []
    for name in ("prefill", "chunk", "forward"):
        function = getattr(engine.programs, name)

        def call(*args, function=function, name=name, **options):
            calls.append(name)
            return function(*args, **options)

        monkeypatch.setattr(engine.programs, name, call)
    yield engine, calls
    engine.close()


def test_prompts_of_others_are_read_between_the_chunks_of_a_stream(noted):
    engine, calls = noted
    stream = iter(engine.submit([row("a stream", budget=480, ignore_ends=True)]))
    next(stream)
    texts = [f"{i}" * 300 for i in range(4)]
    tickets = [engine.submit([row(text, budget=3, ignore_ends=True)]) for text in texts]
    made = [read(ticket, 1)[0][0] for ticket in tickets]
    rest = sum(len(piece.tokens) for block in stream for piece in block)
    while_it_ran = "".join(name[0] for name in calls[: len(calls) - calls[::-1].index("chunk")])
    assert while_it_ran.count("p") >= 4 * 4, "12 pieces a prompt: two of 128 and two of 32"
    assert "pp" not in while_it_ran.strip("p"), while_it_ran
    assert rest > 0 and made == [run(engine, row(text, budget=3, ignore_ends=True))[0][0] for text in texts]


def test_a_clients_own_prompts_come_first(noted):
    """Of one submission, and of several that belong together."""
    engine, calls = noted
    tokens, _, _ = run(engine, *[row(f"{i}" * 200, budget=4, ignore_ends=True) for i in range(3)])
    assert [len(made) for made in tokens] == [4] * 3
    assert "".join(name[0] for name in calls).startswith("p" * (3 * 4 - 1))


def test_a_prompt_that_is_being_read_can_be_cancelled(noted):
    engine, calls = noted
    stream = iter(engine.submit([row("a stream", budget=490, ignore_ends=True)]))
    next(stream)
    ticket = engine.submit([row("x" * 400, budget=3), row("y" * 400, budget=3)])
    while "prefill" not in calls[calls.index("chunk") :]:
        next(stream)
    ticket.cancel()
    assert read(ticket, 2)[0] == [[], []]
    assert len(run(engine, row("and then", budget=5, ignore_ends=True))[0][0]) == 5
    assert not any(node.uses for node in engine._lanes.prompts.store)
    assert calls.count("prefill") < 8
    list(stream)


def test_a_stream_that_ends_while_a_prompt_is_read(decoder, monkeypatch):
    """The prompt was begun for a long batch and gets a short one; its row says what it says alone."""
    monkeypatch.setattr("llmlab.engine.planner.READ_SECONDS", 0.0)
    engine = Engine(*decoder, ends=(END,))
    expected = run(engine, row("z" * 100, budget=9, ignore_ends=True))[0]
    engine._call(engine._lanes.prompts.clear)
    long = engine.submit([row("x" * 300, budget=40, ignore_ends=True)])
    blocks = iter(long)
    next(blocks)
    ticket = engine.submit([row("z" * 100, budget=9, ignore_ends=True)])
    long.cancel()
    assert read(ticket, 1)[0] == expected
    engine.close()
