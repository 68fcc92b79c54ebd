"""GPT-2: every way to scale attention, and a width of its own for the feed-forward."""

from tests.models.cases import REMOVED

GONE = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
SHAPE = dict.fromkeys([*GONE, "max_position_embeddings", "rms_norm_eps"], REMOVED)
SHAPE |= {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 256}

CASES = {
    "plain": {**SHAPE},
    "by-layer": {**SHAPE, "n_layer": 3, "scale_attn_by_inverse_layer_idx": True, "layer_norm_epsilon": 1e-3},
    "unscaled": {**SHAPE, "scale_attn_weights": False, "n_inner": 48, "activation_function": "relu", "n_head": 2},
}
