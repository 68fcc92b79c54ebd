"""Qwen 2: biases of q, k and v; a YaRN scaling with a factor of its own."""

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}

CASES = {
    "plain": {"tie_word_embeddings": True, "rope_theta": 1e6},
    "yarn": {"rope_theta": 1e6, "rope_scaling": YARN, "num_key_value_heads": 1},
    "window": {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    "factor": {"num_hidden_layers": 3, "num_key_value_heads": 4, "rope_scaling": {**YARN, "attention_factor": 1.2}},
}
