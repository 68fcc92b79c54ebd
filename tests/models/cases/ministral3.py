"""Ministral 3: queries that grow with their position, YaRN with two factors, a window."""

YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 32,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}

CASES = {
    "yarn": {"head_dim": 16, "rope_parameters": YARN},
    "unequal": {
        "head_dim": 8,
        "rope_parameters": {**YARN, "factor": 4.0, "mscale_all_dim": 0.7, "llama_4_scaling_beta": 0.5},
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "sliding_window": 24,
    },
    "silent": {"head_dim": 16, "num_hidden_layers": 3, "num_key_value_heads": 1},
}
