"""Temperature, top_k, top_p and min_p: logits [B, V] -> [B, V]. Nothing is sorted over the vocabulary.

top_k and top_p are one algorithm: walk the tokens in the order (logit falling, id rising), add up a weight (1 for each,
or its probability), and keep a token while the sum strictly before it is less than a budget (k, or p). On a CPU the
walk over a large vocabulary is tried over the first `CANDIDATES` tokens, which are found in a few passes. A walk that
goes on beyond them, and elsewhere every walk, is ended by `last_kept`, which halves the range of the logits: some 20
passes over the row, where a sort costs hundreds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float32, Int32

from llmlab.sampling.fields import GREEDY
from llmlab.sampling.front import CANDIDATES, in_blocks, leading

#: The vocabulary from which on the first `CANDIDATES` tokens are found in less time than halving takes (measured for
#: 4,096, 32,768 and 151,936 tokens, 1 to 32 rows).
LARGE = 40_000

#: The halvings before the first look at whether every row has settled, and between two looks. A look costs two passes.
_FIRST, _NEXT = 12, 4
#: The values of a block in `argmax`.
_BLOCK = 32


def apply_temperature(logits: Float32[Array, "B V"], *, temperature: Float32[Array, " B"]) -> Float32[Array, "B V"]:
    """Divides by the temperature; under 1e-5 only the largest logit is left (the lowest id among equals); 1 is off.

    The largest logit is subtracted first. The distribution is the same, and in float32 it is the difference between
    a probability good to 1e-7 and one good to 1e-2 where the temperature is small: 20 / 1e-4 has no decimals left.
    """
    t = temperature[:, None]
    top = finite_max(logits)
    shifted = logits - top
    # The one that stays has 0; in a row where nothing is left it stays removed.
    cold = jnp.where(token_ids(logits) == argmax(logits)[:, None], shifted, -jnp.inf)
    scaled = shifted / jnp.maximum(t, GREEDY)
    return jnp.where(t == 1.0, logits, jnp.where(t < GREEDY, cold, scaled))


def apply_top_k(logits: Float32[Array, "B V"], *, top_k: Int32[Array, " B"]) -> Float32[Array, "B V"]:
    """Keeps exactly the k largest, ties going to the lower id; all of them where fewer are left. 0 is off."""
    off = top_k <= 0
    budget = jnp.where(off, jnp.inf, top_k.astype(jnp.float32))

    def halved() -> Last:
        least = jnp.min(jnp.where(logits > -jnp.inf, logits, jnp.inf), axis=-1)
        floor = jnp.where(least < jnp.inf, least - 1.0 - jnp.abs(least) * 1e-6, 0.0)
        return last_kept(logits, weights=None, budget=budget, floor=floor)

    return keep_up_to(logits, _walked(logits, jnp.ones_like, budget, halved, off=off), off=off)


def apply_top_p(logits: Float32[Array, "B V"], *, top_p: Float32[Array, " B"]) -> Float32[Array, "B V"]:
    """Keeps a token iff the mass strictly before it, of what is left, is less than p; the first always stays; 1 is off.

    Nucleus sampling (Holtzman et al. 2020, arXiv:1904.09751). In a tie the lower id comes first.
    """
    off = top_p >= 1.0
    tiny = jnp.finfo(jnp.float32).tiny
    top = finite_max(logits)
    weights = jnp.exp(logits - top)
    total = jnp.sum(weights, axis=-1)
    # A p so small that the product vanishes must still let the first token through.
    budget = jnp.where(off, jnp.inf, jnp.maximum(top_p * total, tiny))

    def halved() -> Last:
        # Tokens each below (1 - p) / V make up less than 1 - p together, so that the walk ends above them.
        share = jnp.maximum((1.0 - top_p) * total / logits.shape[-1], tiny)
        floor = top[:, 0] + jnp.minimum(jnp.log(share), 0.0) - 1.0
        return last_kept(logits, weights=weights, budget=budget, floor=floor)

    return keep_up_to(logits, _walked(logits, lambda first: jnp.exp(first - top), budget, halved, off=off), off=off)


def apply_min_p(logits: Float32[Array, "B V"], *, min_p: Float32[Array, " B"]) -> Float32[Array, "B V"]:
    """Removes a token iff its probability is less than min_p times the largest; 0 is off.

    Nguyen et al. 2024 (arXiv:2407.01082). It compares logits, because probabilities can underflow.
    """
    kept = logits - finite_max(logits) >= jnp.log(min_p)[:, None]
    return jnp.where(kept | (min_p <= 0.0)[:, None], logits, -jnp.inf)


class Last(NamedTuple):
    """The last token that a walk in the order (logit falling, id rising) keeps."""

    logit: Float32[Array, " B"]
    token: Int32[Array, " B"]


def keep_up_to(logits: Float32[Array, "B V"], last: Last, *, off: Bool[Array, " B"]) -> Float32[Array, "B V"]:
    """Removes the tokens after the `last` kept one, except in the rows that are `off`."""
    edge = last.logit[:, None]
    kept = (logits > edge) | ((logits == edge) & (token_ids(logits) <= last.token[:, None]))
    return jnp.where(kept | off[:, None], logits, -jnp.inf)


def _walked(
    logits: Float32[Array, "B V"],
    weigh: Callable[[Array], Array],
    budget: Float32[Array, " B"],
    halved: Callable[[], Last],
    *,
    off: Bool[Array, " B"],
) -> Last:
    """Where each row's walk ends, over its first tokens where it ends among them, else as `halved` finds it.

    Which of the two a row gets is its own: another row's long walk changes no bit of it.

    Args:
        logits: the rows.
        weigh: the weights of some tokens' logits.
        budget: of each row.
        halved: the ends of all rows' walks, by halving.
        off: rows whose walk does not matter.
    """

    def over_candidates() -> Last:
        first, ids = leading(logits, CANDIDATES)
        through = jnp.cumsum(weigh(first), axis=-1)
        before = jnp.pad(through, ((0, 0), (1, 0)))[:, :-1]
        at = jnp.maximum(jnp.sum(before < budget[:, None], axis=-1, keepdims=True), 1) - 1
        found = Last(
            logit=jnp.take_along_axis(first, at, axis=-1)[:, 0], token=jnp.take_along_axis(ids, at, axis=-1)[:, 0]
        )
        if first.shape[-1] == logits.shape[-1]:
            return found
        ended = through[:, -1] >= budget

        def both() -> Last:
            return jax.tree.map(lambda near, far: jnp.where(ended, near, far), found, halved())

        return lax.cond(jnp.all(ended | off), lambda: found, both)

    if logits.shape[-1] <= CANDIDATES:
        return over_candidates()
    if logits.shape[-1] < LARGE:
        return halved()
    return lax.platform_dependent(cpu=over_candidates, default=halved)


class _Search(NamedTuple):
    """A bracket around each row's last kept logit: weight above `high` < budget <= weight above `low`.

    A row whose whole weight is under the budget keeps its `low`, and `high` comes down to it.
    """

    low: Array
    high: Array
    before: Array  #: the weight above `high`
    edge: Array  #: the least logit above `low`
    settled: Array  #: nothing, or only equal logits, between `low` and `high`


def last_kept(
    logits: Float32[Array, "B V"],
    *,
    weights: Float32[Array, "B V"] | None,
    budget: Float32[Array, " B"],
    floor: Float32[Array, " B"],
) -> Last:
    """The last token with less than `budget` > 0 weight strictly before it, in the order (logit falling, id rising).

    `weights` are >= 0 and fall with the logits; None stands for one each, whose sums are exact in float32 up to 2**24.
    The walk must end above `floor`, or not at all. Ordering by logits rather than by probabilities keeps apart what
    the rounding of exp would merge. A row's bracket is its own: what other rows ask for only adds halvings that no
    longer change it, and so changes no bit of the result.
    """

    def above(value: Array) -> Array:
        here = logits > value[:, None]
        return jnp.sum(here if weights is None else jnp.where(here, weights, 0.0), axis=-1, dtype=jnp.float32)

    def halve(_: Array, state: _Search) -> _Search:
        middle = state.low * 0.5 + state.high * 0.5
        weight = above(middle)
        under = weight < budget
        return _Search(
            low=jnp.where(under, state.low, middle),
            high=jnp.where(under, middle, state.high),
            before=jnp.where(under, weight, state.before),
            edge=state.edge,
            settled=state.settled,
        )

    def look(state: _Search) -> _Search:
        edge = jnp.min(jnp.where(logits > state.low[:, None], logits, jnp.inf), axis=-1)
        highest = jnp.max(jnp.where(logits <= state.high[:, None], logits, -jnp.inf), axis=-1)
        # Neighbouring floats have nothing between them; without this, subnormal logits might never settle.
        middle = state.low * 0.5 + state.high * 0.5
        stuck = (middle <= state.low) | (middle >= state.high)
        return state._replace(edge=edge, settled=stuck | (edge >= highest))

    top = finite_max(logits)[:, 0]
    start = _Search(
        low=jnp.maximum(floor, jnp.finfo(jnp.float32).min),
        high=top,
        before=jnp.zeros_like(top),
        edge=top,
        settled=jnp.zeros_like(top, bool),
    )

    # One loop whose first round is longer: a loop of its own for that round would be compiled a second time.
    def round_of(carry: tuple[Array, _Search]) -> tuple[Array, _Search]:
        halvings, state = carry
        return jnp.int32(_NEXT), look(lax.fori_loop(0, halvings, halve, state))

    _, state = lax.while_loop(lambda carry: ~jnp.all(carry[1].settled), round_of, (jnp.int32(_FIRST), start))

    # Several tokens may share the last logit. Of those, the first few ids are kept: the j-th while j of them still fit.
    tied = logits == state.edge[:, None]
    count = jnp.sum(tied, axis=-1, dtype=jnp.float32)
    weight = 1.0 if weights is None else jnp.exp(state.edge - top)
    fitting = jnp.clip(jnp.ceil((budget - state.before) / weight), 1.0, count)
    everything = state.high < state.edge
    split = (fitting < count) & ~everything

    # The running count costs more than all the rest, and only a tie that is split needs it.
    def last_of_tied() -> Array:
        reached = tied & (jnp.cumsum(tied, axis=-1, dtype=jnp.int32) <= fitting.astype(jnp.int32)[:, None])
        return jnp.where(split, jnp.max(jnp.where(reached, token_ids(logits), 0), axis=-1), logits.shape[-1])

    token = lax.cond(jnp.any(split), last_of_tied, lambda: jnp.full(split.shape, logits.shape[-1], jnp.int32))
    return Last(logit=state.edge, token=token)


def finite_max(logits: Float32[Array, "B V"]) -> Float32[Array, "B 1"]:
    """The largest logit of a row; 0 where none is left, so that differences from it are never NaN."""
    top = jnp.max(logits, axis=-1, keepdims=True)
    return jnp.where(top == -jnp.inf, 0.0, top)


def argmax(values: Float32[Array, "B V"]) -> Int32[Array, " B"]:
    """The lowest id that has the largest value. Plain reductions, three times as fast as `jnp.argmax` on a CPU.

    Over a large vocabulary the largest value is looked for in the first block that has it, because a CPU takes a
    maximum over blocks four times as fast as it compares every value with it.
    """
    if values.shape[-1] <= _BLOCK * _BLOCK:
        return _first_largest(values)
    blocks = lax.optimization_barrier(in_blocks(values, _BLOCK))
    block = _first_largest(lax.optimization_barrier(jnp.max(blocks, axis=-1)))
    within = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return jnp.minimum(block * _BLOCK + _first_largest(within), values.shape[-1] - 1)


def _first_largest(values: Float32[Array, "B V"]) -> Int32[Array, " B"]:
    top = jnp.max(values, axis=-1, keepdims=True)
    return jnp.min(jnp.where(values == top, token_ids(values), values.shape[-1] - 1), axis=-1)


def token_ids(logits: Float32[Array, "B V"]) -> Int32[Array, "B V"]:
    """Each cell's token id."""
    return lax.broadcasted_iota(jnp.int32, logits.shape, 1)
