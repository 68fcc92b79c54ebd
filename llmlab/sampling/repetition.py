"""The stages of the library that read the sequence of tokens; their arithmetic is in `sequences`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmlab.errors import short
from llmlab.sampling.fields import Control, Field, integer, number
from llmlab.sampling.stage import Inputs, Seen, Stage

if TYPE_CHECKING:
    from jax import Array

__all__ = ["BREAKERS", "DRY", "NO_REPEAT_NGRAM"]

#: The texts that end a repetition where a request names none, as in llama.cpp and text-generation-webui.
BREAKERS = ("\n", ":", '"', "*")
_MOST_BREAKERS, _LONGEST_BREAKER = 64, 100


def _check_breakers(value: Any) -> tuple[str, ...]:
    """Texts as a tuple; there may be none."""
    texts = tuple(value) if isinstance(value, list | tuple) else None
    if texts is None or len(texts) > _MOST_BREAKERS:
        raise ValueError(f"must be a list of at most {_MOST_BREAKERS} texts, got {short(value)}")
    for text in texts:
        if not isinstance(text, str) or not 0 < len(text) <= _LONGEST_BREAKER:
            raise ValueError(f"must hold texts of 1 to {_LONGEST_BREAKER} characters, got {short(text)}")
    return texts


_BREAKERS_SCHEMA = {
    "type": "array",
    "maxItems": _MOST_BREAKERS,
    "items": {"type": "string", "minLength": 1, "maxLength": _LONGEST_BREAKER},
}


def _apply_no_repeat_ngram(logits: Array, inputs: Inputs, history: Seen) -> Array:
    from llmlab.sampling.sequences import apply_no_repeat_ngram

    return apply_no_repeat_ngram(logits, size=inputs.no_repeat_ngram_size, ids=history.ids, length=history.length)


NO_REPEAT_NGRAM = Stage(
    "no_repeat_ngram",
    "mask",
    (
        integer(
            "no_repeat_ngram_size", 0, 64, default=0, extension=True,
            text="No sequence of this many tokens occurs twice in the prompt and the answer; 0 is off.",
            control=Control("more"),
        ),
    ),
    lambda inputs: inputs.no_repeat_ngram_size > 0,
    _apply_no_repeat_ngram,
    reads_ids=True,
)  # fmt: skip


def _apply_dry(logits: Array, inputs: Inputs, history: Seen) -> Array:
    from llmlab.sampling.sequences import apply_dry

    return apply_dry(
        logits, multiplier=inputs.dry_multiplier, base=inputs.dry_base, allowed=inputs.dry_allowed_length,
        last=inputs.dry_penalty_last_n, breakers=inputs.dry_sequence_breakers, ids=history.ids,
        length=history.length,
    )  # fmt: skip


DRY = Stage(
    "dry",
    "logits",
    (
        number(
            "dry_multiplier", 0, 10, default=0.0, extension=True,
            text="How strongly tokens are penalised that would extend a repetition of earlier text; 0 is off.",
            control=Control("more", step=0.05),
        ),
        number(
            "dry_base", 1, 4, default=1.75, extension=True,
            text="The penalty for a repetition is multiplied by this for each token that it grows longer.",
            control=Control("more", step=0.05),
        ),
        integer(
            "dry_allowed_length", 1, 64, default=2, extension=True,
            text="The length from which on a repetition is penalised.",
            control=Control("more"),
        ),
        integer(
            "dry_penalty_last_n", -1, 2**31 - 1, default=-1, extension=True,
            text="How many of the last tokens are searched for repetitions; -1 searches all.",
            control=Control("more", high=4096),
        ),
        Field(
            "dry_sequence_breakers", "value", "Texts that end a repetition: no token that holds one is part of it.",
            values='texts; by default a line break, `:`, `"` and `*`', extension=True, effect="distribution",
            check=_check_breakers, schema=_BREAKERS_SCHEMA, control=Control("more", "json", empty='["\\n", ":"]'),
        ),
    ),
    lambda inputs: inputs.dry_multiplier > 0.0,
    _apply_dry,
    after=(("llama.cpp", "presence"),),
    reads_ids=True,
)  # fmt: skip
