"""Attention over a layer of a cache, by the plain product or by the device's own kernel."""

from __future__ import annotations

from jaxtyping import Array, Float

from llmlab.models.kv.attend import Scores, Sight, Sums, divided, part_sums, windowed
from llmlab.models.kv.protocol import Entries


def attend_over(q: Float[Array, "B L N H"], entries: Entries, sight: Sight, scores: Scores) -> Float[Array, "B L N V"]:
    """What the queries get from the entries that they see."""
    return divided(sums_over(q, entries, sight, scores), q, scores)


def sums_over(q: Float[Array, "B L N H"], entries: Entries, sight: Sight, scores: Scores) -> Sums:
    """The sums of attention over the entries, to be joined with those over others."""
    keys, values = entries.keys.astype(q.dtype), entries.values.astype(q.dtype)
    if entries.kernel:
        # Late, because importing Pallas takes a while and most models run without it.
        from llmlab.models.kv.kernel import kernel_sums

        return kernel_sums(q, keys, values, sight, scores)
    bias = windowed(sight.bias, sight.back, scores.window)
    return part_sums(q, keys, values, bias, scores, keys=entries.layout)
