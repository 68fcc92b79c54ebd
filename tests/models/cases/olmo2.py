"""OLMo 2: one key head and as many as queries, biases, a stretched rotation."""

CASES = {
    "plain": {"num_key_value_heads": 4, "rope_theta": 5e5},
    "one-key-head": {"num_key_value_heads": 1, "attention_bias": True, "tie_word_embeddings": True},
    "linear": {"num_hidden_layers": 3, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
}
