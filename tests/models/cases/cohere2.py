"""Command R: windows and layers that do not rotate, factors on the logits, the older models without windows."""

CASES = {
    "pattern": {"num_hidden_layers": 4, "sliding_window": 24, "layer_norm_eps": 1e-5, "rope_theta": 5e4},
    "listed": {
        "layer_types": ["full_attention", "sliding_attention"],
        "sliding_window": 40,
        "logit_scale": 0.25,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "older": {"model_type": "cohere", "num_key_value_heads": 1, "logit_scale": 1.5, "layer_norm_eps": 1e-3},
}
