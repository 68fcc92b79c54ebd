"""DeepSeek-V2: as V2-Lite (all experts, no vector of the query) and as V2 (groups by their best expert, scaling)."""

SMALL = {
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 6,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_shared_experts": 2,
}
YARN = {"type": "yarn", "factor": 16, "original_max_position_embeddings": 32, "mscale": 0.707, "mscale_all_dim": 0.707}

CASES = {
    "lite": {**SMALL, "topk_method": "greedy", "rope_scaling": YARN},
    "groups": {
        **SMALL,
        "q_lora_rank": 12,
        "topk_method": "group_limited_greedy",
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 4.0,
        "rope_scaling": YARN,
    },
    "biased": {**SMALL, "num_hidden_layers": 3, "attention_bias": True, "mlp_bias": True, "n_shared_experts": 1},
}
