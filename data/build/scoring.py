"""Teacher forcing: the exact probability that a model gives to a known answer, without decoding.

Greedy decoding writes an expected answer exactly if each of its tokens is the most likely one after the tokens before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from data.build.conversation import Conversation, assistant
from data.build.packing import Encoder
from llmlab.models.kv.uncached import Uncached
from llmlab.models.transformer import Transformer

BUCKETS = (64, 160, 384, 1024)
TokenLogprobs = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[Any, Any]]


def packed_logits(model: Transformer, tokens: jax.Array, positions: jax.Array, segments: jax.Array) -> jax.Array:
    """Logits [B, L, V] of rows that hold several conversations, each of which attends only to itself."""
    hidden, _ = model(tokens, positions, Uncached(segments))
    return model.logits(hidden)


def token_logprobs(
    model: Transformer, tokens: jax.Array, positions: jax.Array, segments: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Log-probability [B, L] of each token given those before it, and whether it is the most likely one."""
    logits = packed_logits(model, tokens, positions, segments)[:, :-1]
    targets = tokens[:, 1:]
    logprobs = -optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    first = jnp.zeros((tokens.shape[0], 1))
    hit = jnp.argmax(logits, axis=-1) == targets
    return jnp.concatenate([first, logprobs], 1), jnp.concatenate([first > 0, hit], 1)


class Teacher:
    """Scores last assistant turns. ``logprobs(tokens, positions, segments)`` is :func:`token_logprobs` of a model."""

    def __init__(self, encoder: Encoder, logprobs: TokenLogprobs, *, tokens_per_batch: int = 4096) -> None:
        self.encoder = encoder
        self._logprobs = logprobs
        self._tokens = tokens_per_batch

    def score(self, conversations: Sequence[Conversation]) -> tuple[list[float], list[bool]]:
        """Log-probability in nats of each last assistant turn, end token included; whether greedy decoding writes it."""
        encoded = self.encoder.encode(conversations)
        logprobs, right = [0.0] * len(encoded), [False] * len(encoded)
        for low, length in zip((0, *BUCKETS), BUCKETS, strict=False):
            members = [i for i, ids in enumerate(encoded) if low < len(ids) <= length]
            size = max(1, self._tokens // length)
            for start in range(0, len(members), size):
                chosen = members[start : start + size]
                tokens, segments, last = (np.zeros((size, length), np.int32) for _ in range(3))
                for row, index in enumerate(chosen):
                    ids = encoded[index]
                    tokens[row, : len(ids)], segments[row, : len(ids)] = ids, 1
                    last[row, : len(ids)] = self._last_turn(ids)
                positions = np.tile(np.arange(length, dtype=np.int32), (size, 1))
                values, hits = (np.asarray(value) for value in self._logprobs(tokens, positions, segments))
                for row, index in enumerate(chosen):
                    logprobs[index] = float((values[row] * last[row]).sum())
                    right[index] = bool(hits[row][last[row] > 0].all())
        return logprobs, right

    def divergences(self, rows: Sequence[dict[str, Any]]) -> list[float]:
        """KL(truth || model) in nats for each row of ``truth.jsonl``; an answer includes its end token."""
        answers = [(i, answer, p) for i, row in enumerate(rows) for answer, p in row["distribution"].items()]
        conversations = [
            Conversation("distributions", [*rows[i]["messages"], assistant(answer)]) for i, answer, _ in answers
        ]
        logprobs, _ = self.score(conversations)
        divergences = [0.0] * len(rows)
        for (index, _, probability), logprob in zip(answers, logprobs, strict=True):
            divergences[index] += probability * (math.log(probability) - logprob)
        return divergences

    def _last_turn(self, ids: list[int]) -> np.ndarray:
        weights = (self.encoder.weights(ids) == 1).astype(np.int32)
        header = list(self.encoder.header)
        starts = [i for i in range(len(ids)) if ids[i : i + len(header)] == header]
        weights[: starts[-1]] = 0
        return weights
