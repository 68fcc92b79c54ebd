"""Teacher forcing of many texts in one pass of the model: the device's side of `engine.score_plan`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32, UInt32

from llmlab.engine.prefill import ACCELERATOR_SIZES, SIZES
from llmlab.engine.scheduler import Row
from llmlab.engine.score_plan import Packed, Text, plan
from llmlab.models.kv.protocol import Cache
from llmlab.models.kv.tree import Tree, on_the_way
from llmlab.sampling.logprobs import TokenStatistics, token_statistics
from llmlab.sampling.orders import order_of
from llmlab.sampling.params import History, SamplerInputs, SamplingParams
from llmlab.sampling.pipeline import process


class Branches(NamedTuple):
    """A tree of L tokens after `start` others, and P targets that follow some of its tokens.

    The first `asked` targets count. A target's context is `prompts` tokens of a prompt, and generated ones after them.
    """

    tokens: Int32[Any, "1 L"]
    positions: Int32[Any, "1 L"]
    ends: Int32[Any, " L"]
    start: Int32[Any, ""]
    nodes: Int32[Any, " P"]
    targets: Int32[Any, " P"]
    prompts: Int32[Any, " P"]
    asked: Int32[Any, ""]
    mask: UInt32[Any, "P W"]
    masked: Bool[Any, " P"]
    adapter: Int32[Any, " 1"] | None = None  #: of all texts, in a decoder that has adapters


def tree_sizes() -> tuple[int, ...]:
    """The sizes L that programs are compiled for; P is the largest. The smallest is that of a block of targets."""
    return SIZES if jax.default_backend() == "cpu" else ACCELERATOR_SIZES


def branches(packed: Packed, texts: Sequence[Text], *, vocab_size: int, adapter: np.ndarray | None) -> Branches:
    """Returns what a pass takes, padded to one of the sizes."""
    sizes = tree_sizes()
    room = sizes[-1]
    size = next(size for size in sizes if size >= len(packed.tokens))
    inside = [texts[at] for at in packed.texts]
    asked = len(packed.nodes)

    def filled(x: np.ndarray, size: int) -> np.ndarray:
        return np.pad(x, (0, size - len(x))).astype(np.int32)

    mask, masked, at = np.zeros((room, -(-vocab_size // 32)), np.uint32), np.zeros(room, bool), 0
    for text in inside:
        if text.masks is not None:
            mask[at : at + len(text.tokens)] = text.masks[: len(text.tokens)]
            masked[at : at + len(text.tokens)] = True
        at += len(text.tokens)
    lengths = [len(text.tokens) for text in inside]
    return Branches(
        tokens=filled(packed.tokens, size)[None, :],
        positions=filled(packed.positions, size)[None, :],
        # The padding lies below no token and has none below it.
        ends=filled(packed.ends, size),
        start=np.int32(packed.start),
        nodes=filled(packed.nodes, room),
        targets=filled(np.concatenate([text.tokens for text in inside]), room),
        prompts=filled(np.repeat([len(text.row.prompt) for text in inside], lengths), room),
        asked=np.int32(asked),
        mask=mask,
        masked=masked,
        adapter=adapter,
    )


def every_size(*, vocab_size: int, adapter: np.ndarray | None) -> Iterator[Branches]:
    """Yields a pass of each size that programs are compiled for."""
    row = Row(np.zeros(1, np.int32), SamplingParams(), budget=0)
    for size in tree_sizes():
        text = Text(row, np.zeros(size, np.int32))
        (packed,) = plan([text], room=size, sizes=())
        yield branches(packed, [text], vocab_size=vocab_size, adapter=adapter)


def read_tree(graph: nnx.GraphDef, weights: nnx.State, cache: Cache, tree: Branches) -> Float[Array, "L D"]:
    """The hidden states of a tree's tokens; the cache is only read."""
    model = nnx.merge(graph, weights)
    if tree.adapter is not None:
        model.choose(tree.adapter)
    length = jnp.max(tree.positions, axis=1) + 1
    hidden, _ = model(tree.tokens, tree.positions, Tree(cache, tree.start, tree.ends), length=length)
    return hidden[0]


