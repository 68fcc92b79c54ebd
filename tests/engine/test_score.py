"""Given tokens get the figures that drawn ones get, and rows go on from tokens that are there."""

import numpy as np
import pytest

from llmlab.engine.scheduler import Row
from tests.engine.rows import row, run

FIELDS = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2, "frequency_penalty": 0.4, "min_tokens": 3}


def scored(engine, one, tokens, **options):
    return engine.score(one, np.array(tokens, np.int32), **options)


@pytest.mark.parametrize("prompt", ["a", "Once upon a time", "x" * 120])
@pytest.mark.parametrize("order", ["llmlab", "sglang"])
def test_a_generations_own_tokens_have_its_figures(free, prompt, order):
    one = row(prompt, budget=75, ignore_ends=True, **FIELDS)
    tokens, figures, _ = run(free, one, order=order)
    found = scored(free, one, tokens[0], order=order)
    for name, ours, theirs in zip(found._fields, found, figures[0], strict=True):
        if name in ("top_ids", "rank"):  # a tie within the rounding may fall either way
            assert np.mean(ours == theirs) > 0.99
        else:
            finite = np.isfinite(theirs)
            np.testing.assert_array_equal(np.isfinite(ours), finite)
            np.testing.assert_allclose(ours[finite], theirs[finite], atol=1e-4)


@pytest.mark.parametrize("length", [1, 40])
def test_the_logits_that_tokens_were_drawn_from(free, length):
    one = row("Once upon", budget=length, ignore_ends=True)
    tokens, figures, _ = run(free, one)
    found = np.concatenate(list(free.logits(one, np.array(tokens[0], np.int32))))
    assert found.shape == (length, free.config.vocab_size) and found.dtype == np.float32
    logprobs = found - np.log(np.exp(found).sum(-1, keepdims=True))
    np.testing.assert_allclose(logprobs[np.arange(length), tokens[0]], figures[0][0], atol=1e-4)
    np.testing.assert_allclose(found[0], free.next_logits(one.prompt), atol=1e-4)


def test_to_the_last_position_of_the_context(free):
    """The last piece is cut short by the cache's end, not by the text's."""
    one = row("x" * 300, budget=212, ignore_ends=True)
    tokens, figures, _ = run(free, one)
    assert len(one.prompt) + len(tokens[0]) == free.max_context
    np.testing.assert_allclose(scored(free, one, tokens[0]).logprob, figures[0][0], atol=1e-4)


def test_a_row_goes_on_where_another_stopped(pinned):
    whole = row(budget=40, ignore_ends=True, **FIELDS)
    tokens, figures, _ = run(pinned, whole)
    made = np.array(tokens[0][:15], np.int32)
    rest = Row(whole.prompt, whole.params, budget=25, ignore_ends=True, made=made)
    again, their_figures, finish = run(pinned, rest)
    assert again[0] == tokens[0][15:]
    assert finish == ["length"]
    for x, y in zip(figures[0], their_figures[0], strict=True):
        np.testing.assert_allclose(x[15:], y, atol=1e-4)
    np.testing.assert_allclose(scored(pinned, rest, again[0]).sampling_logprob, figures[0][1][15:], atol=1e-4)


def test_what_cannot_be_scored(free):
    with pytest.raises(ValueError, match="no token to score"):
        scored(free, row(), [])
    with pytest.raises(ValueError, match="exceed 512 positions"):
        scored(free, row(), [1] * 512)
    with pytest.raises(ValueError, match="order must be one of"):
        scored(free, row(), [1], order="theirs")
