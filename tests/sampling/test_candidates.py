"""A walk over the first candidates ends where the halving ends it, and a row's way is its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.sampling import truncation
from llmlab.sampling.truncation import CANDIDATES, apply_top_k, apply_top_p


@pytest.fixture(autouse=True)
def every_vocabulary_is_large(monkeypatch):
    monkeypatch.setattr(truncation, "LARGE", 0)


# Functions of their own: what is jitted elsewhere may have been traced before `LARGE` was changed.
top_k_of = jax.jit(lambda logits, top_k: apply_top_k(logits, top_k=top_k))
top_p_of = jax.jit(lambda logits, top_p: apply_top_p(logits, top_p=top_p))


def kept(apply, logits, setting):
    return np.asarray(apply(jnp.asarray(logits, jnp.float32), jnp.asarray(setting))) > -np.inf


def ranking(row):
    """Token ids by (logit falling, id rising); 0.0 and -0.0 are one logit."""
    return np.lexsort((np.arange(len(row)), -row))


def rows_of(rng, size, count):
    """Rows of every kind: steep and flat, of few values (ties), with removed tokens, with zeros of both signs."""
    rows = rng.normal(size=(count, size)) * rng.choice([0.1, 1.0, 3.0, 10.0], size=(count, 1))
    rows[1::5] = rng.integers(-3, 4, size=rows[1::5].shape)
    rows[2::5] = np.where(rng.random(rows[2::5].shape) < 0.7, -np.inf, rows[2::5])
    rows[3::5] = np.where(rng.random(rows[3::5].shape) < 0.5, -0.0, 0.0)
    rows[:, 0] = np.where(np.isinf(rows).all(axis=1), 1.0, rows[:, 0])
    return rows.astype(np.float32)


@pytest.mark.parametrize("size", [5, CANDIDATES, 129, 1000])
def test_top_k_keeps_the_first_k_of_the_ranking(size):
    rng = np.random.default_rng(size)
    rows = rows_of(rng, size, 60)
    ks = rng.choice([0, 1, 2, 7, 50, 127, 128, 129, 400], size=60).astype(np.int32)
    found = kept(top_k_of, rows, ks)
    for row, k, left in zip(rows, ks, found, strict=True):
        wanted = np.zeros(size, bool)
        wanted[ranking(row)[: k if k > 0 else size]] = True
        np.testing.assert_array_equal(left, wanted & (row > -np.inf))


@pytest.mark.parametrize("size", [5, CANDIDATES, 129, 1000])
def test_top_p_keeps_what_the_mass_before_it_allows(size):
    rng = np.random.default_rng(size)
    rows = rows_of(rng, size, 60)
    ps = rng.choice([1e-30, 0.01, 0.3, 0.7, 0.95, 0.999, 1.0], size=60).astype(np.float32)
    found = kept(top_p_of, rows, ps)
    compared = 0
    for row, p, left in zip(rows.astype(np.float64), ps.astype(np.float64), found, strict=True):
        order = ranking(row)
        mass = np.exp(row - row.max())
        mass /= mass.sum()
        before = np.cumsum(mass[order]) - mass[order]
        clear = np.abs(before - p) > 1e-5
        compared += clear.sum()
        wanted = (before < p) | (p >= 1.0) | (np.arange(size) == 0)
        np.testing.assert_array_equal(left[order][clear], (wanted & (row[order] > -np.inf))[clear])
    assert compared > 0.7 * rows.size


def test_a_row_beside_one_that_needs_halving_keeps_its_bits():
    """Sums in another order differ in the last bits, so that a row must not change its way with its neighbours'."""
    rng = np.random.default_rng(1)
    steep, flat = rng.normal(size=1000) * 4, np.zeros(1000)
    for p in np.linspace(0.05, 0.95, 19, dtype=np.float32):
        alone = kept(top_p_of, steep[None], np.array([p]))
        beside = kept(top_p_of, np.stack([steep, flat]), np.array([p, 0.99], np.float32))
        np.testing.assert_array_equal(beside[0], alone[0])
        assert beside[1].sum() == 990