def logits_of(
    graph: nnx.GraphDef, weights: nnx.State, hidden: Float[Array, "C D"], adapter: Int32[Array, " 1"] | None
) -> Float[Array, "C V"]:
    """The logits that follow from hidden states."""
    model = nnx.merge(graph, weights)
    if adapter is not None:
        model.choose(adapter)
    return model.logits(hidden[None])[0]


def score_tree(
    graph: nnx.GraphDef,
    weights: nnx.State,
    cache: Cache,
    tree: Branches,
    inputs: SamplerInputs,
    history: History,
    *,
    order: str,
    read: Callable[..., Float[Array, "L D"]] = read_tree,
    logits: Callable[..., Float[Array, "C V"]] = logits_of,
    by_rows: bool | None = None,
) -> TokenStatistics:
    """Returns the statistics [P, ...] of the targets of a tree; those after the `asked` ones mean nothing.

    They are computed for a block of targets at a time, because several arrays [C, V] are needed on the way.

    Args:
        graph: of the decoder.
        weights: of the decoder.
        cache: of one row; its first `tree.start` positions hold what comes before the tree.
        tree: the tokens and the targets.
        inputs: the settings of all texts, except their masks; 1 as first axis.
        history: of what comes before the tree; 1 as first axis.
        order: the name of the order of the stages.
        read: `read_tree`, with its result put in its place on a mesh.
        logits: `logits_of`, likewise.
        by_rows: as in `pipeline.run`.
    """
    hidden = read(graph, weights, cache, tree)
    size = tree_sizes()[0]
    inputs = jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape[1:])), inputs)

    def block(at: Int32[Array, ""]) -> TokenStatistics:
        def cut(x: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(jnp.asarray(x), at, size)

        nodes, targets, prompts = cut(tree.nodes), cut(tree.targets), cut(tree.prompts)
        raw = logits(graph, weights, hidden[nodes], tree.adapter)
        seen = _seen(tree, nodes, prompts, history)
        under = inputs._replace(mask=cut(tree.mask), masked=cut(tree.masked))
        final = process(raw, under, seen, order=order_of(order), by_rows=by_rows)
        return token_statistics(raw, final, targets, watched=under.watched)

    def body(i: Int32[Array, ""], out: TokenStatistics) -> TokenStatistics:
        at = i * size
        return jax.tree.map(lambda held, new: jax.lax.dynamic_update_slice_in_dim(held, new, at, 0), out, block(at))

    count = tree.targets.shape[0]
    shapes = jax.eval_shape(block, jnp.int32(0))
    out = jax.tree.map(lambda x: jnp.zeros((count, *x.shape[1:]), x.dtype), shapes)
    found: TokenStatistics = jax.lax.fori_loop(0, -(-tree.asked // size), body, out)
    return found


def _seen(tree: Branches, nodes: Int32[Array, " C"], prompts: Int32[Array, " C"], before: History) -> History:
    """The histories before the targets that follow `nodes`: what comes before the tree, and the way to the node."""
    way = on_the_way(jnp.asarray(tree.ends), nodes)
    positions, ids = jnp.asarray(tree.positions)[0], jnp.asarray(tree.tokens)
    of_prompt = positions[None, :] < prompts[:, None]
    rows, count = jnp.arange(nodes.shape[0])[:, None], nodes.shape[0]
    prompt = jnp.broadcast_to(before.prompt, (count, before.prompt.shape[1]))
    counts = jnp.broadcast_to(before.counts, prompt.shape)
    return History(
        prompt=prompt.at[rows, ids].max(way & of_prompt),
        counts=counts.at[rows, ids].add((way & ~of_prompt).astype(counts.dtype)),
        position=positions[nodes] + 1 - prompts,
    )
