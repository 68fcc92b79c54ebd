"""StarCoder 2: with and without a window, with and without biases."""

CASES = {
    "window": {"sliding_window": 24, "norm_epsilon": 1e-5, "rope_theta": 1e5},
    "full": {"use_bias": True, "num_key_value_heads": 1, "tie_word_embeddings": False, "norm_epsilon": 1e-3},
    "unbiased": {"use_bias": False, "hidden_act": "relu", "num_hidden_layers": 3},
}
