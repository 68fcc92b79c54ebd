"""Qwen 3: norms of q and k, a head size of its own, biases where they are asked for."""

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}

CASES = {
    "plain": {"head_dim": 16, "tie_word_embeddings": True, "rope_theta": 1e6},
    "one-key-head": {"head_dim": 8, "num_key_value_heads": 1},
    "window": {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 40, "max_window_layers": 2},
    "yarn": {"head_dim": 16, "attention_bias": True, "rope_theta": 1e6, "rope_scaling": YARN},
}
