"""Rows over one prefix: attention over it and over what is a row's own, joined, is attention over both at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llmlab.models.families import build_model, empty_cache, read_config
from llmlab.models.kv import joined as joined_module
from llmlab.models.kv.attend import HIDDEN, Scores, divided, joined, part_sums
from llmlab.models.kv.dense import DenseCache
from llmlab.models.kv.joined import Joined, Prefix
from llmlab.models.kv.protocol import Pass, SharedCache
from llmlab.testing import tiny_config

WIDTH, HEADS, KEY_HEADS, SIZE = 5, 6, 2, 8
COUNT, ROOM, OWN = 11, 16, 12  # of the prefix: filled, and there is room for; and the positions of a row's own cache
SHARED = np.array([COUNT, 0, COUNT, COUNT, 0], np.int32)
WRITTEN = np.array([0, 4, 5, 1, 0])  # what each row's own cache holds before the pass


def oracle(q, keys, values, at, scores):
    """softmax over what one query at position `at` sees of keys and values [S, K, H], head by head, in float64."""
    out = np.zeros((HEADS, SIZE))
    for head in range(HEADS):
        key_head = head // (HEADS // KEY_HEADS)
        first = 0 if scores.window is None else max(0, at - scores.window + 1)
        logits = keys[first : at + 1, key_head] @ q[head] * scores.scale
        if scores.softcap is not None:
            logits = scores.softcap * np.tanh(logits / scores.softcap)
        sink = [] if scores.sinks is None else [float(scores.sinks[head])]
        most = max([*logits, *sink])
        weights = np.exp(logits - most)
        total = weights.sum() + sum(np.exp(each - most) for each in sink)
        out[head] = weights @ values[first : at + 1, key_head] / total
    return out


@pytest.fixture(params=[None, 4], ids=["whole", "by blocks"])
def block(request, monkeypatch):
    """The prefix in one product, or in pieces, of which the last is not read."""
    if request.param:
        monkeypatch.setattr(joined_module, "BLOCK", request.param)


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize(
    "scores",
    [
        Scores(scale=0.3),
        Scores(scale=0.3, window=7),
        Scores(scale=0.3, window=2),
        Scores(scale=2.0, softcap=1.5, sinks=jnp.array([0.5, -1.0, 3.0, 0.0, 9.0, -50.0])),
    ],
    ids=["plain", "window", "window within the row's own", "softcap and sinks"],
)
def test_it_is_what_one_softmax_over_all_gives(block, scores, new):
    """Far within float32: rows with and without the prefix, after other numbers of tokens of their own."""
    rng = np.random.default_rng(0)
    before = rng.normal(size=(2, ROOM, KEY_HEADS, SIZE))  # past COUNT: what padding left there
    own = rng.normal(size=(2, WIDTH, OWN, KEY_HEADS, SIZE))
    q = rng.normal(size=(WIDTH, new, HEADS, SIZE))

    def dense(keys, values, filled):
        filled = jnp.where(np.arange(keys.shape[1])[None] < filled[:, None], 0.0, HIDDEN).astype(jnp.float32)
        layout = (jnp.asarray(keys, jnp.float32).transpose(0, 2, 3, 1), jnp.asarray(values, jnp.float32).swapaxes(1, 2))
        return DenseCache((layout[0],), (layout[1],), filled)

    source = Joined(
        dense(*own, WRITTEN),
        Prefix(dense(*before[:, None], np.array([ROOM])), jnp.int32(COUNT)),
        jnp.asarray(SHARED),
    )
    at = SHARED + WRITTEN
    positions = jnp.asarray(at[:, None] + np.arange(new)[None], jnp.int32)
    fresh = np.stack([own[:, row, WRITTEN[row] : WRITTEN[row] + new] for row in range(WIDTH)], axis=1)

    @jax.jit
    def run(source, positions, q, k, v):
        over = source.begin(positions)
        assert isinstance(over, Pass)
        return over.attend(0, q, k, v, scores=scores), over.cache_after()

    found, after = run(source, positions, *(jnp.asarray(x, jnp.float32) for x in (q, *fresh)))
    for row in range(WIDTH):
        keys, values = (np.concatenate([before[i, : SHARED[row]], own[i, row]]) for i in range(2))
        for step in range(new):
            expected = oracle(q[row, step], keys, values, at[row] + step, scores)
            np.testing.assert_allclose(found[row, step], expected, atol=1e-5)
    assert (np.asarray(after.filled) == 0).sum(axis=1).tolist() == (WRITTEN + new).tolist()


def test_parts_are_joined_in_any_order_and_number():
    rng = np.random.default_rng(1)
    q = jnp.asarray(rng.normal(size=(2, 1, HEADS, SIZE)) * 3, jnp.float32)
    k = jnp.asarray(rng.normal(size=(2, KEY_HEADS, SIZE, 30)), jnp.float32)
    v = jnp.asarray(rng.normal(size=(2, KEY_HEADS, 30, SIZE)), jnp.float32)
    bias, scores = jnp.zeros((2, 1, 30), jnp.float32), Scores(scale=1.0)

    def part(start, stop):
        return part_sums(q, k[..., start:stop], v[:, :, start:stop], bias[..., start:stop], scores)

    whole = divided(part(0, 30), q, scores)
    for parts in ([part(0, 1), part(1, 30)], [part(20, 30), part(0, 7), part(7, 20)]):
        sums = parts[0]
        for other in parts[1:]:
            sums = joined(sums, other)
        np.testing.assert_allclose(divided(sums, q, scores), whole, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gemma2", "gpt_oss", "deepseek_v3", "gpt2"])
def test_a_decoder_says_the_same_over_a_prefix_as_over_whole_rows(family):
    """Keys and values, windows, softcaps, sinks, latent vectors, learned positions; one row has no prefix."""
    config = read_config(tiny_config(family))
    graph, weights = nnx.split(build_model(config, rngs=nnx.Rngs(0)))
    weights = jax.tree.map(lambda x: x * 4 if x.ndim > 1 else x, weights)

    @jax.jit
    def model(tokens, positions, cache):
        decoder = nnx.merge(graph, weights)
        hidden, cache = decoder(tokens, positions, cache)
        return decoder.logits(hidden), cache

    rng = np.random.default_rng(2)
    prompt, steps = 13, 6
    ids = rng.integers(0, 256, (3, prompt + steps)).astype(np.int32)
    ids[:2, :prompt] = ids[0, :prompt]

    def at(start, stop, rows=3):
        return jnp.broadcast_to(jnp.arange(start, stop, dtype=jnp.int32)[None], (rows, stop - start))

    whole = empty_cache(config, batch=3, length=32, dtype=jnp.float32)
    _, whole = model(jnp.asarray(ids[:, :prompt]), at(0, prompt), whole)
    one = empty_cache(config, batch=1, length=16, dtype=jnp.float32)
    assert isinstance(one, SharedCache)
    _, one = model(jnp.asarray(ids[:1, :prompt]), at(0, prompt, rows=1), one)
    own = empty_cache(config, batch=3, length=32, dtype=jnp.float32)
    _, own = model(jnp.asarray(ids[:, :prompt]), at(0, prompt), own)
    own = own.truncated(jnp.array([0, 0, prompt], jnp.int32))
    shared = jnp.array([prompt, prompt, 0], jnp.int32)
    for step in range(prompt, prompt + steps):
        token = jnp.asarray(ids[:, step : step + 1])
        expected, whole = model(token, at(step, step + 1), whole)
        found, own = model(token, at(step, step + 1), Joined(own, Prefix(one, jnp.int32(prompt)), shared))
        difference = np.abs(np.asarray(found) - np.asarray(expected)).max()
        assert difference <= 1e-5, difference
