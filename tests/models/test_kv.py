"""The cache is an object with one protocol: what it hides, what it keeps, and that another one can take its place."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Row
from llmlab.models.families import build_model, cache_bytes, empty_cache, families, read_config
from llmlab.models.kv.attend import HIDDEN, attend
from llmlab.models.kv.dense import DenseCache
from llmlab.models.kv.protocol import Attendable, Cache, Entries, Pass
from llmlab.models.kv.uncached import Uncached
from llmlab.sampling.params import SamplingParams
from llmlab.testing import tiny_config

ROOM = 32


@pytest.fixture(scope="module")
def model():
    graph, weights = nnx.split(build_model(read_config(tiny_config()), rngs=nnx.Rngs(0)))
    return nnx.merge(graph, jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, weights))


def tokens(batch, length):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (batch, length)).astype(np.int32))


def positions(batch, start, stop):
    return jnp.broadcast_to(jnp.arange(start, stop, dtype=jnp.int32)[None, :], (batch, stop - start))


def dense(model, batch=2, length=ROOM):
    return empty_cache(model.config, batch=batch, length=length, dtype=jnp.float32)


def test_both_implementations_meet_their_protocols(model):
    cache = dense(model)
    assert isinstance(cache, Cache) and isinstance(cache.begin(positions(2, 0, 3)), Pass)
    assert isinstance(Uncached(), Attendable) and not isinstance(Uncached(), Cache)
    assert isinstance(Uncached().begin(positions(2, 0, 3)), Pass)


def test_a_cache_knows_which_positions_are_filled(model):
    cache = dense(model)
    assert (np.asarray(cache.filled) == HIDDEN).all()
    _, cache = model(tokens(2, 5), positions(2, 0, 5), cache)
    assert (np.asarray(cache.filled) == 0).sum(axis=1).tolist() == [5, 5]
    cache = cache.truncated(jnp.array([2, 4], jnp.int32))
    assert (np.asarray(cache.filled) == 0).sum(axis=1).tolist() == [2, 4]
    _, cache = model(tokens(2, 1), jnp.array([[2], [4]], jnp.int32), cache)
    assert (np.asarray(cache.filled) == 0).sum(axis=1).tolist() == [3, 5]


def test_what_is_hidden_changes_nothing(model):
    """Entries after the truncation are stale: other ones in their place give the same bits."""
    _, cache = model(tokens(2, 8), positions(2, 0, 8), dense(model))
    cache = cache.truncated(jnp.array([4, 4], jnp.int32))
    spoilt = cache._replace(
        keys=tuple(x.at[..., 6:].set(7.0) for x in cache.keys),
        values=tuple(x.at[:, :, 6:].set(7.0) for x in cache.values),
    )
    one, other = (model(tokens(2, 1), positions(2, 4, 5), held)[0] for held in (cache, spoilt))
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_a_longer_cache_keeps_what_is_filled(model):
    _, cache = model(tokens(2, 8), positions(2, 0, 8), dense(model))
    longer = cache.lengthened(2 * ROOM)
    assert longer.length == 2 * ROOM and (np.asarray(longer.filled) == 0).sum() == 16
    one, other = (model(tokens(2, 1), positions(2, 8, 9), held)[0] for held in (cache, longer))
    np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=1e-5)


@pytest.mark.parametrize("start", [0, 5, ROOM - 4])
def test_a_piece_is_taken_and_placed_bit_by_bit(model, start):
    """In a cache of another length, where it says the same to what comes after it."""
    given = tokens(2, ROOM)
    _, cache = model(given, positions(2, 0, ROOM), dense(model))
    piece = cache.taken(jnp.int32(start), 4)
    assert piece.length == 4
    other = dense(model, length=2 * ROOM).placed(piece, jnp.int32(start))
    again = other.taken(jnp.int32(start), 4)
    for ours, theirs in zip(jax.tree.leaves(piece), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(jax.tree.leaves(other), jax.tree.leaves(dense(model, length=2 * ROOM)), strict=True):
        assert (np.asarray(ours) != np.asarray(theirs)).sum() <= np.prod(piece.keys[0].shape)
    assert (np.asarray(other.filled) == 0).sum() == 2 * 4


def test_segments_do_not_see_each_other(model):
    ids, at = tokens(1, 12), jnp.concatenate([positions(1, 0, 7), positions(1, 0, 5)], axis=1)
    together, _ = model(ids, at, Uncached(jnp.array([[1] * 7 + [2] * 5], jnp.int32)))
    for part in (slice(0, 7), slice(7, 12)):
        alone, _ = model(ids[:, part], at[:, part])
        np.testing.assert_allclose(np.asarray(together[:, part]), np.asarray(alone), atol=1e-5)


def test_a_cache_is_as_large_as_it_says(model):
    for length in (16, 32):
        held = sum(x.nbytes for x in jax.tree.leaves(dense(model, batch=3, length=length)))
        assert cache_bytes(model.config, batch=3, length=length, dtype=jnp.float32) == held
    keys = 2 * 2 * 3 * 32 * 2 * 8 * 4  # keys and values of two layers, two key heads of 8
    assert keys <= held <= keys * 1.05


def test_a_donated_cache_is_written_in_place(model):
    """Inside a loop too: the compiled program's outputs alias all of the cache and it holds no second copy."""
    graph, weights = nnx.split(model)

    def steps(weights, cache):
        def step(at, cache):
            place = jnp.full((2, 1), at, jnp.int32)
            return nnx.merge(graph, weights)(jnp.full((2, 1), 65, jnp.int32), place, cache)[1]

        return jax.lax.fori_loop(0, 8, step, cache)

    cache = dense(model, length=4096)
    size = sum(x.nbytes for x in jax.tree.leaves(cache))
    memory = jax.jit(steps, donate_argnums=1).lower(weights, cache).compile().memory_analysis()
    assert memory.alias_size_in_bytes == size and memory.temp_size_in_bytes < size / 2


