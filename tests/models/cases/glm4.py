"""GLM-4: neighbours of a part of each head are rotated; norms on both sides, and before only in the older models."""

CASES = {
    "plain": {"head_dim": 16, "attention_bias": True},
    "quarter": {"head_dim": 16, "partial_rotary_factor": 0.25, "attention_bias": False, "num_key_value_heads": 1},
    "stretched": {
        "head_dim": 8,
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        "tie_word_embeddings": True,
    },
    "before-only": {"model_type": "glm", "head_dim": 16, "rope_theta": 1e6},
}
