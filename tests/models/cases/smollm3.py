"""SmolLM 3: which layers rotate, by interval and by list; windows on those that do not."""

CASES = {
    "interval": {"num_hidden_layers": 4, "rope_theta": 5e6, "no_rope_layer_interval": 2, "use_sliding_window": False},
    "listed": {
        "num_hidden_layers": 3,
        "no_rope_layers": [0, 1, 1],
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": False,
    },
    "window": {
        "num_hidden_layers": 3,
        "no_rope_layers": [1, 0, 0],
        "use_sliding_window": True,
        "sliding_window": 24,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    },
}
