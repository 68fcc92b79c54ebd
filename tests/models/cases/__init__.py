"""Tiny decoders of every family, as their config.json describes them, for whatever compares two implementations.

Each file here is a family's, named as the family is, and holds `CASES`. A case is written as files of the hub spell it;
transformers writes it again in its own spelling, and both must read alike. Weights follow from the names of the tensors
alone, so that any implementation can be filled with the same ones.
"""

from __future__ import annotations

import pkgutil
import zlib
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

#: The tokens that a decoder of a case is run over, and those of its logits that are recorded.
LENGTH, VOCABULARY = 160, 96
KEPT_POSITIONS = (0, 1, 7, 31, 62, 95, 130, 159)
KEPT_TOKENS = tuple(range(0, VOCABULARY, 6))

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}


@dataclass(frozen=True)
class Case:
    """One tiny decoder.

    Args:
        family: the value of `model_type` where the fields do not give another.
        name: what is particular to it, in one or two words.
        fields: of config.json, beside or in place of the common ones; REMOVED leaves a common one out.
    """

    family: str
    name: str
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The config.json."""
        given = {"model_type": self.family, **_SHAPE, **self.fields}
        return {name: value for name, value in given.items() if value is not REMOVED}

    def __str__(self) -> str:
        return f"{self.family}-{self.name}"


#: In place of a field's value: the common field is left out.
REMOVED = object()


def cases(family: str) -> list[Case]:
    """The cases of a family."""
    found: dict[str, dict[str, Any]] = import_module(f"{__name__}.{family}").CASES
    return [Case(family, name, fields) for name, fields in found.items()]


def all_cases() -> list[Case]:
    """The cases of every family that has a file here."""
    return [case for module in pkgutil.iter_modules(__path__) for case in cases(module.name)]


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of that name: norms around 1 (or around 0 where a file stores them so, which changes nothing here)."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    centre = 1.0 if ("norm" in name or ".ln_" in name) and name.endswith("weight") else 0.0
    spread = 0.15 if len(shape) == 1 else 0.9 / np.sqrt(shape[-1])
    return (centre + spread * rng.standard_normal(shape)).astype(np.float32)


def tokens() -> np.ndarray:
    """[3, LENGTH] token ids."""
    return np.random.default_rng(0).integers(3, VOCABULARY, (3, LENGTH)).astype(np.int32)
