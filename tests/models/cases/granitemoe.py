"""Granite with experts: every factor other than 1."""

FACTORS = {"embedding_multiplier": 6.0, "residual_multiplier": 0.4, "attention_multiplier": 0.2, "logits_scaling": 3.0}

CASES = {
    "plain": {"num_local_experts": 8, "num_experts_per_tok": 3, **FACTORS},
    "biased": {"num_local_experts": 4, **FACTORS, "attention_bias": True, "tie_word_embeddings": True},
    "without": {"num_local_experts": 4, "num_key_value_heads": 4, "hidden_act": "gelu", "head_dim": 16},
}
