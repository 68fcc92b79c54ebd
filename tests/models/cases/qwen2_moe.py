"""Qwen 2 with experts: the gated shared feed-forward, without biases, with windows in some layers."""

SMALL = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24,
}

CASES = {
    "plain": SMALL,
    "normed": {**SMALL, "norm_topk_prob": True, "qkv_bias": False, "mlp_only_layers": [0], "num_key_value_heads": 4},
    "window": {
        **SMALL,
        "num_hidden_layers": 4,
        "use_sliding_window": True,
        "sliding_window": 24,
        "max_window_layers": 2,
        "decoder_sparse_step": 2,
    },
}
