"""GLM-4.5: as Air (no norms of q and k) and as the full model (norms, more layers without experts), and in groups."""

SMALL = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "head_dim": 16,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000,
}

CASES = {
    "air": {**SMALL, "attention_bias": True, "use_qk_norm": False, "first_k_dense_replace": 1},
    "full": {
        **SMALL,
        "num_hidden_layers": 3,
        "attention_bias": True,
        "use_qk_norm": True,
        "first_k_dense_replace": 2,
        "routed_scaling_factor": 2.5,
    },
    "groups": {
        **SMALL,
        "n_group": 4,
        "topk_group": 2,
        "num_experts_per_tok": 3,
        "n_shared_experts": 2,
        "norm_topk_prob": False,
        "first_k_dense_replace": 0,
    },
}
