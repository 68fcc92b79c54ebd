"""The kernels in interpret mode, against attention in float64; and that they lower for the devices they are for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Row
from llmlab.models.families import build_model, read_config
from llmlab.models.kv.attend import HIDDEN, Scores, Sight, Sums, divided
from llmlab.models.kv.dense import DenseCache, KernelCache
from llmlab.models.kv.joined import Joined, Prefix
from llmlab.models.kv.kernel import kernel_sums
from llmlab.models.kv.kernel_gpu import gpu_sums
from llmlab.models.kv.kernel_tpu import tpu_sums
from llmlab.models.kv.protocol import SharedCache
from llmlab.sampling.params import SamplingParams
from llmlab.testing import tiny_config

KERNELS = {"gpu": gpu_sums, "tpu": tpu_sums}


def oracle(q, keys, values, first, end, softcap=None):
    """What queries [B, K, Q, H] get from the positions first <= s < end, one by one in float64; zeros from none."""
    q, keys, values = (np.asarray(x, np.float64) for x in (q, keys, values))
    out = np.zeros((*q.shape[:3], values.shape[3]))
    for row, head, query in np.ndindex(*q.shape[:3]):
        seen = slice(first[row, query], end[row, query])
        if seen.start >= seen.stop:
            continue
        logits = q[row, head, query] @ keys[row, head, :, seen]
        logits = logits if softcap is None else softcap * np.tanh(logits / softcap)
        weights = np.exp(logits - logits.max())
        out[row, head, query] = weights @ values[row, head, seen] / weights.sum()
    return out


def drawn(rng, batch, heads, queries, size, room, dtype=jnp.float32):
    """Queries, keys and values."""
    shapes = ((batch, heads, queries, size), (batch, heads, size, room), (batch, heads, room, size))
    scales = (size**-0.5, 1, 1)
    return [jnp.asarray(rng.normal(size=shape) * scale, dtype) for shape, scale in zip(shapes, scales, strict=True)]


def result(sums):
    return np.asarray(sums.weighed / jnp.where(sums.total == 0, 1, sums.total))


#: Key heads, queries of each, the size of a head, positions, dtype, softcap; and how far from float64 is allowed.
CASES = [
    (2, 7, 64, 128, jnp.float32, None, 2e-6),
    (1, 3, 80, 1024, jnp.float32, 1.5, 2e-6),
    (2, 1, 96, 64, jnp.float16, None, 2e-3),
    (1, 4, 128, 256, jnp.bfloat16, 2.0, 2e-2),
    (1, 8, 256, 32, jnp.float32, None, 2e-6),
]


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("heads, queries, size, room, dtype, softcap, allowed", CASES, ids=lambda x: str(x))
def test_it_is_attention_and_reads_only_what_is_seen(name, heads, queries, size, room, dtype, softcap, allowed):
    """Rows of every length, windows, and one row that sees nothing. Blocks in nobody's sight hold NaN."""
    rng = np.random.default_rng(0)
    ends = np.array([room, 1, room // 2, 0, room // 2 + 1, 17])
    starts = np.array([0, 0, max(0, room // 2 - 5), 0, room // 2, 16])
    first, end = (np.repeat(x[:, None], queries, axis=1).astype(np.int32) for x in (starts, ends))
    q, keys, values = drawn(rng, len(ends), heads, queries, size, room, dtype)
    block = 512 if name == "tpu" else 128  # the largest that is read at a time
    whole = np.arange(room) // min(block, room)
    hidden = (whole < (starts // min(block, room))[:, None]) | (whole >= -(-ends // min(block, room))[:, None])
    keys = jnp.where(hidden[:, None, None, :], jnp.nan, keys)
    values = jnp.where(hidden[:, None, :, None], jnp.nan, values)
    sums = jax.jit(partial(KERNELS[name], softcap=softcap, interpret=True))(q, keys, values, first, end)
    np.testing.assert_allclose(result(sums), oracle(q, keys, values, first, end, softcap), atol=allowed)
    assert (np.asarray(sums.most)[3] == np.float32(HIDDEN)).all() and not np.asarray(sums.total)[3].any()


@pytest.mark.parametrize("name", KERNELS)
def test_many_queries_of_a_row_see_each_their_own_part(name):
    """Several tiles: a piece of a prompt, whose tokens see what is before them, through a window."""
    rng = np.random.default_rng(1)
    queries, room = 150, 256
    end = np.minimum(40 + np.arange(queries), room)[None].astype(np.int32)
    first = np.maximum(0, end - 60)
    q, keys, values = drawn(rng, 1, 2, queries, 16, room)
    sums = jax.jit(partial(KERNELS[name], interpret=True))(q, keys, values, first, end)
    np.testing.assert_allclose(result(sums), oracle(q, keys, values, first, end), atol=2e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_the_bits_of_a_row_do_not_depend_on_the_others(name):
    """Nor those of a query on the ones in its tile, which may see more or less."""
    rng = np.random.default_rng(2)
    room, queries = 1024, 20
    q, keys, values = drawn(rng, 3, 1, queries, 16, room)
    run = jax.jit(partial(KERNELS[name], interpret=True))
    found = []
    for others, neighbours in ((5, 300), (room, 300), (77, 300)):
        end = np.full((3, queries), others, np.int32)
        first = np.full((3, queries), others // 2, np.int32)
        end[1], first[1, 4:] = neighbours, 0
        first[1, :4] = others % 290
        sums = run(q, keys.at[::2].add(others), values.at[::2].mul(others), first, end)
        found.append([np.asarray(x)[1, :, 4:] for x in sums])
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def lowered(kernel, platform, *, heads, queries, size, room, dtype, batch=4):
    """What Pallas makes for a platform; it raises where an operation, a block or a dtype is not supported there."""
    shapes = ((batch, heads, queries, size), (batch, heads, size, room), (batch, heads, room, size))
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    ints = [jax.ShapeDtypeStruct((batch, queries), jnp.int32)] * 2
    traced = jax.jit(partial(kernel, softcap=3.0)).trace(*arrays, *ints)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    "heads, queries, size, room, dtype",
    [
        (2, 7, 64, 1024, jnp.float32),
        (8, 4, 128, 4096, jnp.bfloat16),
        (1, 8, 256, 256, jnp.float32),
        (2, 3, 80, 128, jnp.float16),
        (2, 2 * 512, 96, 2048, jnp.bfloat16),
    ],
    ids=lambda x: str(x),
)
def test_it_lowers_for_its_device(heads, queries, size, room, dtype):
    """A step's queries, and a prompt's piece. A TPU has no float16."""
    shape = {"heads": heads, "queries": queries, "size": size, "room": room}
    assert "xla.gpu.triton" in lowered(gpu_sums, "cuda", dtype=dtype, **shape)
    if dtype != jnp.float16:
        assert "tpu_custom_call" in lowered(tpu_sums, "tpu", dtype=dtype, **shape)


def test_each_device_gets_its_own():
    """Of the one function that a cache calls."""

    def run(q, keys, values, at):
        sight = Sight(jnp.zeros((2, 1, 128)), jnp.zeros((2, 1, 128), jnp.int32), at, at + 1)
        return kernel_sums(q, keys, values, sight, Scores(scale=1.0))

    shapes = ((2, 1, 4, 64), (2, 2, 64, 128), (2, 2, 128, 64))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    traced = jax.jit(run).trace(*arrays, jax.ShapeDtypeStruct((2, 1), jnp.int32))
    for platform, call in (("cuda", "xla.gpu.triton"), ("tpu", "tpu_custom_call")):
        assert call in traced.lower(lowering_platforms=(platform,)).as_text()


def test_a_cache_whose_length_has_no_blocks_is_refused():
    q, keys, values = drawn(np.random.default_rng(0), 1, 1, 1, 16, 24)
    with pytest.raises(ValueError, match="24"):
        gpu_sums(q, keys, values, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32), interpret=True)


def test_who_sees_nothing_gets_a_number_and_counts_for_nothing():
    q, keys, values = drawn(np.random.default_rng(0), 1, 2, 2, 16, 16)
    at = jnp.zeros((1, 1), jnp.int32)
    sight = Sight(jnp.zeros((1, 1, 16)), jnp.zeros((1, 1, 16), jnp.int32), at, at)
    queries = q.reshape(1, 1, 4, 16)
    for sinks in (None, jnp.zeros(4)):
        scores = Scores(scale=1.0, sinks=sinks)
        sums = kernel_sums(queries, keys, values, sight, scores)
        assert isinstance(sums, Sums) and (np.asarray(sums.most) == np.float32(HIDDEN)).all()
        assert not np.asarray(divided(sums, queries, scores)).any()


def test_a_pass_gives_the_same_by_kernel():
    """Several new tokens, through a window and with sinks, over a prefix and a row's own; one row has no prefix."""
    rng = np.random.default_rng(4)
    width, new, heads, key_heads, size, room, count = 3, 2, 4, 2, 8, 32, 11

    def cache(kind, rows, filled):
        k, v = (jnp.asarray(rng.normal(size=(rows, key_heads, *shape)), jnp.float32) for shape in ((8, 32), (32, 8)))
        return kind((k,), (v,), jnp.zeros((rows, room))).truncated(jnp.asarray(filled, jnp.int32))

    shared, written = np.array([count, count, 0], np.int32), np.array([5, 0, 9], np.int32)
    scores = Scores(scale=0.4, window=9, softcap=4.0, sinks=jnp.array([0.5, -1.0, 3.0, 0.0]))
    q, k, v = (
        jnp.asarray(rng.normal(size=(width, new, each, size)), jnp.float32) for each in (heads, key_heads, key_heads)
    )
    positions = jnp.asarray((shared + written)[:, None] + np.arange(new)[None], jnp.int32)

    @jax.jit
    def run(own, prefix):
        over = Joined(own, Prefix(prefix, jnp.int32(count)), jnp.asarray(shared)).begin(positions)
        return over.attend(0, q, k, v, scores=scores), over.cache_after()

    found = []
    for kind in (DenseCache, KernelCache):
        rng = np.random.default_rng(5)
        out, after = run(cache(kind, width, written), cache(kind, 1, [count + 3]))
        assert type(after) is kind and isinstance(after, SharedCache)
        found.append([out, *jax.tree.leaves(after)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_an_engine_by_kernel_makes_the_plain_engine_s_tokens():
    """Greedy, rows of two prompts side by side; of weights as large as these, margins are wide."""
    config = read_config(tiny_config(num_hidden_layers=1))
    graph, weights = nnx.split(build_model(config, rngs=nnx.Rngs(0)))
    model = nnx.merge(graph, jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, weights))
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, 256, 20).astype(np.int32)] + [rng.integers(0, 256, 5).astype(np.int32)]
    found = []
    for kernel in (False, True):
        engine = Engine(replace(config, attention_kernel=kernel), model, slots=2, max_context=128)
        rows = [Row(one, SamplingParams(temperature=0.0, seed=1), budget=6, ignore_ends=True) for one in prompts]
        beside = [piece for block in engine.submit(rows) for piece in block]
        alone = [piece for block in engine.submit(rows[:1]) for piece in block]
        engine.close()
        found.append([np.concatenate([each.tokens for each in beside if each.row == row]) for row in range(2)])
        both = [[each for each in pieces if each.row == 0] for pieces in (beside, alone)]
        for ours, theirs in zip(*(np.concatenate([x.figures.logprob for x in part]) for part in both), strict=True):
            np.testing.assert_array_equal(ours, theirs)  # to the bit
    np.testing.assert_array_equal(*found)
    assert np.shape(found) == (2, 2, 6)
