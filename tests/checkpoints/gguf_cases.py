"""Tiny decoders as GGUF files can hold them: what llama.cpp's programs of an architecture have built in cannot vary."""

from __future__ import annotations

from tests.models.cases import Case, cases

_TAKEN = {
    "llama": ("default", "linear", "yarn"),
    "qwen2": ("plain", "yarn"),
    "qwen3": ("plain", "one-key-head"),
    "phi3": ("window", "long", "short"),
}
_LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_OWN = {
    "llama": {
        # Bases with which 160 positions tell the frequencies apart that the stretching changes.
        "llama3": {
            "num_attention_heads": 8,
            "head_dim": 16,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "rope_theta": 5e5,
            "rope_scaling": {**_LLAMA3, "original_max_position_embeddings": 8192},
        },
    },
    "gemma2": {
        "window": {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 24,
            "attn_logit_softcapping": 3.0,
            "num_hidden_layers": 3,
        },
        "capped": {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 2.0, "num_key_value_heads": 1},
    },
    "gemma3_text": {
        "window": {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 24,
            "num_hidden_layers": 7,
            "rope_theta": 1e6,
        },
        "stretched": {
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 40,
            "num_hidden_layers": 6,
            "rope_theta": 2e5,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    },
    "smollm3": {
        "plain": {"num_hidden_layers": 5, "rope_theta": 5e6, "use_sliding_window": False},
        "head": {"num_hidden_layers": 4, "head_dim": 12, "tie_word_embeddings": False, "rope_theta": 2e6},
    },
}


def gguf_cases() -> list[Case]:
    """Those of every architecture that is read from GGUF files."""
    taken = [case for family, names in _TAKEN.items() for case in cases(family) if case.name in names]
    own = [Case(family, name, fields) for family, found in _OWN.items() for name, fields in found.items()]
    return [*taken, *own]
