"""Gemma: GELU by its old name and its own, one key head, biases."""

CASES = {
    "old": {"head_dim": 16, "hidden_act": "gelu", "num_key_value_heads": 1},
    "tanh": {"head_dim": 8, "hidden_act": "gelu_pytorch_tanh", "num_key_value_heads": 4, "attention_bias": True},
    "silent": {"head_dim": 16, "rope_theta": 5e4, "num_hidden_layers": 3, "tie_word_embeddings": False},
}
