"""Phi-3: a window, a part of each head rotated, and LongRoPE on both sides of the original context."""


def longrope(pairs, **more):
    """Factors for that many frequencies."""
    short = [1.0 + 0.05 * i for i in range(pairs)]
    return {"type": "longrope", "short_factor": short, "long_factor": [1.5 + 2.0 * i for i in range(pairs)], **more}


CASES = {
    "window": {"sliding_window": 24, "original_max_position_embeddings": 512},
    "long": {"num_key_value_heads": 4, "rope_scaling": longrope(4), "original_max_position_embeddings": 64},
    "short": {
        "hidden_size": 64,
        "partial_rotary_factor": 0.75,
        "rope_scaling": longrope(6),
        "original_max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "sliding_window": 400,
    },
    "factor": {
        "hidden_size": 64,
        "partial_rotary_factor": 0.5,
        "num_key_value_heads": 1,
        "rope_scaling": longrope(4, attention_factor=1.3),
        "original_max_position_embeddings": 100,
        "sliding_window": 40,
    },
}
