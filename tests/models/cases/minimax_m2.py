"""MiniMax-M2: the rotated part of a head in both spellings, and all of it."""

SMALL = {"num_local_experts": 8, "num_experts_per_tok": 3, "head_dim": 16, "num_key_value_heads": 2}

CASES = {
    "plain": {**SMALL, "rotary_dim": 8},
    "partial": {**SMALL, "num_experts_per_tok": 2, "partial_rotary_factor": 0.25, "num_key_value_heads": 4},
    "whole": {**SMALL, "num_hidden_layers": 3, "rope_theta": 1e4, "tie_word_embeddings": True},
}