def test_its_axes_are_named_like_its_arrays(model):
    cache = dense(model)
    axes = cache.axes()
    assert jax.tree.structure(axes) == jax.tree.structure(cache)
    assert set(axes.keys + axes.values) == {PartitionSpec("rows", "key_heads")}


class TokenMajorCache(NamedTuple):
    """Another cache: one array [W, S, 2, K, H] per layer, a count per row, and a mask that is made in each pass."""

    entries: tuple[jax.Array, ...]
    counts: jax.Array

    @property
    def length(self):
        return self.entries[0].shape[1]

    def begin(self, positions):
        return TokenMajorPass(self, positions)

    def of_layer(self, layer):
        held = self.entries[layer]
        return Entries(jnp.transpose(held[:, :, 0], (0, 2, 3, 1)), jnp.swapaxes(held[:, :, 1], 1, 2), "hs")

    def entries_of(self, *entry):
        keys, values = entry
        return Entries(jnp.transpose(keys, (0, 2, 3, 1)), jnp.swapaxes(values, 1, 2), "hs")

    def truncated(self, counts):
        return self._replace(counts=counts)

    def lengthened(self, length):
        more = (0, length - self.length)
        return self._replace(entries=tuple(jnp.pad(x, ((0, 0), more, *[(0, 0)] * 3)) for x in self.entries))

    def taken(self, start, size):
        entries = tuple(jax.lax.dynamic_slice_in_dim(x, start, size, axis=1) for x in self.entries)
        return TokenMajorCache(entries, jnp.full_like(self.counts, size))

    def placed(self, piece, start):
        write = jax.lax.dynamic_update_slice_in_dim
        entries = tuple(write(x, new, start, axis=1) for x, new in zip(self.entries, piece.entries, strict=True))
        return TokenMajorCache(entries, start + piece.counts)

    def axes(self):
        by_heads = PartitionSpec(None, None, None, "key_heads")
        return TokenMajorCache(tuple(by_heads for _ in self.entries), PartitionSpec())


class TokenMajorPass:
    def __init__(self, cache, positions):
        self.cache, self.positions, self.entries = cache, positions, list(cache.entries)

    def attend(self, layer, q, *entry, scores):
        rows = jnp.arange(q.shape[0])[:, None]
        held = self.entries[layer].at[rows, self.positions].set(jnp.stack(entry, axis=2))
        self.entries[layer] = held
        at = jnp.arange(self.cache.length, dtype=jnp.int32)
        bias = jnp.where(at[None, None, :] <= self.positions[:, :, None], jnp.float32(0), jnp.float32(HIDDEN))
        keys, values = held[:, :, 0], held[:, :, 1]
        return attend(q, jnp.transpose(keys, (0, 2, 3, 1)), jnp.swapaxes(values, 1, 2), bias, scores)

    def cache_after(self):
        return TokenMajorCache(tuple(self.entries), self.positions[:, -1] + 1)


def empty_token_major(config, *, batch, length, dtype):
    shape = (batch, length, 2, config.num_kv_heads, config.head_dim)
    return TokenMajorCache(
        tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers)), jnp.zeros((batch,), jnp.int32)
    )


def test_an_engine_over_another_cache_gives_the_same_tokens(model, monkeypatch):
    """The seam: neither the engine nor the decoder knows what a cache is made of."""

    def answers():
        engine = Engine(model.config, model, slots=2, max_context=256)
        found = []
        for prompt in ("Hello", "x" * 150):  # short, and longer than the first bucket
            ids = np.frombuffer(prompt.encode(), np.uint8).astype(np.int32)
            rows = [Row(ids, SamplingParams(seed=3, choice=i), budget=20, ignore_ends=True) for i in range(2)]
            made = [[], []]
            for block in engine.submit(rows):
                for piece in block:
                    made[piece.row] += piece.tokens.tolist()
            found.append(made)
            found.append(engine.next_logits(ids).argmax())
        held = type(engine.programs.empty(width=1, length=128).cache)
        engine.close()
        return found, held

    expected, first = answers()
    family = families()["qwen3"]
    monkeypatch.setitem(families(), "qwen3", replace(family, empty_cache=empty_token_major))
    cache_bytes.cache_clear()
    found, second = answers()
    cache_bytes.cache_clear()
    assert (first, second) == (DenseCache, TokenMajorCache) and found == expected
