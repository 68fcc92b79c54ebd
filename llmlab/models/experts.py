"""A mixture of experts: a router, the experts, and the feed-forward that they may share.

Every token gets all the experts that were chosen for it, and its numbers do not depend, to the last bit, on the tokens
beside it: the products have one fixed shape, in which a row is computed alike whatever the other rows hold.

The tokens are sorted by expert and the experts run tile by tile, each tile some tokens of one expert. An expert that no
token chose is not read. `jax.lax.ragged_dot` computes the same, but XLA's CPU and GPU backends multiply every token by
every expert for it: 60 times slower at batch 1 on a CPU (32 experts, 4 a token), 10 times at batch 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int32

from llmlab.models.config import Experts, ModelConfig
from llmlab.models.int8 import product
from llmlab.models.layers import ACTIVATIONS, FeedForward, Projection
from llmlab.models.parameter import EXPERTS, UNITS, parameter

#: The most tokens of a tile.
LARGEST_TILE = 64


class Router(nnx.Module):
    """Chooses the experts of each token and weighs them, in float32 whatever the decoder's dtype.

    Its parameters are float32 too: a correction rounded to bfloat16 would choose other experts.
    """

    def __init__(self, config: ModelConfig, experts: Experts, *, rngs: nnx.Rngs):
        drawn = 0.02 * jax.random.normal(rngs.params(), (config.hidden_size, experts.count), jnp.float32)
        self.kernel = parameter(drawn, None, None)
        zeros = jnp.zeros((experts.count,), jnp.float32)
        self.bias = parameter(zeros, None) if experts.router_bias else None
        self.correction = parameter(zeros, None) if experts.correction else None
        self.experts = experts

    def __call__(self, x: Float[Array, "T D"]) -> tuple[Int32[Array, "T C"], Float32[Array, "T C"]]:
        """Each token's C experts and their weights. Of equal scores the expert with the lower number is chosen."""
        settings = self.experts
        kernel = self.kernel[...]
        logits = jnp.matmul(x.astype(jnp.float32), kernel, precision=jax.lax.Precision.HIGHEST)
        if self.bias is not None:
            logits = logits + self.bias[...][None, :]
        scores = jax.nn.sigmoid(logits) if settings.scoring == "sigmoid" else jax.nn.softmax(logits, axis=-1)
        chosen = choose(scores, self.correction[...] if self.correction is not None else None, settings)
        weights = jnp.take_along_axis(scores, chosen, axis=-1)
        if settings.renormalise:
            # The small number is DeepSeek's, for scores that are all 0.
            weights = weights / (jnp.sum(weights, axis=-1, keepdims=True) + 1e-20)
        return chosen, weights * settings.scaling


def choose(
    scores: Float32[Array, "T E"], correction: Float32[Array, " E"] | None, settings: Experts
) -> Int32[Array, "T C"]:
    """The experts of each token: the best by score and correction, of the best groups where there are groups."""
    if correction is not None:
        scores = scores + correction[None, :]
    if settings.groups > 1:
        grouped = scores.reshape(scores.shape[0], settings.groups, -1)
        best = jnp.sum(jax.lax.top_k(grouped, settings.group_best)[0], axis=-1)
        groups = jax.lax.top_k(best, settings.groups_kept)[1]
        kept = jnp.any(groups[:, :, None] == jnp.arange(settings.groups, dtype=groups.dtype)[None, None, :], axis=1)
        scores = jnp.where(kept[:, :, None], grouped, -jnp.inf).reshape(scores.shape)
    return jax.lax.top_k(scores, settings.per_token)[1]


