"""OLMo 3: windows in three layers of four, and a rotation that is stretched in the fourth."""

YARN = {
    "rope_type": "yarn",
    "factor": 8.0,
    "attention_factor": 1.2079441541679836,
    "original_max_position_embeddings": 32,
    "beta_fast": 32,
    "beta_slow": 1,
}

CASES = {
    "plain": {"num_hidden_layers": 4, "sliding_window": 24},
    "yarn": {"num_hidden_layers": 4, "sliding_window": 40, "rope_theta": 500000, "rope_scaling": YARN},
    "listed": {
        "layer_types": ["full_attention", "sliding_attention"],
        "sliding_window": 24,
        "attention_bias": True,
        "num_key_value_heads": 1,
        "rope_scaling": YARN,
    },
}
