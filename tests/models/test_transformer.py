"""The decoder against itself: what must not change its numbers does not. (Against torch: tests/reference.)"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llmlab.models.families import build_model, empty_cache, families, read_config
from llmlab.testing import tiny_config

LENGTH, ROOM = 24, 32


@pytest.fixture(scope="module", params=list(families()))
def model(request):
    config = read_config(tiny_config(request.param))
    graph, weights = nnx.split(build_model(config, rngs=nnx.Rngs(0)))
    return nnx.merge(graph, jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, weights))


def tokens(batch, length=LENGTH):
    return np.random.default_rng(0).integers(0, 256, (batch, length)).astype(np.int32)


def whole(model, ids):
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32)[None, :], ids.shape)
    hidden, _ = model(jnp.asarray(ids), positions)
    return np.asarray(model.logits(hidden))


def test_cached_decoding_equals_the_full_forward_pass(model):
    ids = tokens(3)
    expected = whole(model, ids)
    cache = empty_cache(model.config, batch=3, length=ROOM, dtype=jnp.float32)

    @jax.jit
    def step(cache, token, position):
        hidden, cache = model(token, position, cache)
        return cache, model.logits(hidden)

    for at in range(LENGTH):
        cache, logits = step(cache, jnp.asarray(ids[:, at : at + 1]), jnp.full((3, 1), at, jnp.int32))
        np.testing.assert_allclose(np.asarray(logits)[:, 0], expected[:, at], atol=1e-4)


def test_prefill_in_pieces_equals_the_full_forward_pass(model):
    ids = tokens(1)
    cache = empty_cache(model.config, batch=1, length=ROOM, dtype=jnp.float32)
    for start, stop in ((0, 10), (10, 11), (11, LENGTH)):
        positions = jnp.arange(start, stop, dtype=jnp.int32)[None, :]
        hidden, cache = model(jnp.asarray(ids[:, start:stop]), positions, cache)
        np.testing.assert_allclose(np.asarray(model.logits(hidden)), whole(model, ids)[:, start:stop], atol=1e-4)


def test_a_padded_row_equals_the_row_alone(model):
    ids = tokens(1)
    padded = np.concatenate([ids, np.full((1, 8), 99, np.int32)], axis=1)
    np.testing.assert_allclose(whole(model, padded)[:, :LENGTH], whole(model, ids), atol=1e-5)


def test_rows_of_different_lengths_share_a_batch(model):
    """Each row of a cached batch writes at its own position."""
    ids = tokens(2)
    lengths = np.array([7, 19], np.int32)
    cache = empty_cache(model.config, batch=2, length=ROOM, dtype=jnp.float32)
    positions = jnp.broadcast_to(jnp.arange(LENGTH, dtype=jnp.int32)[None, :], ids.shape)
    _, cache = model(jnp.asarray(ids), positions, cache)
    next_token = jnp.full((2, 1), 65, jnp.int32)
    at = jnp.asarray(lengths)[:, None]
    hidden, _ = model(next_token, at, cache.truncated(jnp.asarray(lengths)))
    for row, length in enumerate(lengths):
        alone = np.concatenate([ids[row : row + 1, :length], [[65]]], axis=1).astype(np.int32)
        np.testing.assert_allclose(np.asarray(model.logits(hidden))[row, 0], whole(model, alone)[0, -1], atol=1e-4)
