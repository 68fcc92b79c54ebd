"""Mistral: with a window, without, and with a head size of its own."""

CASES = {
    "window": {"sliding_window": 24},
    "full": {"sliding_window": None, "rope_theta": 1e6, "head_dim": 16},
    "old": {"sliding_window": 40, "num_key_value_heads": 4, "tie_word_embeddings": True, "rms_norm_eps": 1e-5},
}
