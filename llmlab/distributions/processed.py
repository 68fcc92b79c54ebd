"""The distributions that a sampler draws from, of several sequences at once that each have tokens of their own."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Float64

from llmlab.distributions.blocks import blocks, bucket
from llmlab.distributions.probabilities import log_softmax
from llmlab.errors import RequestError
from llmlab.sampling.compiled import PerOrder
from llmlab.sampling.history import history_of
from llmlab.sampling.orders import order_of, placed
from llmlab.sampling.params import History, SamplerInputs, SamplingParams, stack
from llmlab.sampling.pipeline import process
from llmlab.sampling.states import stateful

__all__ = ["Processed"]


class Processed:
    """Log-probabilities after the sampler's stages, for continuations of one prompt under one setting.

    Args:
        params: the sampler's settings.
        prompt_ids: the prompt's token ids [L].
        end_ids: the tokens that end an answer, which `min_tokens` holds back.
        most: the most tokens of a continuation.
        order: the order of the sampler's stages.

    Raises:
        RequestError: the order lacks a stage that the settings ask for, or has a stage with a state of its own, or one
            that compares with a negative prompt.
    """

    def __init__(
        self,
        params: SamplingParams,
        *,
        prompt_ids: np.ndarray,
        end_ids: Sequence[int],
        most: int,
        order: str,
    ) -> None:
        self._params, self._prompt, self._ends = params, prompt_ids, tuple(end_ids)
        self._order = placed(order, [params])
        # One size for the whole search, and a power of two, so that few searches compile anything.
        self._room = 1 << (len(prompt_ids) + most).bit_length()
        self._stages = order_of(self._order)
        for stage in stateful(self._stages):
            field = next((one.name for one in stage.fields), stage.name)
            raise RequestError(
                f"the stage {stage.name} adjusts itself to every token that is drawn, which a search over many "
                f"sequences does not do: leave {field} out",
                param=field,
            )
        for stage in self._stages:
            if stage.reads_negative:
                field = next((one.name for one in stage.fields), stage.name)
                raise RequestError(
                    f"the stage {stage.name} compares with a negative prompt, which a search does not read: leave "
                    f"{field} out",
                    param=field,
                )
        self._neutral: bool | None = None

    def _is_neutral(self, vocab_size: int) -> bool:
        """Whether no stage does anything."""
        if self._neutral is None:
            inputs = self._inputs(1, vocab_size)
            self._neutral = not any(np.asarray(stage.active(inputs)).any() for stage in self._stages)
        return self._neutral

    def _inputs(self, count: int, vocab_size: int) -> SamplerInputs:
        return stack([self._params] * count, vocab_size=vocab_size, ends=self._ends, order=self._stages)

    def logprobs(
        self,
        logits: Float32[np.ndarray, "K V"],
        made: Sequence[Sequence[int]],
        *,
        allowed: Bool[np.ndarray, "K V"] | None = None,
    ) -> Float64[np.ndarray, "K V"]:
        """Returns the log-probability of every next token of K sequences; -inf where it cannot be drawn.

        Args:
            logits: the model's, before every stage.
            made: the tokens of each sequence after the prompt.
            allowed: the tokens that a grammar allows; a row that has none of them gets -inf everywhere.
        """
        if allowed is None and self._is_neutral(logits.shape[1]):
            return log_softmax(logits)
        found = [
            self._block(logits[at], [made[i] for i in at], None if allowed is None else allowed[at])
            for at in blocks(range(len(made)), V=logits.shape[1])
        ]
        final = np.concatenate(found)
        if allowed is None:
            return log_softmax(final)
        some = allowed.any(axis=1)
        logprobs = np.full(final.shape, -np.inf)
        logprobs[some] = log_softmax(final[some])
        return logprobs

    def _block(
        self, logits: np.ndarray, made: Sequence[Sequence[int]], allowed: np.ndarray | None
    ) -> Float32[np.ndarray, "K V"]:
        count, V = logits.shape
        more = bucket(count) - count
        histories = [self._history(one, V) for one in made]
        history = jax.tree.map(lambda *x: np.concatenate(x), *histories, *[histories[-1]] * more)
        inputs = self._inputs(count + more, V)
        if allowed is not None:
            bits = np.ones((count + more, -(-V // 32) * 32), bool)
            bits[:count, :V] = allowed
            packed = np.packbits(bits, axis=1, bitorder="little").view(np.uint32)
            inputs = inputs._replace(mask=packed, masked=np.ones(count + more, bool))
        padded = np.concatenate([logits, np.repeat(logits[-1:], more, axis=0)])
        return np.asarray(_final(jnp.asarray(padded), inputs, history, order=self._order))[:count]

    def _history(self, made: Sequence[int], vocab_size: int) -> History:
        return history_of(
            self._prompt, np.array(made, np.int32), vocab_size=vocab_size, order=self._stages, room=self._room
        )


@PerOrder
def _final(logits: Array, inputs: SamplerInputs, history: History, *, order: str) -> Array:
    """The logits that tokens are drawn from."""
    return process(logits, inputs, history, order=order_of(order))
