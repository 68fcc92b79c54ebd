"""Latent attention: its absorbed form is the expanded one, and its cache holds one entry a token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from llmlab.models.families import build_model, cache_bytes, empty_cache, families, read_config
from llmlab.models.kv.attend import HIDDEN
from llmlab.models.kv.latent import LatentCache, empty_latent_cache
from llmlab.models.kv.protocol import Cache, Pass
from llmlab.models.kv.uncached import Uncached
from llmlab.models.rope import rotate, rotation
from llmlab.testing import tiny_config

LATENT = [name for name in families() if read_config(tiny_config(name)).latent is not None]


@pytest.fixture(scope="module", params=LATENT)
def model(request):
    graph, state = nnx.split(build_model(read_config(tiny_config(request.param)), rngs=nnx.Rngs(0)))
    return nnx.merge(graph, jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, state))


def at(batch, start, stop):
    return jnp.broadcast_to(jnp.arange(start, stop, dtype=jnp.int32)[None, :], (batch, stop - start))


def expanded(attention, x, positions, config):
    """Keys and values of every head, made of the latent vectors; in float64 after the rotation."""
    shape, heads = attention.latent, attention.heads
    down = attention.down(x)
    query = x if attention.query_norm is None else attention.query_norm(down[..., : shape.query_rank])
    q = attention.query_up(query).reshape(*x.shape[:2], heads, -1)
    vectors = attention.norm(down[..., shape.query_rank : shape.query_rank + shape.rank])
    cos, sin, _ = rotation(positions, rope=config.rope, head_dim=config.head_dim)
    key = down[..., None, shape.query_rank + shape.rank :]
    turned, key = (rotate(part, cos, sin, interleaved=config.rope.interleaved) for part in (q[..., shape.plain :], key))
    wide = [np.asarray(part, np.float64) for part in (q[..., : shape.plain], turned, vectors, key)]
    plain, turned, vectors, key = wide
    keys = np.einsum("blr,nrp->blnp", vectors, np.asarray(attention.key_up[...], np.float64))
    values = np.einsum("blr,nrv->blnv", vectors, np.asarray(attention.value_up[...], np.float64))
    logits = np.einsum("blnp,bsnp->bnls", plain, keys) + np.einsum("blnp,bsp->bnls", turned, key[:, :, 0])
    logits = logits * attention.scale + np.triu(np.full(logits.shape[-2:], -np.inf), 1)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    out = np.einsum("bnls,bsnv->blnv", weights / weights.sum(axis=-1, keepdims=True), values)
    return out.reshape(*x.shape[:2], -1) @ np.asarray(attention.o.kernel[...], np.float64)


def test_the_absorbed_form_is_the_expanded_one(model):
    config = model.config
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, config.hidden_size)), jnp.float32)
    positions = at(2, 0, 9)
    rotations = {config.rope: rotation(positions, rope=config.rope, head_dim=config.head_dim)}
    attention = model.layers[0].attention
    found = np.asarray(attention(x, rotations, Uncached().begin(positions)))
    expected = expanded(attention, x, positions, config)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_cache_holds_one_entry_a_token(model):
    config = model.config
    cache = empty_cache(config, batch=2, length=32, dtype=jnp.float32)
    assert isinstance(cache, LatentCache) and isinstance(cache, Cache)
    assert isinstance(cache.begin(at(2, 0, 3)), Pass)
    numbers = config.latent.rank + config.latent.rotated
    assert {x.shape for x in cache.entries} == {(2, 1, 32, numbers)} and len(cache.entries) == config.num_layers
    held = cache_bytes(config, batch=2, length=32, dtype=jnp.float32)
    assert held == config.num_layers * 2 * 32 * numbers * 4 + 2 * 32 * 4
    axes = cache.axes()
    assert jax.tree.structure(axes) == jax.tree.structure(cache) and set(axes.entries) == {PartitionSpec("rows")}


def test_what_is_hidden_changes_nothing_and_a_longer_cache_keeps_the_rest(model):
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 8)), jnp.int32)
    _, cache = model(ids, at(2, 0, 8), empty_cache(model.config, batch=2, length=32, dtype=jnp.float32))
    assert (np.asarray(cache.filled) == 0).sum(axis=1).tolist() == [8, 8]
    cache = cache.truncated(jnp.array([4, 4], jnp.int32))
    assert (np.asarray(cache.filled) == HIDDEN).sum(axis=1).tolist() == [28, 28]
    spoilt = cache._replace(entries=tuple(x.at[:, :, 6:].set(7.0) for x in cache.entries))
    one, other = (model(ids[:, :1], at(2, 4, 5), held)[0] for held in (cache, spoilt))
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    longer = cache.lengthened(64)
    assert longer.length == 64
    np.testing.assert_allclose(np.asarray(model(ids[:, :1], at(2, 4, 5), longer)[0]), np.asarray(one), atol=1e-5)


def test_a_donated_cache_is_written_in_place():
    config = read_config(tiny_config("deepseek_v3"))
    graph, weights = nnx.split(build_model(config, rngs=nnx.Rngs(0)))

    def steps(weights, cache):
        def step(i, cache):
            return nnx.merge(graph, weights)(jnp.full((2, 1), 65, jnp.int32), jnp.full((2, 1), i, jnp.int32), cache)[1]

        return jax.lax.fori_loop(0, 8, step, cache)

    cache = empty_cache(config, batch=2, length=8192, dtype=jnp.float32)
    size = sum(x.nbytes for x in jax.tree.leaves(cache))
    memory = jax.jit(steps, donate_argnums=1).lower(weights, cache).compile().memory_analysis()
    assert memory.alias_size_in_bytes == size and memory.temp_size_in_bytes < size / 2


def test_only_a_decoder_with_latent_attention_has_such_a_cache():
    with pytest.raises(ValueError, match="llama has no latent attention"):
        empty_latent_cache(read_config(tiny_config("llama")), batch=1, length=8, dtype=jnp.float32)
