"""OLMoE: weights that add up to 1 or not, fewer key heads than query heads."""

CASES = {
    "plain": {"num_experts": 8, "num_experts_per_tok": 3, "num_key_value_heads": 4},
    "normed": {"num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": True, "attention_bias": True},
    "linear": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "tie_word_embeddings": True,
    },
}
