"""The decoder against itself: what must not change its numbers does not. (Against torch: tests/reference.)

Five programs serve all tests of a family: a full pass over 24 and 32 tokens, and a cached one over 1, 10 and 24.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llmlab.models.families import build_model, empty_cache, families, read_config
from llmlab.testing import tiny_config

LENGTH, ROOM = 24, 32


#: Families that have between them every kind of layer, cache and rotation. The others are exhaustive: the comparison
#: with torch generates from a cache and in a batch for each of them too.
KINDS = (
    "llama",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi3",
    "gpt2",
    "olmo3",
    "cohere2",
    "glm4",
    "gpt_oss",
    "qwen3_moe",
    "deepseek_v3",
)
FAMILIES = [
    pytest.param(name, marks=[] if name in KINDS else [pytest.mark.slow, pytest.mark.exhaustive]) for name in families()
]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    config = read_config(tiny_config(request.param))
    graph, weights = nnx.split(build_model(config, rngs=nnx.Rngs(0)))
    return nnx.merge(graph, jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, weights))


def tokens():
    return np.random.default_rng(0).integers(0, 256, (3, LENGTH)).astype(np.int32)


@partial(jax.jit, static_argnums=0)
def _run(graph, weights, ids, positions, cache):
    model = nnx.merge(graph, weights)
    hidden, cache = model(ids, positions, cache)
    return model.logits(hidden), cache


def run(model, ids, positions, cache=None):
    """The logits, and the cache after them."""
    logits, cache = _run(*nnx.split(model), jnp.asarray(ids), jnp.asarray(positions, jnp.int32), cache)
    return np.asarray(logits), cache


def whole(model, ids):
    return run(model, ids, np.broadcast_to(np.arange(ids.shape[1]), ids.shape))[0]


def empty(model):
    return empty_cache(model.config, batch=3, length=ROOM, dtype=jnp.float32)


def test_cached_decoding_equals_the_full_forward_pass(model):
    ids, cache = tokens(), empty(model)
    expected = whole(model, ids)
    for at in range(LENGTH):
        logits, cache = run(model, ids[:, at : at + 1], np.full((3, 1), at), cache)
        np.testing.assert_allclose(logits[:, 0], expected[:, at], atol=1e-4)


def test_prefill_in_pieces_equals_the_full_forward_pass(model):
    ids, cache = tokens(), empty(model)
    expected = whole(model, ids)
    for start, stop in ((0, 10), (10, 11), (11, 21), (21, 22)):
        positions = np.broadcast_to(np.arange(start, stop), (3, stop - start))
        logits, cache = run(model, ids[:, start:stop], positions, cache)
        np.testing.assert_allclose(logits, expected[:, start:stop], atol=1e-4)


def test_a_padded_row_equals_the_row_alone(model):
    ids = tokens()
    padded = np.concatenate([ids, np.full((3, ROOM - LENGTH), 99, np.int32)], axis=1)
    np.testing.assert_allclose(whole(model, padded)[:, :LENGTH], whole(model, ids), atol=1e-5)


def test_rows_of_different_lengths_share_a_batch(model):
    """Each row of a cached batch writes at its own position."""
    ids, lengths = tokens(), np.array([7, 19, 12])
    _, cache = run(model, ids, np.broadcast_to(np.arange(LENGTH), ids.shape), empty(model))
    cache = cache.truncated(jnp.asarray(lengths, jnp.int32))
    logits, _ = run(model, np.full((3, 1), 65, np.int32), lengths[:, None], cache)
    alone = ids.copy()
    alone[np.arange(3), lengths] = 65  # what comes after it does not count: no token sees it
    expected = whole(model, alone)[np.arange(3), lengths]
    np.testing.assert_allclose(logits[:, 0], expected, atol=1e-4)
