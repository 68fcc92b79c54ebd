"""Mixtral: with and without a window, one and several experts a token."""

CASES = {
    "plain": {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None},
    "window": {"num_local_experts": 4, "num_experts_per_tok": 3, "sliding_window": 24, "head_dim": 16},
    "single": {"num_local_experts": 5, "num_experts_per_tok": 1, "rope_theta": 1e4, "tie_word_embeddings": True},
}
