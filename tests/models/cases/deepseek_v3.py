"""DeepSeek-V3: groups, YaRN past its original context with DeepSeek's factor, with and without a query's own vector."""

SMALL = {
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "n_routed_experts": 16,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 16,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "rms_norm_eps": 1e-3,
}
YARN = {"type": "yarn", "factor": 16, "original_max_position_embeddings": 32, "beta_fast": 32, "beta_slow": 1}

CASES = {
    "yarn": {**SMALL, "qk_rope_head_dim": 8, "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}},
    "plain": {**SMALL, "q_lora_rank": None, "attention_bias": True, "num_hidden_layers": 3, "norm_topk_prob": False},
    "halves": {
        **SMALL,
        "rope_interleave": False,
        "n_shared_experts": 2,
        "routed_scaling_factor": 1.5,
        "v_head_dim": 12,
        "first_k_dense_replace": 0,
        "rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2},
    },
}
