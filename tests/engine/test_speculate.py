"""Tokens that were guessed are the tokens that decoding one by one gives, whatever is guessed."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.checkpoints.load import load_model
from llmlab.engine import speculate
from llmlab.engine.engine import Engine
from llmlab.engine.speculate import guesses
from llmlab.testing import tiny_checkpoint
from tests.engine.rows import END, row, run
from tests.engine.test_sharing import alike, choices

#: A text that repeats itself, with the row's own settings: greedy, drawn, penalised, cut and held back.
SETTINGS = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_k": 4},
    {"temperature": 0.9, "frequency_penalty": 0.7, "repetition_penalty": 1.3},
    {"temperature": 1.5, "min_tokens": 30, "stop_token_ids": tuple(range(97, 123))},
]

pytestmark = pytest.mark.usefixtures("few_widths")


@pytest.fixture(scope="module")
def plain(decoder, few_widths):
    engine = Engine(*decoder, ends=(END,), max_context=128)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def guessing(decoder, few_widths):
    engine = Engine(*decoder, ends=(END,), max_context=128, guesses=3)
    yield engine
    engine.close()


def rows(budget=60, prompt="abc abc abd abc abc ab", **options):
    return [row(prompt, choice=i, budget=budget, **{**each, **options}) for i, each in enumerate(SETTINGS)]


def passes(engine, *asked):
    """Of each row: the guesses that were read, those that were right, and its tokens."""
    counts = np.zeros((len(asked), 3), int)
    for block in engine.submit(asked):
        for piece in block:
            if piece.guessed is not None:
                offered, accepted = piece.guessed.offered.sum(), piece.guessed.accepted.sum()
                counts[piece.row] += (offered, accepted, len(piece.tokens))
    return counts


def test_the_guess_is_what_followed_the_last_two_tokens():
    rng = np.random.default_rng(0)
    text = rng.integers(0, 3, (300, 12)).astype(np.int32)
    position = rng.integers(0, 12, 300).astype(np.int32)
    found = np.asarray(guesses(jnp.asarray(text), jnp.asarray(position), count=3))
    for each, at, guessed in zip(text, position, found, strict=True):
        after = max((i for i in range(1, at) if (each[i - 1 : i + 1] == each[at - 1 : at + 1]).all()), default=at)
        assert guessed.tolist() == [int(each[i]) if i <= at else -1 for i in range(after + 1, after + 4)]
    assert (found >= 0).any() and (found < 0).any()


def test_the_tokens_are_those_of_decoding_one_by_one(plain, guessing):
    """Alone and together, up to an end token, a budget and the end of the context."""
    for asked in ([rows()[0]], [rows()[1]], rows(), rows(budget=106, ignore_ends=True)):
        alike(run(guessing, *asked), run(plain, *asked))
    offered, accepted, made = passes(guessing, *rows(ignore_ends=True)).T
    assert (accepted <= offered).all() and (offered > 0).all() and (made <= 60).all()
    assert accepted[0] > 20, "a greedy text that repeats itself is guessed"


@pytest.mark.parametrize("wrong", ["never", "always the same", "beyond the vocabulary"])
def test_it_does_not_matter_what_is_guessed(decoder, plain, monkeypatch, wrong):
    def guess(text, position, *, count):
        value = {"never": -1, "always the same": 101, "beyond the vocabulary": 10**6}[wrong]
        return jnp.full((text.shape[0], count), value, jnp.int32)

    monkeypatch.setattr(speculate, "guesses", guess)
    engine = Engine(*decoder, ends=(END,), max_context=128, guesses=2)
    alike(run(engine, *rows(budget=30)), run(plain, *rows(budget=30)))
    engine.close()


def test_rows_that_share_their_prompt(decoder):
    asked, found = choices(5, "abc abd " * 20, budget=50, temperature=0.2), []
    for count in (0, 3):
        engine = Engine(*decoder, ends=(END,), max_context=256, guesses=count)
        found.append(run(engine, *asked))
        assert any("after 256" in shape for shape in engine.programs._met)
        if count:
            assert passes(engine, *asked)[:, 1].sum() > 0
        engine.close()
    alike(found[1], found[0])


def test_with_pinned_slots_a_row_has_the_same_bits_beside_others(decoder):
    """Up to the end of the context, where some rows have no room to guess in and others do."""
    engine = Engine(*decoder, ends=(END,), max_context=128, slots=4, guesses=3)
    asked = [row("abc abc ab", choice=i, budget=60 + 19 * i, ignore_ends=True, temperature=0.7) for i in range(4)]
    asked[3] = row("abc abc ab", choice=3, budget=118, ignore_ends=True, temperature=0.7)
    together = run(engine, *asked)
    for i, each in enumerate(asked):
        alone = run(engine, each)
        np.testing.assert_array_equal(alone[0][0], together[0][i])
        for x, y in zip(alone[1][0], together[1][i], strict=True):
            np.testing.assert_array_equal(x, y)
    engine.close()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_after_the_warmup_nothing_compiles(decoder):
    engine = Engine(*decoder, ends=(END,), max_context=128, guesses=2)
    engine.warmup()
    met = set(engine.programs._met)
    assert ("guess", 8, 128, "llmlab") in met
    run(engine, *rows(budget=90))
    run(engine, rows()[0])
    assert engine.programs._met == met
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    ["gemma3_text", *(pytest.param(one, marks=pytest.mark.exhaustive) for one in ("deepseek_v3", "gpt_oss"))],
)
def test_windows_latent_vectors_and_sinks(family, tmp_path):
    loaded = load_model(tiny_checkpoint(tmp_path / family, family=family), dtype=jnp.float32)
    found = []
    for count in (0, 3):
        engine = Engine(*loaded, ends=(END,), max_context=128, guesses=count)
        found.append(run(engine, *rows(budget=40, ignore_ends=True)[:2]))
        if count:
            assert passes(engine, *rows(budget=40, ignore_ends=True)[:2])[0, 1] > 0
        engine.close()
    alike(found[1], found[0])
