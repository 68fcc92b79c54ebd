"""StableLM: both orders of a layer's halves, biases of q, k and v, other parts of a head."""

CASES = {
    "plain": {"hidden_size": 64, "layer_norm_eps": 1e-5},
    "parallel": {"use_parallel_residual": True, "use_qkv_bias": True, "partial_rotary_factor": 0.5},
    "one-key-head": {"use_qkv_bias": True, "num_key_value_heads": 1, "layer_norm_eps": 1e-3, "num_hidden_layers": 3},
}
