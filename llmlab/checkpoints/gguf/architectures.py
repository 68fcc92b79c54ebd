"""What llmlab knows of llama.cpp's architectures: their metadata in the words of config.json, their tensors' order.

What a file does not say, because llama.cpp's program has it built in, is stated here for each architecture.

Source: github.com/ggml-org/llama.cpp, conversion/ and src/models/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmlab.checkpoints.gguf.header import Header
from llmlab.errors import CheckpointError

__all__ = ["ARCHITECTURES", "Architecture", "Factors"]

#: Reads a tensor that belongs to the configuration, by its name in the file; None where there is none.
Factors = Callable[[str], np.ndarray | None]
Fields = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """How the files of an architecture are read.

    Args:
        model_type: what config.json calls it.
        read: what it has besides the common fields, from the header and those; `Factors` reads tensors.
        pairs: the rows of q and k are stored in pairs.
        norms_added: what was added to the norms' scales.
        beside: tensors that `read` has read.
    """

    model_type: str
    read: Callable[[Header, Fields, Factors], Fields]
    pairs: bool = False
    norms_added: float = 0.0
    beside: tuple[str, ...] = ()


_FREQUENCIES = "rope_freqs.weight"
_LONG, _SHORT = "rope_factors_long.weight", "rope_factors_short.weight"


def _key(header: Header, name: str) -> str:
    return f"{header.architecture}.{name}"


def _integer(header: Header, name: str) -> int | None:
    """A number of the architecture's own; 0 is how some files say none."""
    found: int | None = header.value(_key(header, name), int)
    return found or None


def _linear(header: Header) -> Fields:
    """A rotary embedding that is stretched evenly, or by YaRN."""
    kind = header.value(_key(header, "rope.scaling.type"), str)
    factor = header.value(_key(header, "rope.scaling.factor"), float)
    if kind in (None, "none") or (kind == "linear" and factor in (None, 1.0)):
        return {}
    original = _integer(header, "rope.scaling.original_context_length")
    told = {"rope_type": kind, "factor": factor, "original_max_position_embeddings": original}
    if kind == "yarn":
        told |= {
            name: header.value(_key(header, f"rope.scaling.yarn_{name}"), float) for name in ("beta_fast", "beta_slow")
        }
        # How much of YaRN there is; all of it is what llama.cpp takes for granted.
        header.value(_key(header, "rope.scaling.yarn_ext_factor"), float)
    return {"rope_scaling": {name: value for name, value in told.items() if value is not None}}


def _biases(header: Header) -> Fields:
    """Where a file has biases, its configuration has them."""
    return {
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in header.tensors,
    }


def _llama(header: Header, fields: Fields, factors: Factors) -> Fields:
    found = _linear(header) | _biases(header)
    stretched = factors(_FREQUENCIES)
    if stretched is not None and not np.all(stretched == 1):
        found["rope_scaling"] = _llama3(header, stretched, fields)
    return found


def _llama3(header: Header, divided: np.ndarray, fields: Fields) -> Fields:
    """Llama 3.1's stretching, whose parameters a file does not hold, only what they come to for each frequency."""
    told = {
        "rope_type": "llama3",
        "factor": float(divided.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    half = fields["head_dim"] // 2
    wavelength = 2 * math.pi * fields["rope_theta"] ** (np.arange(half) / half)
    smooth = np.clip((told["original_max_position_embeddings"] / wavelength - 1) / 3, 0, 1)
    expected = 1 / ((1 - smooth) / told["factor"] + smooth)
    if divided.shape != expected.shape or not np.allclose(divided, expected, rtol=1e-3):
        raise CheckpointError(
            f"{header.path}: {_FREQUENCIES} is not how Llama 3.1 stretches its rotary embedding, and no other way is "
            "known; load the model from its folder of safetensors"
        )
    return told


def _qwen(header: Header, fields: Fields, factors: Factors) -> Fields:
    return _linear(header)


def _gemma2(header: Header, fields: Fields, factors: Factors) -> Fields:
    # By the number of layers the 27B model is told from the others.
    scale = fields["hidden_size"] // fields["num_attention_heads"] if fields["num_hidden_layers"] == 46 else None
    return {
        "query_pre_attn_scalar": scale or fields["head_dim"],
        "sliding_window": _integer(header, "attention.sliding_window") or 4096,
        "attn_logit_softcapping": header.value(_key(header, "attn_logit_softcapping"), float, 50.0),
        "final_logit_softcapping": header.value(_key(header, "final_logit_softcapping"), float, 30.0),
    }


def _gemma3(header: Header, fields: Fields, factors: Factors) -> Fields:
    scale = fields["hidden_size"] // fields["num_attention_heads"] if fields["num_hidden_layers"] == 62 else None
    return _linear(header) | {
        "query_pre_attn_scalar": scale or fields["head_dim"],
        "sliding_window": _integer(header, "attention.sliding_window"),
        "final_logit_softcapping": header.value(_key(header, "final_logit_softcapping"), float),
        "rope_local_base_freq": header.value(_key(header, "rope.freq_base_swa"), float, 10000.0),
    }


def _phi3(header: Header, fields: Fields, factors: Factors) -> Fields:
    found: Fields = {"sliding_window": _integer(header, "attention.sliding_window")}
    original = _integer(header, "rope.scaling.original_context_length")
    if original:
        found["original_max_position_embeddings"] = original
    rotated = _integer(header, "rope.dimension_count") or fields["head_dim"]
    found["partial_rotary_factor"] = rotated / fields["head_dim"]
    long, short = factors(_LONG), factors(_SHORT)
    if long is not None and short is not None:
        found["rope_scaling"] = {
            "type": "longrope",
            "long_factor": long.tolist(),
            "short_factor": short.tolist(),
        }
        # What llama.cpp multiplies cos and sin by, in place of what the two contexts come to.
        attention = header.value(_key(header, "rope.scaling.attn_factor"), float)
        if attention is not None:
            found["rope_scaling"]["attention_factor"] = attention
    return found


#: llama.cpp's name of an architecture -> how its files are read.
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", _llama, pairs=True, beside=(_FREQUENCIES,)),
    "smollm3": Architecture("smollm3", _llama, pairs=True, beside=(_FREQUENCIES,)),
    "qwen2": Architecture("qwen2", _qwen),
    "qwen3": Architecture("qwen3", _qwen),
    "gemma2": Architecture("gemma2", _gemma2, norms_added=1.0),
    "gemma3": Architecture("gemma3_text", _gemma3, norms_added=1.0),
    "phi3": Architecture("phi3", _phi3, beside=(_LONG, _SHORT)),
}
