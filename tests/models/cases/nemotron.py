"""Nemotron: half of each head rotated, or more; biases; one key head."""

CASES = {
    "plain": {"norm_eps": 1e-5},
    "biases": {"attention_bias": True, "mlp_bias": True, "partial_rotary_factor": 0.25, "norm_eps": 1e-3},
    "wide": {"head_dim": 16, "partial_rotary_factor": 1.0, "num_key_value_heads": 1, "tie_word_embeddings": True},
}
