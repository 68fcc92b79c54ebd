"""The settings of the sampler: `SamplingParams` is one row as a request states it, `SamplerInputs` a batch of rows.

`stack` turns the first into the second, a pytree whose every array leads with B, so that a row can be written into a
slot with one `jax.tree.map`. Both have an attribute for each field that a stage declares (`llmlab.sampling.stages`). No
field is static: a sweep over any of them runs one compiled program.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, make_dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Float32, Int32

from llmlab.sampling.fields import Field
from llmlab.sampling.registry import further_fields, further_fields_of
from llmlab.sampling.stage import Order
from llmlab.sampling.stages import FIELDS

#: The type of a field's value in one row, and of its array in a batch.
_TYPES: Mapping[str, tuple[type, type]] = {"number": (float, np.float32), "integer": (int, np.int32)}
_SCALARS = tuple(one for one in FIELDS.values() if one.is_scalar)


def _entry(one: Field) -> tuple[str, Any, Any]:
    """A field as `make_dataclass` takes it, with its neutral value as the default."""
    if one.is_scalar:
        return one.name, _TYPES[one.kind][0], field(default=one.neutral)
    return one.name, Mapping[int, float], field(default_factory=dict)


_ROW = [
    *map(_entry, FIELDS.values()),
    ("seed", int, field(default=0)),
    ("choice", int, field(default=0)),
    ("stop_token_ids", tuple[int, ...], field(default=())),
    ("logprob_token_ids", tuple[int, ...], field(default=())),
    ("statistics", bool, field(default=True)),
    ("extra", Mapping[str, float], field(default_factory=dict)),
]
_Row: Any = make_dataclass("_Row", _ROW, frozen=True)


class SamplingParams(_Row):
    """One row's sampling fields, spelled and bounded as the API has them; each default leaves every logit as it is.

    Ranges are the request's to check. `top_k` 0 is off. `seed` is a signed 64-bit integer, `choice` the index among the
    n answers to one request; together with the position they fix the noise. `stop_token_ids` are tokens that end this
    row besides the model's own end tokens, `logprob_token_ids` tokens whose logprobs are recorded at every step.
    `statistics` is false where nobody asks for logprobs, ranks or entropies, which then cost nothing. `extra` holds the
    values of the fields that further stages own (`llmlab.sampling.registry`), without those at their neutral values.
    """

    @classmethod
    def of(cls, request: object, *, seed: int, choice: int = 0) -> SamplingParams:
        """The sampling fields of a request, or of anything that has them as attributes."""
        fields = {name: getattr(request, name) for name in FIELDS}
        named = ("stop_token_ids", "logprob_token_ids")
        tokens = {name: tuple(getattr(request, name, None) or ()) for name in named}
        further = {name: getattr(request, name, one.neutral) for name, one in further_fields().items()}
        # Also fields of a stage that was defined anew since the request was made.
        further |= getattr(request, "model_extra", None) or {}
        return cls(**fields, **tokens, seed=seed, choice=choice).changed(**further)

    def changed(self, **values: Any) -> SamplingParams:
        """These settings with other values of some fields, those of further stages among them."""
        own = {name: value for name, value in values.items() if name in FIELDS}
        extra = {**self.extra, **{name: value for name, value in values.items() if name not in FIELDS}}
        known = further_fields()
        on = {name: value for name, value in extra.items() if name not in known or value != known[name].neutral}
        return replace(self, **own, extra=on)

    def value_of(self, one: Field) -> Any:
        """The value of a field of any stage."""
        return getattr(self, one.name) if one.name in FIELDS else self.extra.get(one.name, one.neutral)


#: The arrays of a batch besides one per numeric field.
_OTHERS = ("bias", "biased", "mask", "masked", "negative", "ends", "seed", "choice", "watched", "statistics", "extra")
#: The most tokens whose logprobs a row can ask for by their ids.
WATCHED = 20
# Neither the type checker nor a reader knows the fields by name here: `stages` lists them.
_Batch: Any = cast(Any, namedtuple)("_Batch", [*(one.name for one in _SCALARS), *_OTHERS])


class SamplerInputs(_Batch):
    """The rows of a batch as arrays: NumPy's from `stack`, JAX's on a device. V is the width of the model's logits.

    Attributes:
        temperature, top_k, ...: one array [B] per numeric field of a stage, float32 or int32.
        bias: float32 [B, V], from `logit_bias`.
        biased: bool [B], whether the row has a bias at all.
        mask: uint32 [B, ceil(V / 32)], the allowed tokens, bit i % 32 of word i // 32; None without grammars.
        masked: bool [B], whether the row's mask counts.
        negative: float32 [B, V], the model's logits after the negative prompt, at the step that is sampled; None where
            no stage of the order reads them.
        ends: bool [B, V], the tokens that end a generation.
        seed: uint32 [B, 2], the high and the low word of the 64-bit seed.
        choice: int32 [B].
        watched: int32 [B, WATCHED], tokens whose logprobs are recorded; -1 past a row's own.
        statistics: bool [B], whether the statistics of the row's tokens are wanted.
        extra: name -> one array [B] per field of the stages that an order has beyond the built-in ones. Its entries can
            be read as attributes too, so that a stage need not know where its fields are held.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.extra:
            raise AttributeError(f"no stage of this order has a field {name!r}")
        return self.extra[name]


