"""GLM-4.7-Flash: one group, the norms' two epsilons, layers without experts by list."""

SMALL = {
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 4,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "rms_norm_eps": 1e-3,
}

CASES = {
    "plain": {**SMALL, "rope_theta": 1000000},
    "listed": {**SMALL, "num_hidden_layers": 3, "mlp_layer_types": ["sparse", "dense", "sparse"], "q_lora_rank": None},
    "groups": {**SMALL, "n_group": 2, "topk_group": 1, "rope_interleave": False, "attention_bias": True},
}
