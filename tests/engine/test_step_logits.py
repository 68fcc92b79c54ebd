"""The way of a row gone again: the logits of then, whatever the position."""

import numpy as np
import pytest

from llmlab.engine.scheduler import Row
from tests.engine.rows import row, run


def logprob(logits, token):
    shifted = logits.astype(np.float64) - logits.max()
    return shifted[token] - np.log(np.exp(shifted).sum())


@pytest.mark.parametrize("at", [0, 1, 31, 32, 70])
def test_they_are_those_that_the_token_was_drawn_from(free, at):
    """Over the border of a chunk, and into a longer cache; to what float32 holds of a logprob."""
    one = row("Once upon a time", budget=72, ignore_ends=True)
    tokens, figures, _ = run(free, one)
    found = free.step_logits(one, np.array(tokens[0][:at], np.int32))
    assert found.shape == (free.config.vocab_size,) and found.dtype == np.float32
    assert logprob(found, tokens[0][at]) == pytest.approx(figures[0][0][at], abs=1e-6)


def test_a_row_that_had_company(free):
    rows = [row("Once", budget=9, ignore_ends=True, seed=seed) for seed in range(5)]
    tokens, figures, _ = run(free, *rows)
    for which in (0, 4):
        found = free.step_logits(rows[which], np.array(tokens[which][:8], np.int32), rows=5)
        assert logprob(found, tokens[which][8]) == pytest.approx(figures[which][0][8], abs=1e-6)


def test_tokens_that_were_given_are_read_as_they_were_then(free):
    first = row("Once upon", budget=9, ignore_ends=True)
    made = np.array(run(free, first)[0][0], np.int32)
    later = Row(first.prompt, first.params, budget=4, ignore_ends=True, made=made)
    tokens, figures, _ = run(free, later)
    found = free.step_logits(later, np.array(tokens[0][:3], np.int32))
    assert logprob(found, tokens[0][3]) == pytest.approx(figures[0][0][3], abs=1e-6)


def test_too_long_is_refused(free):
    with pytest.raises(ValueError, match="exceed"):
        free.step_logits(row("a", budget=1), np.zeros(free.max_context, np.int32))