def tile_size(tokens: int, experts: int) -> int:
    """How many tokens of one expert are computed at once, where the experts get `tokens` on the whole.

    About twice as many as an expert gets on average. Measured on a CPU (32 experts of 512 units, 4 a token): at batch 8
    tiles of 2 and 4 are the fastest, at 64 and 128 tiles of 16, at 512 tiles of 32 and 64.
    """
    wanted = min(max(2 * tokens // experts, 1), LARGEST_TILE)
    return 1 << (wanted - 1).bit_length()


def mix(
    x: Float[Array, "T D"],
    chosen: Int32[Array, "T C"],
    weights: Float32[Array, "T C"],
    expert: Callable[[Float[Array, "P D"], Int32[Array, ""]], Float[Array, "P D"]],
    *,
    count: int,
) -> Float32[Array, "T D"]:
    """The weighted sum of what each token's experts make of it.

    Args:
        x: the tokens.
        chosen: the experts of each.
        weights: of those experts.
        expert: what expert number e makes of P tokens, called as `expert(tokens, e)`.
        count: the number of experts.
    """
    tokens, each = chosen.shape
    flat = chosen.reshape(-1)
    order = jnp.argsort(flat, stable=True).astype(jnp.int32)
    sizes = jnp.zeros((count,), jnp.int32).at[flat].add(1)
    tile = tile_size(tokens * each, count)
    tiles = (sizes + (tile - 1)) // tile
    last = jnp.cumsum(tiles)  # the number of the tile after an expert's last one
    # Expert e's tile number i begins at `start[e] + i * tile`.
    start = jnp.cumsum(sizes) - sizes - (last - tiles) * tile
    # The last tile of an expert reaches into the next expert's tokens, which are computed again after it; the very last
    # one needs room after the last token.
    sorted_tokens = jnp.pad(order // each, (0, tile))

    def run(i: Int32[Array, ""], out: Float[Array, "R D"]) -> Float[Array, "R D"]:
        e = jnp.searchsorted(last, i, side="right").astype(jnp.int32)
        at = start[e] + i * tile
        rows = x[jax.lax.dynamic_slice(sorted_tokens, (at,), (tile,))]
        return jax.lax.dynamic_update_slice(out, expert(rows, e), (at, jnp.int32(0)))

    room = jnp.zeros((tokens * each + tile, x.shape[1]), x.dtype)
    out = jax.lax.fori_loop(0, last[-1], run, room)
    place = jnp.zeros_like(order).at[order].set(jnp.arange(tokens * each, dtype=jnp.int32), unique_indices=True)
    out = out[place].reshape(tokens, each, -1).astype(jnp.float32)
    return jnp.sum(out * weights[:, :, None], axis=1)


class MixtureOfExperts(nnx.Module):
    """The second half of a layer with experts.

    The experts' weights are stacked; gate and up of a unit lie side by side, as in `FeedForward`.
    """

    def __init__(self, config: ModelConfig, experts: Experts, *, dtype: DTypeLike, rngs: nnx.Rngs):
        d, f, e = config.hidden_size, experts.units, experts.count
        deep = 0.02 / math.sqrt(2 * config.num_layers)
        self.router = Router(config, experts, rngs=rngs)
        into = 0.02 * jax.random.normal(rngs.params(), (e, d, 2 * f), dtype)
        self.gate_up = parameter(into, EXPERTS, None, UNITS, summed=-2)
        out = deep * jax.random.normal(rngs.params(), (e, f, d), dtype)
        self.down = parameter(out, EXPERTS, UNITS, None, summed=-2)
        bias = experts.bias
        self.gate_up_bias = parameter(jnp.zeros((e, 2 * f), dtype), EXPERTS, UNITS) if bias else None
        self.down_bias = parameter(jnp.zeros((e, d), dtype), EXPERTS, None) if bias else None
        shared = experts.shared_units
        self.shared = FeedForward(config, units=shared, dtype=dtype, rngs=rngs) if shared else None
        gate = Projection(d, 1, axes=(None, None), dtype=dtype, rngs=rngs) if experts.shared_gate else None
        self.shared_gate = gate
        self.experts, self.activation = experts, config.hidden_act

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """The update of the residual stream."""
        tokens = x.reshape(-1, x.shape[-1])
        chosen, weights = self.router(tokens)
        mixed = mix(tokens, chosen, weights, self._expert, count=self.experts.count).astype(x.dtype).reshape(x.shape)
        if self.shared is None:
            return mixed
        shared = self.shared(x)
        if self.shared_gate is not None:
            shared = shared * jax.nn.sigmoid(self.shared_gate(x))
        return mixed + shared

    def _expert(self, x: Float[Array, "P D"], e: Int32[Array, ""]) -> Float[Array, "P D"]:
        both = product(x, _of(self.gate_up, e))
        if self.gate_up_bias is not None:
            both = both + _of(self.gate_up_bias, e)[None, :]
        both = both.reshape(both.shape[0], -1, 2)
        out = product(self._activated(both[..., 0], both[..., 1]), _of(self.down, e))
        return out if self.down_bias is None else out + _of(self.down_bias, e)[None, :]

    def _activated(self, gate: Float[Array, "P F"], up: Float[Array, "P F"]) -> Float[Array, "P F"]:
        limit = self.experts.limit
        if limit is None:
            return ACTIVATIONS[self.activation](gate) * up
        gate, up = jnp.minimum(gate, limit), jnp.clip(up, -limit, limit)
        return (up + 1) * gate * jax.nn.sigmoid(self.experts.alpha * gate)


def _of(values: nnx.Param, e: Int32[Array, ""]) -> Any:
    """What belongs to expert number e, which is in range: floats, or `Int8`."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, e, axis=0, keepdims=False), values[...])
