"""Phi-2: parts of a head, one key head, another activation."""

CASES = {
    "plain": {"hidden_size": 64, "layer_norm_eps": 1e-5},
    "part": {"hidden_size": 80, "partial_rotary_factor": 0.4, "num_key_value_heads": 1},
    "relu": {"hidden_act": "relu", "num_hidden_layers": 3, "num_key_value_heads": 4, "layer_norm_eps": 1e-3},
}
