"""Rows with grammars beside rows without: every row keeps its tokens, and a failure stays with its ticket."""

import dataclasses
import json

import numpy as np
import pytest

from llmlab.engine import engine as engine_module
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import PATIENCE
from llmlab.errors import EngineError
from llmlab.grammar.compose import JSON, Text, grammar
from llmlab.grammar.vocabulary import Vocabulary
from llmlab.models.families import cache_bytes
from tests.engine.rows import END, read, row, run
from tests.engine.test_memory import watched
from tests.engine.test_seeds import same

BYTES = [bytes([i]) for i in range(256)]
LIST = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 1, "maxItems": 20}


@pytest.fixture(scope="module")
def words(decoder):
    return Vocabulary(BYTES, size=decoder[0].vocab_size, ends=(END,))


@pytest.fixture(scope="module")
def numbers(words):
    return grammar(words, JSON(LIST))


def under(compiled, *, seed=11, budget=80, **fields):
    one = row(seed=seed, budget=budget, **fields)
    return dataclasses.replace(one, grammar=compiled)


def spelled(tokens):
    return bytes(token for token in tokens if token < 256).decode()


def test_rows_follow_their_grammars_and_end(pinned, numbers):
    rows = [under(numbers, seed=seed, temperature=1.5) for seed in range(12)]
    tokens, figures, finish = run(pinned, *rows)
    for made, values, reason in zip(tokens, figures, finish, strict=True):
        if reason == "stop":
            assert made[-1] == END and 1 <= len(json.loads(spelled(made))) <= 20
        kept, sampling = values[6], values[1]
        assert (kept <= 14).all() and (kept >= 1).all() and np.isfinite(sampling).all()
    assert finish.count("stop") >= 8
    for i, one in enumerate(rows[:3]):
        same(run(pinned, one), ([tokens[i]], [figures[i]]))


def test_rows_without_a_grammar_keep_their_tokens(pinned, numbers):
    """And rows with one keep theirs, to the bit: alone, and beside rows of the other kind, streamed or not."""
    plain = [row(seed=seed, temperature=0.8, top_p=0.95, budget=50) for seed in range(4)]
    bound = [under(numbers, seed=seed) for seed in range(3)]
    plain_alone, bound_alone = run(pinned, *plain), run(pinned, *bound)
    ticket = pinned.submit(bound)
    same(run(pinned, *plain), plain_alone)
    same(read(ticket, 3), bound_alone)
    one = iter(pinned.submit(plain[:1]))
    first = next(one)
    same(run(pinned, *bound), bound_alone)
    same(read([first, *one], 1), ([plain_alone[0][0]], [plain_alone[1][0]]))
    both = run(pinned, *plain, *bound)
    same((both[0][:4], both[1][:4]), plain_alone)
    same((both[0][4:], both[1][4:]), bound_alone)


def test_a_row_with_a_grammar_leaves_other_rows_their_chunks(decoder, numbers, monkeypatch):
    """On a device that runs one program at a time: as many steps as the chunk had, and no step of the others alone."""
    monkeypatch.setattr(engine_module, "lane_count", lambda: 1)
    engine = Engine(*decoder, ends=(END,), slots=4)
    expected = run(engine, row(budget=150, ignore_ends=True)), run(engine, under(numbers, seed=5))
    calls, chunk, sample = [], engine.programs.chunk, engine.programs.sample

    def noted_chunk(slots, steps, **options):
        calls.append(steps)
        return chunk(slots, steps, **options)

    def noted_sample(*args, **options):
        calls.append("s")
        return sample(*args, **options)

    monkeypatch.setattr(engine.programs, "chunk", noted_chunk)
    monkeypatch.setattr(engine.programs, "sample", noted_sample)
    stream = engine.submit([row(budget=150, ignore_ends=True)])
    same(run(engine, under(numbers, seed=5)), expected[1])
    same(read(stream, 1), expected[0])
    chunks = [call for call in calls if call != "s"]
    assert sum(chunks) >= 150 and max(chunks) > 1
    had = 0
    for call in calls[calls.index("s") - 1 : len(calls) - calls[::-1].index("s")]:
        had = had - 1 if call == "s" else call
        assert had >= 0, calls
    engine.close()


