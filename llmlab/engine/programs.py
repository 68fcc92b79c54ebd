"""The compiled programs of an engine, one per shape, and a warmup that compiles all of them beforehand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float32

from llmlab.engine import decode, expand, speculate, state
from llmlab.engine import score as scoring
from llmlab.engine import score_tree as trees
from llmlab.engine.decode import Emitted
from llmlab.engine.prefill import prefill
from llmlab.engine.relay import Relay, Replay
from llmlab.engine.scheduler import SHORTEST, Row
from llmlab.engine.state import RowFields, Slots
from llmlab.errors import EngineError
from llmlab.models.config import ModelConfig
from llmlab.models.families import cache_bytes, empty_cache
from llmlab.models.kv.joined import Prefix
from llmlab.models.kv.protocol import Cache, SharedCache
from llmlab.models.sharding import placed
from llmlab.models.transformer import Transformer
from llmlab.sampling.compiled import PerOrder
from llmlab.sampling.history import history_of
from llmlab.sampling.logprobs import TokenStatistics
from llmlab.sampling.orders import layout_of, order_of
from llmlab.sampling.params import History, SamplerInputs

#: Stands for arrays that a program does not use.
_LEFT_OUT: Any = ()
#: The names of the compiled functions, as followers are told them.
_NAMES = (
    *("prefill", "forward", "chunk", "guessing", "sample", "feed", "score", "score_tree", "admit", "resize"),
    *("lengthen", "copy", "release", "advance", "unshare", "place", "empty", "cache", "expand", "seat", "take"),
)


class Programs:
    """The jitted functions of one decoder. Caches that they take are donated: the caller must not use them again.

    With a mesh, over which the decoder's weights are already spread, the caches are spread too. Where it spans several
    processes, each call is relayed, so that all of them make it (`engine.relay`).

    `compiling` says which program is being compiled, while the driver waits for it; otherwise it is None.
    """

    def __init__(
        self,
        config: ModelConfig,
        model: Transformer,
        *,
        mesh: Mesh | None = None,
        relay: Relay | None = None,
        guesses: int = 0,
        pinned: bool = False,
        context: int = 1,
    ):
        self.config, self.mesh, self.guesses = config, mesh, guesses
        # Split once: walking the module at every call would cost more than a small model's step.
        graph, weights = nnx.split(model)
        # A list, because an nnx.State is flattened in Python at every call, which a call of a single step would feel.
        self._weights, tree = jax.tree.flatten(weights)
        self.context = context
        self._graph, self._tree = graph, tree
        self.weight_bytes = sum(x.nbytes for x in self._weights)  #: on all devices together
        self.dtype, self.weights_dtype = model.dtype, model.weights_dtype
        self.adapters, self.adapted = model.adapters, bool(model.adapters)
        self.compiling: str | None = None
        self._met: set[tuple[Any, ...]] = set()
        self._sizes: dict[tuple[int, int], int] = {}
        self._compiles = threading.RLock()

        def over_weights(function: Callable[..., Any], jit: Any = jax.jit, **options: Any) -> Any:
            """Returns the compiled function; its first argument is the list of weights."""
            bound = placed(partial(function, graph), mesh)

            @wraps(bound)
            def traced(weights: list[Array], **others: Any) -> Any:
                # float32 means float32 everywhere: the faster products of GPUs and TPUs have larger errors.
                with jax.default_matmul_precision("highest"):
                    return bound(jax.tree.unflatten(tree, weights), **others)

            return jit(traced, **options)

        def plain(function: Callable[..., Any], jit: Any = jax.jit, **options: Any) -> Any:
            return jit(placed(function, mesh), **options)

        self._prefill = over_weights(prefill, donate_argnames="cache")
        self._forward = over_weights(decode.forward, donate_argnames="slots")
        # On a mesh the logits are gathered once; a sampler over a divided vocabulary would talk at each of its steps.
        # Rows are the sampler's as they are the model's, and so it takes them together.
        by_rows = None if mesh is None else False
        by_device = placed(decode.forward, mesh, by_rows=True)
        chunk = partial(decode.chunk, forward=by_device, by_rows=by_rows)
        self._chunk = over_weights(chunk, jit=PerOrder, donate_argnames="slots")
        guessing = partial(speculate.chunk, count=guesses, by_rows=by_rows, pinned=pinned)
        self._guessing = over_weights(guessing, jit=PerOrder, donate_argnames="slots")
        self._sample = plain(partial(decode.sample_masked, by_rows=by_rows), jit=PerOrder, donate_argnames="slots")
        self._feed = over_weights(scoring.feed, donate_argnames="cache")
        score = partial(scoring.score, feed=placed(scoring.feed, mesh), by_rows=by_rows)
        self._score = over_weights(score, jit=PerOrder, donate_argnames="cache")
        read, logits = placed(trees.read_tree, mesh), placed(trees.logits_of, mesh)
        of_tree = partial(trees.score_tree, read=read, logits=logits, by_rows=by_rows)
        self._score_tree = over_weights(of_tree, jit=PerOrder)
        self._expand = over_weights(expand.expand, donate_argnames="cache")
        self._seat = plain(expand.seat, donate_argnames="cache")
        self._take = plain(expand.take, donate_argnames="cache")
        self._copy = plain(state.copied)
        self._admit = plain(state.admit, donate_argnames="slots")
        self._resize = plain(state.resize)
        self._lengthen = plain(state.lengthen, static_argnames="length")
        self._release = plain(state.release)
        self._advance = plain(state.advance)
        self._unshare = plain(state.unshare)
        empty = partial(state.empty, config, dtype=self.dtype, adapted=self.adapted, keeps_ids=guesses > 0)
        self._empty = plain(empty, jit=PerOrder, more=("width", "length", "context"))
        self._place = plain(state.place, donate_argnames="cache")
        self._cache = plain(lambda length, width: empty(width=width, length=length).cache, static_argnums=(0, 1))
        one_row = partial(empty_cache, config, batch=1, length=SHORTEST, dtype=self.dtype)
        #: Whether rows can share the cache of their beginning. A text beyond the switch is read anew from there.
        self.shares = config.context_switch is None and isinstance(jax.eval_shape(one_row), SharedCache)
        self._relay = relay
        if relay is not None:
            vars(self).update({f"_{name}": relay.told(name, vars(self)[f"_{name}"]) for name in _NAMES})

    def replay(self) -> Replay:
        """Returns what makes the calls that a leader has made of the same programs."""

        def call(name: str, args: Sequence[Any], others: Mapping[str, Any]) -> Any:
            return vars(self)[f"_{_NAMES[_NAMES.index(name)]}"](*args, **others)

        return Replay(call, self._weights)

    @property
    def model(self) -> Transformer:
        """The decoder, whose parameters are the programs' own arrays.

        Raises:
            EngineError: they were freed.
        """
        if not self._weights:
            raise EngineError("this engine is closed; load the model again", status=503)
        model: Transformer = nnx.merge(self._graph, jax.tree.unflatten(self._tree, self._weights))
        return model

    def free(self) -> None:
        """Lets go of the weights, whatever still refers to the programs; they cannot be run any more."""
        self._weights = []
        if self._relay is not None:
            self._relay.close()

    def cache_bytes(self, *, width: int, length: int) -> int:
        """The bytes of a cache of W rows and S positions, on each device."""
        if (shape := (width, length)) not in self._sizes:  # asked several times for every row that is admitted
            self._sizes[shape] = cache_bytes(self.config, batch=width, length=length, dtype=self.dtype, mesh=self.mesh)
        return self._sizes[shape]

    @contextmanager
    def _shape(self, what: str, *shape: Any) -> Iterator[bool]:
        """Wraps a call; yields whether it is the first of its shape, which compiles. One thread compiles at a time."""
        if (what, *shape) in self._met:
            yield False
            return
        with self._compiles:  # two lanes that need a new shape at once would both compile it
            first = (what, *shape) not in self._met
            if first:
                self.compiling = f"compiling: {what} {' x '.join(map(str, shape))}"
            try:
                yield first
                self._met.add((what, *shape))
            finally:
                self.compiling = None

    def row_fields(self, row: Row, *, ends: tuple[int, ...], shared: int = 0, order: str = "llmlab") -> RowFields:
        """Returns what a slot holds of a row besides its cache.

        `ends` are the token ids that end every row, and `shared` tells how many of its first tokens a prefix holds.
        `order` is that of the sampler's stages.
        """
        return state.row_fields(
            row.prompt,
            row.params,
            budget=row.budget,
            ignore_ends=row.ignore_ends,
            vocab_size=self.config.vocab_size,
            ends=ends,
            made=row.made,
            adapter=row.adapter if self.adapted else None,
            shared=shared,
            order=order,
            context=self.context,
            keeps_ids=self.guesses > 0,
            states=row.states,
            negative=row.negative,
        )

    def history(
        self, prompt: np.ndarray, made: np.ndarray, *, order: str, states: Mapping[str, Any] | None = None
    ) -> History:
        """The history of one row as the programs of an order take it: prompt ids [L], generated ids [T], its states."""
        size = self.config.vocab_size
        return history_of(prompt, made, vocab_size=size, order=order_of(order), room=self.context, states=states)

    def empty(self, *, width: int, length: int, order: str = "llmlab") -> Slots:
        """Returns W inactive slots of S positions for rows that are sampled in an order."""
        layout = layout_of(order)
        with self._shape("slots", width, length, layout):
            return self._empty(width=width, length=length, order=layout, context=self.context)

    def row_cache(self, *, length: int, width: int = 1) -> Cache:
        """Returns an empty cache for one prompt, or for the rows of a search."""
        with self._shape("cache", length, width):
            return self._cache(length, width)

    def adapter(self, number: int) -> np.ndarray | None:
        """The adapter of one row as the programs take it: [1], or None in a decoder without adapters."""
        return np.array([number], np.int32) if self.adapted else None

    def prefill(
        self, cache: Cache, tokens: np.ndarray, start: int, *, length: int, adapter: int = 0
    ) -> tuple[Cache, Cache]:
        """Writes one piece of a prompt of `length` tokens into a cache; returns the piece's entries too."""
        with self._shape("prefill", tokens.shape[1], cache.length):
            at = {"start": np.int32(start), "length": np.int32(length), "adapter": self.adapter(adapter)}
            read: tuple[Cache, Cache] = self._prefill(self._weights, cache=cache, tokens=tokens, **at)
        return read

    def place(self, cache: Cache, piece: Cache, start: int) -> Cache:
        """Writes a piece's entries, as `prefill` returned them, into a cache; the piece stays valid."""
        with self._shape("place", piece.length, cache.length):
            return self._place(cache=cache, piece=piece, start=np.int32(start))

    def forward(
        self, slots: Slots, prefix: Prefix | None = None
    ) -> tuple[Slots, Float32[Array, "W V"], Float32[Array, "W V"] | None]:
        """Feeds the pending tokens and returns the logits of the next ones, and those after the negative prompts.

        Repeating the call changes nothing. `prefix` is what rows share; it stays valid.
        """
        with self._shape("forward", slots.width, slots.length, *_of(prefix), *slots.marks):
            fed: tuple[Slots, Array, Array | None] = self._forward(self._weights, slots=slots, prefix=prefix)
        return fed

    def sample(
        self,
        slots: Slots,
        logits: Float32[Array, "W V"],
        mask: np.ndarray,
        masked: np.ndarray,
        *,
        order: str,
        negative: Float32[Array, "W V"] | None = None,
    ) -> tuple[Slots, Emitted]:
        """Draws one token per row; the `masked` rows draw from what their packed `mask` [W, ceil(V / 32)] allows."""
        # Without the caches, so that one program serves every length.
        given = {"logits": logits, "mask": mask, "masked": masked, "negative": negative}
        small = slots._replace(cache=_LEFT_OUT, negative=None)
        with self._shape("sample", slots.width, order):
            drawn, emitted = self._sample(slots=small, **given, order=order)
        return drawn._replace(cache=slots.cache, negative=slots.negative), emitted

    def chunk(
        self, slots: Slots, steps: int, *, order: str, prefix: Prefix | None = None, guess: bool = False
    ) -> tuple[Slots, Emitted, bool]:
        """Runs a chunk of steps; the last value tells whether this call had to compile. The prefix stays valid.

        With `guess`, the steps are passes over guesses, for which there has to be room in the cache.
        """
        run, what = (self._guessing, "guess") if guess else (self._chunk, "decode")
        with self._shape(what, slots.width, slots.length, order, *_of(prefix)) as new:
            slots, emitted = run(self._weights, slots=slots, steps=np.int32(steps), prefix=prefix, order=order)
        return slots, emitted, new

    def score(
        self, cache: Cache, piece: scoring.Piece, inputs: SamplerInputs, history: History, *, order: str
    ) -> tuple[Cache, TokenStatistics, Mapping[str, Array] | None]:
        """Returns the statistics of a piece's targets, and the states of the stages after them."""
        with self._shape("score", cache.length, order):
            fed: tuple[Cache, TokenStatistics, Mapping[str, Array] | None] = self._score(
                self._weights, cache=cache, piece=piece, inputs=inputs, history=history, order=order
            )
        return fed

    def score_tree(
        self, cache: Cache, tree: trees.Branches, inputs: SamplerInputs, history: History, *, order: str
    ) -> TokenStatistics:
        """Returns the statistics of a tree's targets; the given cache stays valid."""
        with self._shape("score of a tree", cache.length, tree.tokens.shape[1], order):
            found: TokenStatistics = self._score_tree(
                self._weights, cache=cache, tree=tree, inputs=inputs, history=history, order=order
            )
        return found

    def feed(self, cache: Cache, piece: scoring.Piece) -> tuple[Cache, Float[Array, "C V"]]:
        """Returns the logits of a piece's targets."""
        with self._shape("feed", cache.length):
            fed: tuple[Cache, Array] = self._feed(self._weights, cache=cache, piece=piece)
        return fed

    def expand(
        self,
        cache: Cache,
        *,
        parents: np.ndarray,
        tokens: np.ndarray,
        positions: np.ndarray,
        prefix: Prefix | None = None,
        adapter: int = 0,
    ) -> tuple[Cache, Float32[Array, "W V"]]:
        """Feeds one token to each row of a search, which goes on from its parent; the prefix stays valid."""
        at = {"parents": parents, "tokens": tokens, "positions": positions}
        which = np.full(len(tokens), adapter, np.int32) if self.adapted else None
        with self._shape("search", len(tokens), cache.length, *_of(prefix)):
            fed: tuple[Cache, Array] = self._expand(self._weights, cache=cache, **at, prefix=prefix, adapter=which)
        return fed

    def seat(self, cache: Cache, one: Cache, rows: Bool[np.ndarray, " W"], count: int) -> Cache:
        """Puts the first positions of a prompt's cache, which stays valid, into some rows of a search."""
        with self._shape("seat", len(rows), one.length):
            return self._seat(cache=cache, one=one, rows=rows, count=np.int32(count))

    def take(self, cache: Cache, parents: np.ndarray) -> Cache:
        """Returns the cache of a search in which each row is its parent's."""
        with self._shape("take", len(parents), cache.length):
            return self._take(cache=cache, parents=parents)

    def copy(self, cache: Cache) -> Cache:
        """Returns a copy of one prompt's cache, for a program that takes it while others still need it."""
        with self._shape("copy", cache.length):
            return self._copy(cache)

    def admit(
        self,
        slots: Slots,
        cache: Cache,
        *rows: Row,
        at: Sequence[int],
        ends: tuple[int, ...],
        shared: int = 0,
        order: str = "llmlab",
        negative: Cache | None = None,
    ) -> Slots:
        """Puts rows that are alike (`Row.like`) into the slots `at`; the caches, of one row, stay valid.

        `ends`, `shared` and `order` are as in `row_fields`; `negative` is the cache of the negative prompt.
        """
        width = slots.width
        fields = state.fields_of_all(
            self.row_fields(rows[0], ends=ends, shared=shared, order=order),
            [row.params for row in rows],
            budgets=[row.budget for row in rows],
            states=[row.states for row in rows],
            width=width,
        )
        where, count = np.array([*at, *[0] * (width - len(rows))], np.int32), np.int32(len(rows))
        with self._shape("admit", width, slots.length, *slots.marks):
            return self._admit(slots=slots, cache=cache, fields=fields, at=where, count=count, negative=negative)

    def resize(self, slots: Slots, index: np.ndarray, keep: np.ndarray) -> Slots:
        """Returns the slots in another width."""
        with self._shape("resize", slots.width, len(index), slots.length, *slots.marks):
            return self._resize(slots, index.astype(np.int32), keep)

    def lengthen(self, cache: Cache, *, length: int) -> Cache:
        """Returns a cache with room for more positions."""
        with self._shape("lengthen", jax.tree.leaves(cache)[0].shape[0], cache.length, length):
            return self._lengthen(cache, length=length)

    def release(self, slots: Slots, keep: Bool[np.ndarray, " W"]) -> Slots:
        """Frees the slots of cancelled rows."""
        with self._shape("release", slots.width):
            return slots._replace(active=self._release(slots.active, keep))

    def unshare(self, slots: Slots) -> Slots:
        """Returns slots of which none shares a prefix, once no row that is being generated does."""
        with self._shape("unshare", slots.width):
            position, shared = self._unshare(slots.position, slots.shared)
            return slots._replace(position=position, shared=shared)

    def advance(self, slots: Slots, token: int) -> Slots:
        """Gives the row in slot 0 the token that it drew."""
        with self._shape("advance", slots.width):
            drawn, position = self._advance(slots.token, slots.position, np.int32(token))
            if (other := slots.negative_token) is not None:
                other, _ = self._advance(other, slots.position, np.int32(token))
            return slots._replace(token=drawn, position=position, negative_token=other)


def _of(prefix: Prefix | None) -> tuple[str, ...]:
    """What the shape of a program has in addition with a shared prefix."""
    return () if prefix is None else (f"after {prefix.cache.length}",)
