"""The front of a ranking against a sort, with ties, zeros of both signs and removed tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.sampling.front import BLOCK, CANDIDATES, Front, front, leading, logits_at, spread
from llmlab.sampling.truncation import argmax
from tests.sampling.test_candidates import ranking, rows_of

leading_of = jax.jit(leading, static_argnums=1)
#: Sizes below and above that from which on blocks are looked at, whole and not whole blocks.
SIZES = [1, 5, CANDIDATES, CANDIDATES + 1, 4000, 2 * CANDIDATES * BLOCK, 2 * CANDIDATES * BLOCK + 1, 40_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [2, 20, CANDIDATES])
def test_the_leading_tokens_are_those_of_a_sort(size: int, count: int) -> None:
    rows = rows_of(np.random.default_rng(size), size, 20)
    rows[4] = -np.inf  # nothing is left
    logits, ids = leading_of(jnp.asarray(rows), count)
    for row, values, found in zip(rows, np.asarray(logits), np.asarray(ids), strict=True):
        expected = ranking(row)[:count]
        assert found.tolist() == expected.tolist()
        assert values.tobytes() == row[expected].tobytes()


@pytest.mark.parametrize("size", SIZES)
def test_a_front_is_in_the_order_of_ids_and_goes_back_to_its_place(size: int) -> None:
    rows = rows_of(np.random.default_rng(size), size, 20)
    found: Front = jax.jit(front)(jnp.asarray(rows))
    back = np.asarray(spread(found, size))
    for row, ids, spread_out in zip(rows, np.asarray(found.ids), back, strict=True):
        assert ids.tolist() == sorted(ranking(row)[:CANDIDATES].tolist())
        expected = np.full(size, -np.inf, np.float32)
        expected[ids] = row[ids]
        np.testing.assert_array_equal(spread_out, expected)
    some = np.random.default_rng(1).integers(0, size, (20, 7)).astype(np.int32)
    np.testing.assert_array_equal(logits_at(found, jnp.asarray(some)), np.take_along_axis(back, some, axis=1))


@pytest.mark.parametrize("size", [1, 3, 1024, 1025, 5000, 32 * 321])
def test_the_largest_logit_of_the_lowest_id(size: int) -> None:
    rows = rows_of(np.random.default_rng(size), size, 40)
    rows[4] = -np.inf
    np.testing.assert_array_equal(jax.jit(argmax)(jnp.asarray(rows)), np.argmax(rows, axis=1))
