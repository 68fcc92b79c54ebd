"""Gemma 3: windows in five layers of six, two rotations, a scale of its own, and a cap on the logits."""

CASES = {
    "plain": {"head_dim": 16, "sliding_window": 24, "num_hidden_layers": 6},
    "stretched": {
        "head_dim": 8,
        "sliding_window": 40,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 12,
        "rope_theta": 2e5,
        "rope_local_base_freq": 5e3,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "listed": {
        "head_dim": 16,
        "layer_types": ["full_attention", "sliding_attention"],
        "sliding_window": 24,
        "attention_bias": True,
        "final_logit_softcapping": 2.0,
        "tie_word_embeddings": False,
        "num_key_value_heads": 1,
    },
}
