"""Rows with grammars beside rows without: every row keeps its own law, and a failure stays with its ticket."""

import dataclasses
import json

import numpy as np
import pytest

from llmlab.engine.engine import Engine
from llmlab.errors import EngineError
from llmlab.grammar.compose import JSON, Text, grammar
from llmlab.grammar.vocabulary import Vocabulary
from tests.engine.rows import END, read, row, run
from tests.engine.test_seeds import close_draw, same

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


def assert_agree(engine, one, made, other):
    """The same tokens, or a draw that was close where they part."""
    first = next((t for t, (a, b) in enumerate(zip(made, other, strict=False)) if a != b), None)
    if first is not None:
        margin = close_draw(engine, one, made[:first], made[first], other[first])
        print(f"a row differs at {first}: the perturbed logits lie {margin:.1e} apart")
        assert margin < 1e-3
    else:
        assert len(made) == len(other)


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
    """Their program is another one while a grammar is in the batch: logits agree to 1e-4, a close draw may differ."""
    free = [row(seed=seed, temperature=0.8, top_p=0.95, budget=50) for seed in range(4)]
    fixed, ours, _ = run(pinned, *free)
    ticket = pinned.submit([under(numbers, seed=seed) for seed in range(3)])
    mixed, theirs, _ = run(pinned, *free)
    read(ticket, 3)
    for i, one in enumerate(free):
        assert_agree(pinned, one, fixed[i], mixed[i])
        upto = len(fixed[i]) if fixed[i] == mixed[i] else 0
        np.testing.assert_allclose(ours[i][0][:upto], theirs[i][0][:upto], atol=1e-4)


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
    assert found[0][0] == expected[0][0] and found[2] == expected[2]
    assert_agree(pinned, rows[1], expected[0][1], found[0][1])
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