def test_both_kinds_where_memory_holds_one_pinned_batch(decoder, numbers, monkeypatch):
    """They take turns, whichever keeps coming, and the memory is kept to."""
    config, model = decoder
    memory = cache_bytes(config, batch=5, length=512, dtype=np.float32)
    engine = Engine(config, model, ends=(END,), slots=4, memory=memory)
    sizes = watched(engine, config, monkeypatch)
    expected = run(engine, row(budget=20)), run(engine, under(numbers))
    plain = [engine.submit([row(budget=20)]) for _ in range(PATIENCE + 8)]
    bound = [engine.submit([under(numbers)]) for _ in range(3)]
    plain += [engine.submit([row(budget=20)]) for _ in range(PATIENCE + 8)]
    for ticket in bound:
        same(read(ticket, 1), expected[1])
    for ticket in plain:
        same(read(ticket, 1), expected[0])
    assert max(sizes) == cache_bytes(config, batch=4, length=512, dtype=np.float32)
    engine.close()


@pytest.mark.parametrize("order", ["vllm", "sglang", "llama.cpp"])
def test_in_every_order(pinned, words, order):
    only = grammar(words, Text("yes, indeed"))
    (made,), _, finish = run(pinned, under(only, temperature=2.0), order=order)
    assert spelled(made) == "yes, indeed" and finish == ["stop"]


@pytest.mark.parametrize("fields", [{"ignore_ends": True}, {"min_tokens": 30}])
def test_a_complete_grammar_wins_over_an_end_that_may_not_come(pinned, words, fields):
    only = grammar(words, Text("done"))
    (made,), _, finish = run(pinned, under(only, **fields))
    assert spelled(made) == "done" and len(made) == 4 and finish == ["stop"]
    # A number may go on, and does while it must not end.
    digits = grammar(words, JSON({"type": "integer", "minimum": 0}))
    (made,), _, finish = run(pinned, under(digits, **fields))
    assert 0 <= int(spelled(made)) < 2**53 and finish == ["stop"] and END not in made


def test_a_bias_against_everything_allowed(pinned, words):
    only = grammar(words, Text("no way out"))
    barred = dict.fromkeys(range(END + 1), -100.0)
    for temperature in (0.0, 1.0):
        (made,), (figures,), finish = run(pinned, under(only, logit_bias=barred, temperature=temperature))
        assert spelled(made) == "no way out" and finish == ["stop"]
        assert np.isfinite(figures[1]).all() and (figures[6] == 1).all()


def test_a_grammar_that_fails_ends_its_own_ticket_alone(pinned, decoder, numbers):
    """A vocabulary without "z" comes to a point where nothing can come next; the row beside it never hears of it."""
    tokens = [None if byte == b"z" else byte for byte in BYTES]
    poor = Vocabulary(tokens, size=decoder[0].vocab_size, ends=(END,))
    rows = [under(numbers, seed=3), row(seed=4, budget=30)]
    expected = run(pinned, *rows)
    healthy = pinned.submit(rows)
    failing = pinned.submit([under(grammar(poor, Text("abz")), seed=seed) for seed in (1, 2)])
    with pytest.raises(EngineError, match="grammar") as caught:
        read(failing, 2)
    assert (caught.value.status, caught.value.code) == (400, "grammar_failed")
    found = read(healthy, 2)
    same(found, expected)
    with pytest.raises(EngineError, match="grammar"):
        run(pinned, under(grammar(poor, Text("z"))))
    same(run(pinned, rows[0])[:2], (expected[0][:1], expected[1][:1]))


def test_rows_leave_and_join_while_others_go_step_by_step(decoder, words, numbers):
    engine = Engine(*decoder, ends=(END,))
    long = under(grammar(words, JSON({"type": "string", "minLength": 150})), budget=120, ignore_ends=True)
    ticket = engine.submit([long, dataclasses.replace(long, params=dataclasses.replace(long.params, seed=5))])
    blocks = iter(ticket)
    made = [sum(len(piece.tokens) for piece in next(blocks))]
    ticket.cancel([1])
    joined = engine.submit([under(numbers, seed=seed) for seed in range(9)])  # another width
    assert set(read(joined, 9)[2]) <= {"stop", "length"}
    left = [piece for block in blocks for piece in block]
    assert {piece.row for piece in left} == {0} and left[-1].finish == "length"
    assert sum(len(piece.tokens) for piece in left) >= 120 - made[0]
    engine.close()


def test_many_grammars_beside_many_free_rows(free, words, numbers):
    """More rows than one lane takes."""
    both = [under(numbers, seed=s) for s in range(20)] + [row(seed=s, budget=40) for s in range(30)]
    tokens, _, finish = run(free, *both)
    for made, reason in zip(tokens[:20], finish, strict=False):
        assert reason != "stop" or 1 <= len(json.loads(spelled(made))) <= 20
    assert all(0 < len(made) <= 40 for made in tokens[20:])
