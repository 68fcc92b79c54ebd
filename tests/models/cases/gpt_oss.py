"""gpt-oss: windows shorter than the text, sinks, an activation that is cut off, YaRN past its original context."""

SMALL = {"num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 24}
YARN = {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}

CASES = {
    "plain": {
        **SMALL,
        "swiglu_limit": 1.0,
        "rope_theta": 150000,
        "rope_scaling": {**YARN, "original_max_position_embeddings": 32},
    },
    "defaults": {**SMALL, "num_hidden_layers": 3, "num_experts_per_tok": 4, "swiglu_limit": 0.5, "swiglu_alpha": 1.2},
    "layers": {
        **SMALL,
        "attention_bias": False,
        "swiglu_limit": 2.0,
        "layer_types": ["full_attention", "sliding_attention"],
        "sliding_window": 40,
        "rope_scaling": {**YARN, "original_max_position_embeddings": 64, "truncate": True},
    },
}
