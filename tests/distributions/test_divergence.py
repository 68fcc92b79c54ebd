"""Divergences of next-token distributions against scipy, term by term."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr, softmax
from scipy.stats import rankdata

from llmlab.distributions.divergence import divergences


def logits(seed: int, scale: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(6, 301), scale=scale).astype(np.float32)


@pytest.mark.parametrize("scale", [0.01, 1.0, 8.0, 40.0])
def test_they_are_those_of_scipy(scale: float) -> None:
    a, b = logits(0, scale), logits(1, scale)
    ids = np.random.default_rng(2).integers(0, 301, size=6)
    found = divergences(a, b, ids)
    p, q = (softmax(x.astype(np.float64), axis=-1) for x in (a, b))
    close = {"rtol": 1e-9, "atol": 1e-14}
    np.testing.assert_allclose(found.kl, rel_entr(p, q).sum(-1), **close)
    np.testing.assert_allclose(found.reverse_kl, rel_entr(q, p).sum(-1), **close)
    np.testing.assert_allclose(found.jensen_shannon, jensenshannon(p, q, axis=-1) ** 2, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.total_variation, np.abs(p - q).sum(-1) / 2, **close)
    np.testing.assert_allclose(found.entropy, -rel_entr(p, 1).sum(-1), **close)
    np.testing.assert_allclose(found.other_entropy, -rel_entr(q, 1).sum(-1), **close)
    np.testing.assert_array_equal(found.top, a.argmax(-1))
    np.testing.assert_array_equal(found.other_top, b.argmax(-1))
    np.testing.assert_allclose(found.logprob, np.log(p[np.arange(6), ids]), rtol=1e-9)
    np.testing.assert_allclose(found.other_logprob, np.log(q[np.arange(6), ids]), rtol=1e-9)
    ranks = rankdata(-a, axis=-1, method="ordinal")[np.arange(6), ids]
    np.testing.assert_array_equal(found.rank, ranks)


def test_of_a_distribution_with_itself_all_are_0() -> None:
    a = logits(0, 3.0)
    found = divergences(a, a.copy(), np.zeros(6, np.int64))
    for values in (found.kl, found.reverse_kl, found.jensen_shannon, found.total_variation):
        np.testing.assert_array_equal(values, 0)


def test_ties_and_tokens_without_probability() -> None:
    a = np.array([[1.0, 1.0, -np.inf, 0.0]], np.float32)
    b = np.array([[-np.inf, 1.0, 1.0, 0.0]], np.float32)
    found = divergences(a, b, np.array([1]))
    assert found.kl[0] == found.reverse_kl[0] == np.inf
    assert 0 < found.jensen_shannon[0] < np.log(2) and 0 < found.total_variation[0] < 1
    assert (found.rank[0], found.other_rank[0], found.top[0], found.other_top[0]) == (2, 1, 0, 1)
    assert np.isfinite(found.entropy[0])


def test_no_positions_and_other_shapes() -> None:
    nothing = divergences(np.zeros((0, 5), np.float32), np.zeros((0, 5), np.float32), np.zeros(0, np.int64))
    assert all(len(column) == 0 for column in nothing) and nothing.rank.dtype == np.int64
    with pytest.raises(ValueError, match=r"\(1, 5\) and \(1, 4\)"):
        divergences(np.zeros((1, 5), np.float32), np.zeros((1, 4), np.float32), np.zeros(1, np.int64))
