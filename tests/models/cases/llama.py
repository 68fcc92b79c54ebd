"""Llama: every kind of rotary scaling, biases, one key head and as many as queries."""

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}

CASES = {
    "default": {"num_key_value_heads": 4, "rms_norm_eps": 1e-5},
    "llama3": {
        "num_attention_heads": 8,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "rope_theta": 5e5,
        "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64},
    },
    "linear": {"num_key_value_heads": 1, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "yarn": {
        "num_hidden_layers": 3,
        "rope_scaling": {**YARN, "original_max_position_embeddings": 32, "beta_fast": 16, "beta_slow": 2},
    },
    "yarn-mscale": {
        "rope_theta": 1e6,
        "rope_scaling": {
            **YARN,
            "original_max_position_embeddings": 32,
            "mscale": 1.0,
            "mscale_all_dim": 0.8,
            "truncate": False,
        },
    },
    "gelu": {"hidden_act": "gelu", "head_dim": 16},
}
