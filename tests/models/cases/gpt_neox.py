"""GPT-NeoX: parallel halves and halves in turn, its own names for the rotation, no biases in attention."""

from tests.models.cases import REMOVED

CASES = {
    "plain": {"num_key_value_heads": REMOVED, "rotary_pct": 0.25, "rotary_emb_base": 10000, "layer_norm_eps": 1e-5},
    "in-turn": {
        "num_key_value_heads": REMOVED,
        "use_parallel_residual": False,
        "rotary_pct": 1.0,
        "rotary_emb_base": 500,
        "tie_word_embeddings": True,
    },
    "unbiased": {"num_key_value_heads": REMOVED, "attention_bias": False, "hidden_size": 64, "hidden_act": "gelu_new"},
}
