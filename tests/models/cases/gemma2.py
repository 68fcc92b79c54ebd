"""Gemma 2: windows shorter than the text, both caps, a scale of its own."""

CASES = {
    "plain": {"head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 3.0},
    "uncapped": {
        "head_dim": 8,
        "sliding_window": 40,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "query_pre_attn_scalar": 8,
        "num_hidden_layers": 3,
    },
    "capped": {"head_dim": 16, "final_logit_softcapping": 2.0, "num_key_value_heads": 1, "attention_bias": True},
}
