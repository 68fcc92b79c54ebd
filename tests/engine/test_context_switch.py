"""A decoder that rotates a long text in another way: each token follows from one way of reading all before it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.checkpoints.load import load_model
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Row
from llmlab.grammar.compose import JSON, grammar
from llmlab.grammar.vocabulary import Vocabulary
from llmlab.testing import tiny_checkpoint
from tests.engine.rows import END, read, row, run

#: The length beyond which the other factors are used, and the longest text here.
SWITCH, LONGEST = 70, 160
ROPE = {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.5, 4.0, 8.0, 16.0]}
PROMPTS = [50, 69, 70, 71, 100, 3]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("switch") / "tiny"
    fields = {"original_max_position_embeddings": SWITCH, "rope_scaling": ROPE, "rope_theta": 100.0}
    return load_model(tiny_checkpoint(folder, family="phi3", **fields), dtype=jnp.float32)


@pytest.fixture(scope="module")
def engine(decoder):
    engine = Engine(*decoder, ends=(END,))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def logprobs(decoder):
    """Log-probabilities [V] after a text, read in one pass without a cache."""
    _, model = decoder

    @jax.jit
    def after(ids, count):
        positions = jnp.arange(LONGEST, dtype=jnp.int32)[None]
        hidden, _ = model(ids[None], positions, length=count[None])
        return jax.nn.log_softmax(model.logits(hidden)[0, count - 1])

    def found(ids):
        padded = np.pad(ids, (0, LONGEST - len(ids))).astype(np.int32)
        return np.asarray(after(padded, np.int32(len(ids))))

    return found


@pytest.fixture(scope="module")
def rows():
    whole = row("Once upon a time there was " * 4).prompt
    return [
        Row(whole[:count], row(seed=count, temperature=0.8).params, budget=40, ignore_ends=True) for count in PROMPTS
    ]


@pytest.fixture(scope="module")
def made(engine, rows):
    """What the rows draw side by side: some pass the switch, some began beyond it, one never reaches it."""
    tokens, figures, _ = run(engine, *rows)
    assert [len(one) for one in tokens] == [40] * len(rows)
    return tokens, figures


def test_both_ways_of_reading_differ(logprobs, decoder):
    assert decoder[0].context_switch == SWITCH
    ids = np.arange(SWITCH + 1) % 256
    _, model = decoder
    at = jnp.arange(SWITCH + 1, dtype=jnp.int32)[None]
    near, far = (
        model.logits(model(jnp.asarray(ids[None]), at, length=jnp.array([n]))[0]) for n in (SWITCH, SWITCH + 1)
    )
    assert np.abs(near - far)[0, -1].max() > 0.1


@pytest.mark.parametrize("which", range(len(PROMPTS)))
def test_each_token_is_drawn_after_the_text_read_in_one_way(made, rows, logprobs, which):
    tokens, figures = made
    for at, token in enumerate(tokens[which]):
        text = np.concatenate([rows[which].prompt, tokens[which][:at]])
        assert figures[which][0][at] == pytest.approx(logprobs(text)[token], abs=1e-4), (which, at)


def test_given_tokens_get_the_figures_of_drawn_ones(made, rows, engine):
    tokens, figures = made
    for which, one in enumerate(rows):
        found = engine.score(one, np.array(tokens[which], np.int32))
        np.testing.assert_allclose(found.logprob, figures[which][0], atol=1e-4)
        raw = np.concatenate(list(engine.logits(one, np.array(tokens[which], np.int32))))
        ours = np.asarray(jax.nn.log_softmax(raw))[np.arange(40), tokens[which]]
        np.testing.assert_allclose(ours, figures[which][0], atol=1e-4)


@pytest.mark.parametrize("at", [18, 19, 20, 21, 22, 39])
def test_the_steps_gone_again(made, rows, engine, at):
    """The first row passes the switch at its step 20."""
    tokens, figures = made
    found = engine.step_logits(rows[0], np.array(tokens[0][:at], np.int32), rows=len(rows))
    assert jax.nn.log_softmax(found)[tokens[0][at]] == pytest.approx(figures[0][0][at], abs=1e-5)


@pytest.mark.parametrize("at", [10, 20, 21, 22])
def test_a_row_goes_on_on_either_side(made, rows, engine, at):
    tokens, _ = made
    rest = dataclasses.replace(rows[0], made=np.array(tokens[0][:at], np.int32), budget=40 - at)
    assert run(engine, rest)[0][0] == tokens[0][at:]


def test_the_state_of_a_stage_goes_past_the_switch(engine, rows):
    """What mirostat leaves is the same where the text is read anew on the way and where it is scored in one go."""
    extra = {"mirostat": 2, "mirostat_tau": 5.0, "mirostat_eta": 0.5}
    asked = [dataclasses.replace(one, params=one.params.changed(**extra)) for one in rows[:2]]
    tokens, figures, _ = run(engine, *asked)
    for which, one in enumerate(asked):
        found = engine.score(one, np.array(tokens[which], np.int32))
        names = found._fields
        kept, logprobs = (figures[which][names.index(name)] for name in ("kept", "sampling_logprob"))
        assert len(set(kept.tolist())) > 5
        assert np.mean(found.kept == kept) > 0.9, "a token may lie within rounding of the limit"
        np.testing.assert_allclose(found.sampling_logprob, logprobs, atol=2e-2)


def test_a_row_with_a_grammar_keeps_its_place_in_it(engine, decoder, logprobs):
    """A list that has to be long: its tokens are drawn one by one, and penalties count what came before the switch."""
    words = Vocabulary([bytes([i]) for i in range(256)], size=decoder[0].vocab_size, ends=(END,))
    items = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 20, "maxItems": 30}
    one = row("abcdefgh" * 7, budget=100, temperature=1.0, frequency_penalty=0.1)
    one = dataclasses.replace(one, grammar=grammar(words, JSON(items)))
    plain = row("xyz" * 20, budget=60, ignore_ends=True)
    tokens, figures, _ = run(engine, one, plain)
    assert len(one.prompt) < SWITCH < len(one.prompt) + len(tokens[0]) and tokens[0][0] == ord("[")
    matcher = one.grammar.matcher()
    for token in tokens[0]:
        matcher.advance(token)
    assert matcher.error is None, "the whole text is one that the grammar allows"
    for which, text in enumerate((one, plain)):
        for at, token in enumerate(tokens[which][:60]):
            before = np.concatenate([text.prompt, tokens[which][:at]])
            assert figures[which][0][at] == pytest.approx(logprobs(before)[token], abs=1e-4), (which, at)


def test_a_text_is_read_again_once(engine, rows):
    before = engine.prefills
    fresh = dataclasses.replace(rows[0], prompt=rows[0].prompt[::-1].copy())
    ticket = engine.submit([fresh])
    read(ticket, 1)
    assert engine.prefills == before + 2


@pytest.mark.parametrize("count", [50, 66, 70, 71])
def test_a_search_reads_its_rows_anew(engine, logprobs, rows, count):
    one = Row(
        rows[2].prompt[:count] if count <= 70 else np.append(rows[2].prompt, 5)[:count], rows[2].params, budget=30
    )
    rng = np.random.default_rng(count)
    with engine.search(one, rows=3) as search:
        texts, logits = [()], search.start()[None]
        for step in range(26):
            for text, found in zip(texts, logits, strict=True):
                if abs(count + len(text) - SWITCH) < 4 or step == 25:
                    exact = logprobs(np.concatenate([one.prompt, text]).astype(np.int32))
                    shifted = found - np.log(np.exp(found.astype(np.float64)).sum())
                    np.testing.assert_allclose(shifted, exact, atol=2e-4)
            # The rows have different lengths, so that they pass the switch at different steps.
            parents, tokens = rng.integers(0, len(texts), 3), rng.integers(0, 250, 3)
            tokens = np.where(rng.random(3) < 0.3, -1, tokens)
            logits = search.advance(parents, tokens)
            texts = [texts[p] if t < 0 else (*texts[p], int(t)) for p, t in zip(parents, tokens, strict=True)]


def test_a_negative_prompt_passes_the_switch_by_itself(engine, logprobs):
    """Each of the two texts is read in the way of its own length, while tokens are drawn, gone again and scored."""
    whole = row("Once upon a time there was " * 4).prompt
    for own, other in ((60, 34), (34, 60), (69, 72), (72, 3)):
        params = row(seed=own, temperature=0.8, extra={"guidance_scale": 2.0}).params
        asked = Row(whole[:own], params, budget=40, ignore_ends=True, negative=whole[:other])
        tokens, figures, _ = run(engine, asked)
        made = np.array(tokens[0], np.int32)
        for at, token in enumerate(made):
            ours, theirs = (
                logprobs(np.concatenate([p, made[:at]])).astype(np.float64) for p in (whole[:own], whole[:other])
            )
            final = (theirs + 2.0 * (ours - theirs)) / 0.8
            assert figures[0][0][at] == pytest.approx(ours[token], abs=1e-4), (own, other, at)
            assert figures[0][1][at] == pytest.approx(final[token] - np.logaddexp.reduce(final), abs=1e-3)
        scored = engine.score(asked, made)
        np.testing.assert_allclose(scored.sampling_logprob, figures[0][1], atol=1e-3)
        again = engine.step_logits(asked, made[:38]).astype(np.float64)
        np.testing.assert_allclose(
            again[1] - np.logaddexp.reduce(again[1]), logprobs(np.concatenate([whole[:other], made[:38]])), atol=1e-4
        )
