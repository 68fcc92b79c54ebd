"""The shape of a decoder as a value; `models.families.read_config` makes one from a checkpoint's `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: its base, and how its frequencies are scaled beyond the trained context.

    `linear` divides every frequency by `factor` (Chen et al. 2023, arXiv:2306.15595). `llama3` divides only the low
    frequencies, with a smooth transition (Llama 3.1). `yarn` interpolates by wavelength and scales the attention (Peng
    et al. 2023, arXiv:2309.00071).
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    original_max_position: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder's shape. Names follow `config.json`; lengths are counted in tokens.

    These are the fields that Llama-like decoders share. A family whose decoder needs more subclasses this class in its
    own file.
    """

    family: str = ""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    rope: Rope = Rope()
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @property
    def sharded_sizes(self) -> Mapping[str, int]:
        """The sizes that the number of devices must divide, by their names in `config.json`."""
        return {
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "intermediate_size": self.intermediate_size,
        }
