"""Rows with grammars step by step: the model's next pass is on its way while the host computes the masks."""

import pytest

from llmlab.engine.prompts import Prompts
from llmlab.engine.scheduler import Job
from llmlab.engine.steps import SteppedBatch
from llmlab.grammar.compose import JSON, grammar
from llmlab.grammar.matcher import Matcher
from llmlab.grammar.vocabulary import Vocabulary
from tests.engine.rows import END, run
from tests.engine.test_grammars import BYTES, LIST, under


@pytest.fixture(scope="module")
def numbers(decoder):
    return grammar(Vocabulary(BYTES, size=decoder[0].vocab_size, ends=(END,)), JSON(LIST | {"minItems": 9}))


def batch_in(engine, *, widths=(8,), lengths=(512,)):
    prompts = Prompts(engine.programs, lengths=lengths, memory=None)
    return SteppedBatch(engine.programs, prompts, widths=widths, lengths=lengths, memory=None, ends=(END,))


def put(batch, *rows):
    """The rows in slots, and a job for each."""
    jobs = [Job(rows=[one], order="llmlab") for one in rows]
    for job in jobs:
        batch.admit([(job, 0)], reading=batch.begin(job.rows[0]), coming=1)
    return jobs


def burst(batch, found, most):
    """Runs a burst of steps; adds the tokens of each job's row to `found` and returns how many steps there were."""
    before = sum(map(len, found.values()))
    for live, piece in batch.run(order="llmlab", most=most):
        found.setdefault(live.job, []).extend(piece.tokens.tolist())
    return sum(map(len, found.values())) - before


@pytest.fixture
def events(pinned, monkeypatch):
    """What an engine's programs and matchers do, a letter each: forward, sample, advance."""
    found = []
    for where, name in ((pinned.programs, "forward"), (pinned.programs, "sample"), (Matcher, "advance")):
        function = getattr(where, name)

        def noted(*args, function=function, name=name, **options):
            found.append(name[0])
            return function(*args, **options)

        monkeypatch.setattr(where, name, noted)
    return found


def test_the_models_next_pass_comes_before_the_token_is_read(pinned, numbers, events):
    (tokens,), _, _ = run(pinned, under(numbers, budget=20))
    assert "".join(events) == "f" + "sfa" * (len(tokens) - 1) + "s" and len(tokens) == 20


def test_a_burst_ends_where_it_is_told_to(pinned, numbers, events):
    batch, found = batch_in(pinned), {}
    put(batch, under(numbers, budget=50))
    assert burst(batch, found, 5) == 5
    asked = iter([False, False, True])
    batch.run(order="llmlab", enough=lambda: next(asked))
    # The pass that was launched last is the next burst's first: none is made twice.
    assert "".join(events) == "f" + "sfa" * 8


def test_rows_that_come_and_go_between_two_steps(pinned, numbers, events):
    rows = [under(numbers, seed=seed, budget=40) for seed in range(4)]
    expected = run(pinned, *rows)[0]
    batch, found = batch_in(pinned), {}
    jobs = put(batch, *rows[:2])
    burst(batch, found, 5)
    jobs += put(batch, rows[2])
    burst(batch, found, 1)
    batch.release(jobs[0], {0})
    del events[:]
    burst(batch, found, 3)
    assert events[0] == "s", "a row that left changes nothing for the others"
    jobs += put(batch, rows[3])
    assert batch._live[0].job is jobs[3]
    while batch.live:
        burst(batch, found, 7)
    assert found[jobs[0]] == expected[0][:6]
    assert [found[job] for job in jobs[1:]] == expected[1:]


def test_another_width_and_a_longer_cache_between_two_steps(free, numbers):
    """Both change the last bits, but not which token is by far the likeliest."""
    rows = [under(numbers, seed=seed, budget=60, temperature=0.0) for seed in range(3)]
    expected = [run(free, one)[0][0] for one in rows]
    batch, found = batch_in(free, widths=(1, 8), lengths=(32, 64, 128)), {}
    jobs = put(batch, rows[0])
    while batch.live:
        burst(batch, found, 4)
        if len(jobs) < 3:
            jobs += put(batch, rows[len(jobs)])
        if batch.live:
            batch.narrow()
    assert [found[job] for job in jobs] == expected
