"""Qwen 3 with experts: weights that add up to 1 or not, layers without experts by either field, a window, biases."""

SMALL = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

CASES = {
    "normed": {**SMALL, "norm_topk_prob": True, "head_dim": 16, "rope_theta": 1e6},
    "plain": {
        **SMALL,
        "num_hidden_layers": 3,
        "mlp_only_layers": [1],
        "num_experts_per_tok": 3,
        "attention_bias": True,
    },
    "stepped": {
        **SMALL,
        "num_hidden_layers": 4,
        "decoder_sparse_step": 2,
        "use_sliding_window": True,
        "sliding_window": 24,
        "tie_word_embeddings": True,
    },
}
