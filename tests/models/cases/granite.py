"""Granite: each of its four factors, biases, a stretched rotation."""

FACTORS = {
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
}

CASES = {
    "plain": {**FACTORS, "rope_theta": 1e7, "tie_word_embeddings": True},
    "biases": {**FACTORS, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1, "logits_scaling": 0.5},
    "neutral": {"num_hidden_layers": 3, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
}
