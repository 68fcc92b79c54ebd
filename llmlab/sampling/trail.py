"""The logits that tokens were drawn from, for the states of stages at any of these tokens, under any settings.

A state follows from the tokens of an answer and from their logits. So it is computed again where a step of an answer is
looked at, under the settings that are asked about: the state that these settings have after the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, Int32, UInt32

from llmlab.sampling.compiled import PerOrder
from llmlab.sampling.history import history_of
from llmlab.sampling.orders import order_of
from llmlab.sampling.params import History, SamplerInputs, SamplingParams
from llmlab.sampling.pipeline import replay
from llmlab.sampling.stage import reads_negative
from llmlab.sampling.states import no_states, stateful

__all__ = ["Masks", "Negative", "Pieces", "Trail"]

#: Returns the packed masks of a row's grammar at each token [T, W].
Masks: TypeAlias = Callable[[], UInt32[np.ndarray, "T W"]]

#: The number of tokens of one call of the compiled program; shorter pieces are padded to it.
_PIECE = 32
#: Up to so many rows, what was computed last is kept: whoever looks at one step after the other goes on from there.
_FEW = 8


class _Reached(NamedTuple):
    """The last history that was computed: for which rows, and after how many tokens."""

    order: str
    rows: tuple[SamplingParams, ...]
    masks: tuple[Masks | None, ...]
    tokens: int
    history: History


class Pieces:
    """Rows that come in pieces of any size, and are taken in others."""

    def __init__(self, pieces: Iterator[np.ndarray]) -> None:
        self._pieces, self._held = pieces, list[np.ndarray]()

    def take(self, count: int) -> np.ndarray:
        """Returns the next `count` rows."""
        while sum(map(len, self._held)) < count:
            self._held.append(next(self._pieces))
        found = np.concatenate(self._held)
        self._held = [found[count:]]
        return found[:count]


class Negative(NamedTuple):
    """How the logits after a negative prompt and the tokens of an answer are read, when a stage asks for them."""

    read: Callable[[], Iterable[Float32[np.ndarray, "C V"]]]  #: at each of the tokens, in pieces
    after: Callable[[], Float32[np.ndarray, " V"]] | None = None  #: after the last of them


class Trail:
    """The tokens of an answer with their logits, which are read when a state is asked for.

    Args:
        read: returns the raw logits that each of the tokens was drawn from, in pieces [C, V].
        prompt: the prompt's token ids [L].
        made: the token ids generated after it [T].
        negative: reads the logits after the negative prompt, for orders with a stage that compares with them.
    """

    def __init__(
        self,
        read: Callable[[], Iterable[Float32[np.ndarray, "C V"]]],
        *,
        prompt: Int32[np.ndarray, " L"],
        made: Int32[np.ndarray, " T"],
        negative: Negative | None = None,
    ) -> None:
        self._read, self._other = read, negative
        self._prompt, self._made = prompt, made
        self._reached: _Reached | None = None

    @cached_property
    def _logits(self) -> Float32[np.ndarray, "T V"]:
        return np.concatenate(list(self._read()))

    @cached_property
    def _negative(self) -> Float32[np.ndarray, "T V"]:
        assert self._other is not None, "the logits after the negative prompt are not known here"
        return np.concatenate(list(self._other.read()))

    @cached_property
    def _negative_after(self) -> Float32[np.ndarray, " V"]:
        assert self._other is not None and self._other.after is not None, "the negative prompt's logits are not known"
        return self._other.after()

    def negative(self, count: int) -> Float32[np.ndarray, " V"]:
        """The logits after the negative prompt and the first `count` tokens."""
        return self._negative[count] if count < len(self._made) else self._negative_after

    def states(
        self,
        inputs: SamplerInputs,
        *,
        order: str,
        rows: Sequence[SamplingParams],
        masks: Sequence[Masks | None],
        count: int | None = None,
    ) -> Mapping[str, np.ndarray] | None:
        """The states of an order's stages after the first `count` tokens, or all; None where no stage has one.

        Args:
            inputs: the settings of B rows, except masks.
            order: the key of the order.
            rows: the same settings.
            masks: what each row's grammar allowed at each token.
            count: the number of tokens.
        """
        stages, count = order_of(order), len(self._made) if count is None else count
        if not stateful(stages):
            return None
        if not count:
            return no_states(stages, rows=len(rows))
        asked = order, tuple(rows), tuple(masks)
        last = self._reached
        if last is not None and last[:3] == asked and last.tokens <= count:
            at, history = last.tokens, last.history
        else:
            V = inputs.bias.shape[-1]
            none = history_of(self._prompt, self._made[:0], vocab_size=V, order=stages, room=self._room)
            at, history = 0, jax.tree.map(lambda x: np.repeat(x, len(rows), axis=0), none)
        allowed = [None if one is None else one() for one in masks]
        while at < count:
            here = slice(at, min(at + _PIECE, count))
            raw, targets = self._logits[here], self._made[here].astype(np.int32)
            room = _PIECE - len(targets)
            negative = np.pad(self._negative[here], ((0, room), (0, 0))) if reads_negative(stages) else None
            history = _replayed(
                np.pad(raw, ((0, room), (0, 0))), np.pad(targets, (0, room)), np.arange(_PIECE) < len(targets),
                inputs._replace(mask=None, masked=np.zeros(len(rows), bool), negative=None), history,
                _stacked(allowed, here, words=-(-raw.shape[1] // 32)), negative, order=order,
            )  # fmt: skip
            at = here.stop
        if len(rows) <= _FEW:
            self._reached = _Reached(*asked, count, history)
        assert history.states is not None
        return {name: np.asarray(x) for name, x in history.states.items()}

    @property
    def _room(self) -> int:
        return 1 << (len(self._prompt) + len(self._made)).bit_length()


def _stacked(allowed: Sequence[np.ndarray | None], here: slice, *, words: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The masks [_PIECE, B, W] at some tokens, and where they count; None where no row has any."""
    if all(one is None for one in allowed):
        return None
    mask, masked = np.zeros((_PIECE, len(allowed), words), np.uint32), np.zeros((_PIECE, len(allowed)), bool)
    for row, one in enumerate(allowed):
        if one is not None:
            part = one[here]
            mask[: len(part), row], masked[: len(part), row] = part, True
    return mask, masked


@PerOrder
def _replayed(
    logits: Array,
    targets: Array,
    counts: Array,
    inputs: SamplerInputs,
    history: History,
    masks: Any,
    negative: Any,
    *,
    order: str,
) -> History:
    found, _ = replay(
        logits, targets, counts, inputs, jax.tree.map(jnp.asarray, history), order=order_of(order), masks=masks,
        negative=negative, keeps=False,
    )  # fmt: skip
    return found