class History(NamedTuple):
    """What the rows have seen so far. The engine keeps it; a penalty reads it."""

    prompt: Bool[Any, "B V"]  #: the tokens that occur in the prompt
    counts: Int32[Any, "B V"]  #: how often each token was generated, reasoning included
    position: Int32[Any, " B"]  #: how many tokens were generated
    #: The tokens so far, the prompt's first; what lies from `length` on means nothing. None where nothing reads them.
    ids: Int32[Any, "B S"] | None = None
    length: Int32[Any, " B"] | None = None  #: how many tokens there are so far, the prompt's among them
    #: The states of the order's stages that have one, by name, [B] or [B, k]; they mean nothing before the first
    #: generated token. None where no stage of the order has one.
    states: Mapping[str, Float32[Any, "B ..."]] | None = None


def seed_words(seed: int) -> tuple[int, int]:
    """The high and the low 32 bits of a signed 64-bit seed, two's complement: all of it counts."""
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must be a signed 64-bit integer, not {seed}")
    return (seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF


def stack(
    rows: Sequence[SamplingParams], *, vocab_size: int, ends: Iterable[int] = (), order: Order = ()
) -> SamplerInputs:
    """The rows as numpy arrays, ready to be put on a device; nothing is compiled.

    `ends` are the ids of the tokens that end every row; `min_tokens` holds them back, and a row's own. There is no mask
    yet: a program with grammars replaces `mask` and `masked`, and one with a negative prompt `negative`. The fields of
    the stages of `order` beyond the built-in ones are in `extra`. Raises ValueError for a bias or an end outside the
    vocabulary.
    """
    bias = np.zeros((len(rows), vocab_size), np.float32)
    for row, params in enumerate(rows):
        for token, value in params.logit_bias.items():
            if not 0 <= token < vocab_size:
                raise ValueError(f"logit_bias names token {token}, but the vocabulary has {vocab_size} tokens")
            bias[row, token] = value
    is_end = np.zeros((len(rows), vocab_size), bool)
    ends = tuple(ends)
    for row, params in enumerate(rows):
        for token in (*ends, *params.stop_token_ids):
            if not 0 <= token < vocab_size:
                raise ValueError(f"end token {token} is outside the vocabulary of {vocab_size} tokens")
            is_end[row, token] = True

    return SamplerInputs(
        **numbers(rows),
        bias=bias,
        biased=bias.any(axis=1),
        mask=None,
        masked=np.zeros(len(rows), bool),
        negative=None,
        ends=is_end,
        extra={one.name: _stacked(one, rows, vocab_size=vocab_size) for one in further_fields_of(order)},
    )


def numbers(rows: Sequence[SamplingParams]) -> dict[str, np.ndarray]:
    """The arrays of `stack` that are small, by name: those without an axis for the vocabulary."""
    watched = np.full((len(rows), WATCHED), -1, np.int32)
    for row, params in enumerate(rows):
        watched[row, : len(params.logprob_token_ids)] = params.logprob_token_ids
    scalars: dict[str, np.ndarray] = {
        one.name: np.array([getattr(params, one.name) for params in rows], _TYPES[one.kind][1]) for one in _SCALARS
    }
    return scalars | {
        "seed": np.array([seed_words(params.seed) for params in rows], np.uint32).reshape(-1, 2),
        "choice": np.array([params.choice for params in rows], np.int32),
        "watched": watched,
        "statistics": np.array([params.statistics for params in rows], bool),
    }


def same_tokens(one: SamplingParams, other: SamplingParams) -> bool:
    """Whether two rows name the same tokens, so that their arrays of `stack` over the vocabulary are equal."""
    same = one.stop_token_ids == other.stop_token_ids and one.logit_bias == other.logit_bias
    fields = further_fields()
    return same and all(
        one.value_of(fields[name]) == other.value_of(fields[name])
        for name in {*one.extra, *other.extra}
        if name in fields and not fields[name].is_scalar
    )


def further(rows: Sequence[SamplingParams], *, among: Iterable[str]) -> dict[str, np.ndarray]:
    """The numbers of `SamplerInputs.extra` of these rows, for those of its fields that hold numbers."""
    known = further_fields()
    fields = [known[name] for name in among if name in known]
    return {one.name: _stacked(one, rows, vocab_size=0) for one in fields if one.is_scalar}


def _stacked(one: Field, rows: Sequence[SamplingParams], *, vocab_size: int) -> np.ndarray:
    """The values of a further field: numbers [B], or bool [B, V] for sets of tokens."""
    values = [params.value_of(one) for params in rows]
    if one.is_scalar:
        return np.array(values, _TYPES[one.kind][1])
    found = np.zeros((len(values), vocab_size), bool)
    for row, tokens in enumerate(values):
        found[row, list(tokens or ())] = True
    return found
