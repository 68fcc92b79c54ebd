"""States of the sampler's stages where rows are decoded, admitted, moved, guessed and scored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llmlab.engine.chunks import ChunkedBatch
from llmlab.engine.engine import Engine
from llmlab.errors import RequestError
from llmlab.sampling.logprobs import TokenStatistics
from tests.engine.rows import END, read, row, run
from tests.engine.test_recompilation import compiled
from tests.engine.test_sharing import alike

FIELDS = TokenStatistics._fields
SETTINGS = [
    {"mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.5},
    {"mirostat": 2, "mirostat_tau": 6.5, "mirostat_eta": 0.05},
    {"adaptive_target": 0.3, "adaptive_decay": 0.7},
    {},
]
pytestmark = pytest.mark.usefixtures("few_widths")


@pytest.fixture(scope="module")
def engine(decoder, few_widths):
    engine = Engine(*decoder, ends=(END,), max_context=128)
    yield engine
    engine.close()


def rows(prompt="abc abc abd abc abc ab", budget=60):
    return [
        row(prompt, choice=i, budget=budget, ignore_ends=True, temperature=0.8, extra=each)
        for i, each in enumerate(SETTINGS)
    ]


ORDER = "llmlab + mirostat + adaptive_p"


def kept(found, at=0):
    return found[1][at][FIELDS.index("kept")]


def test_the_limit_follows_what_was_drawn(engine):
    """Mirostat 2 in float64 along the engine's own tokens and logits."""
    for settings in SETTINGS[:2]:
        asked = replace(rows()[0], params=rows()[0].params.changed(**settings))
        found = run(engine, asked)
        logits = np.concatenate(list(engine.logits(asked, np.array(found[0][0], np.int32)))).astype(np.float64)
        limit, close = 2 * settings["mirostat_tau"], 0
        for now, token, count in zip(logits / 0.8, found[0][0], kept(found), strict=True):
            surprise = -(now - np.logaddexp.reduce(now)) / np.log(2)
            left = (surprise <= limit) | (np.arange(len(now)) == now.argmax())
            close += np.abs(surprise - limit).min() < 1e-3
            assert left[token] and abs(left.sum() - count) <= (np.abs(surprise - limit) < 1e-3).sum()
            own = -(now[token] - np.logaddexp.reduce(now[left])) / np.log(2)
            limit -= settings["mirostat_eta"] * (own - settings["mirostat_tau"])
        assert len(set(kept(found).tolist())) > 5 and close < 20


def test_rows_beside_others_in_other_widths_and_in_short_chunks_are_those_alone(engine, monkeypatch):
    asked = rows()
    alone = [run(engine, each, order=ORDER) for each in asked]
    alike(
        run(engine, *asked, order=ORDER),
        tuple(list(part) for part in zip(*[tuple(p[0] for p in one) for one in alone], strict=True)),
    )
    before = len(compiled())
    other = [replace(each, params=each.params.changed(mirostat_tau=3.0, adaptive_decay=0.2)) for each in asked]
    run(engine, *other, order=ORDER)
    assert len(compiled()) == before

    monkeypatch.setattr(ChunkedBatch, "_fitting", lambda self, seconds: 1)
    for each, whole in zip(asked[:3], alone[:3], strict=True):
        alike(run(engine, each, order=ORDER), whole)
    # Rows that come while others are there, and stay when these end.
    first = engine.submit([asked[0], replace(asked[2], budget=9)], order=ORDER)
    blocks = iter(first)
    begun = [next(blocks)]
    second = run(engine, *asked[1:3], order=ORDER)

    class Whole:
        def __iter__(self):
            return iter([*begun, *blocks])

    tokens, figures, finish = read(Whole(), 2)
    alike(([tokens[0]], [figures[0]], [finish[0]]), alone[0])
    assert tokens[1] == alone[2][0][0][:9]
    for at in (0, 1):
        alike(tuple([part[at]] for part in second), alone[at + 1])


def test_guessed_tokens_move_a_state_only_where_they_are_kept(decoder, engine):
    guessing = Engine(*decoder, ends=(END,), max_context=128, guesses=3)
    asked = rows(budget=70)
    cold = [replace(each, params=replace(each.params, temperature=0.0)) for each in asked[:2]]
    for some in (asked, cold):
        alike(run(guessing, *some, order=ORDER), run(engine, *some, order=ORDER))
    guessing.close()


def test_scored_tokens_have_the_distributions_that_they_were_drawn_from(engine):
    asked = rows(budget=90)  # more than one piece
    drawn = run(engine, *asked, order=ORDER)
    for at, each in enumerate(asked):
        tokens = np.array(drawn[0][at], np.int32)
        scored = engine.score(each, tokens, order=ORDER)
        for name in ("kept", "sampling_logprob", "sampling_entropy"):
            expected = drawn[1][at][FIELDS.index(name)]
            if name == "kept":  # a token may lie within rounding of the limit
                assert np.mean(np.asarray(scored.kept) == expected) > 0.9
            else:
                np.testing.assert_allclose(getattr(scored, name), expected, atol=2e-2)
    # The statistics before a token do not depend on what follows it, nor on where a piece ends.
    part = engine.score(asked[0], np.array(drawn[0][0][:40], np.int32), order=ORDER)
    whole = engine.score(asked[0], np.array(drawn[0][0], np.int32), order=ORDER)
    np.testing.assert_allclose(part.sampling_logprob, whole.sampling_logprob[:40], atol=1e-4)


def test_given_tokens_need_a_state(engine):
    made = np.array([97, 98], np.int32)
    for each in rows()[:2]:
        with pytest.raises(ValueError, match="need the state of the stage mirostat"):
            engine.submit([replace(each, made=made)])
        with pytest.raises(RequestError, match="state of the stage mirostat after 2 tokens is not known"):
            engine.score(replace(each, made=made), made)
    found = run(engine, replace(rows()[0], made=made, states={"mirostat": np.array([-1.0], np.float32)}, budget=5))
    assert kept(found)[0] == 1, "below 0, the most likely token alone is left"


def test_other_orders_hold_nothing_for_it(engine):
    slots = engine.programs.empty(width=1, length=128, order="llmlab + typical_p")
    assert slots.history.states is None
    held = engine.programs.empty(width=1, length=128, order=ORDER).history.states
    assert {name: x.shape for name, x in held.items()} == {"mirostat": (1,), "adaptive_p": (1,)}
