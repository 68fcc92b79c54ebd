"""Published models at full size, without weights: config.json as on the hub, parameters as their authors count."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from llmlab.models.config import Experts, Latent
from llmlab.models.families import build_model, cache_bytes, empty_cache, parameter_count, read_config
from llmlab.models.rope import rope_frequencies

R1 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "aux_loss_alpha": 0.001,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "initializer_range": 0.02,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "pretraining_tp": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "v_head_dim": 128,
    "vocab_size": 129280,
}
K2 = R1 | {
    "model_type": "kimi_k2",
    "first_k_dense_replace": 1,
    "max_position_embeddings": 131072,
    "n_group": 1,
    "n_routed_experts": 384,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "num_nextn_predict_layers": 0,
    "rope_scaling": R1["rope_scaling"] | {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0},
    "rope_theta": 50000.0,
    "routed_scaling_factor": 2.827,
    "topk_group": 1,
    "vocab_size": 163840,
}
GLM = {
    "model_type": "glm4_moe",
    "attention_bias": True,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "partial_rotary_factor": 0.5,
    "intermediate_size": 12288,
    "max_position_embeddings": 131072,
    "moe_intermediate_size": 1536,
    "norm_topk_prob": True,
    "num_attention_heads": 96,
    "n_group": 1,
    "topk_group": 1,
    "n_routed_experts": 160,
    "n_shared_experts": 1,
    "routed_scaling_factor": 2.5,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "num_hidden_layers": 92,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "num_nextn_predict_layers": 1,
    "tie_word_embeddings": False,
    "use_qk_norm": True,
    "vocab_size": 151552,
}
AIR = GLM | {
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 128,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 1,
    "num_hidden_layers": 46,
    "use_qk_norm": False,
}
OSS = {
    "model_type": "gpt_oss",
    "attention_bias": True,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 18,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "num_local_experts": 128,
    "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "vocab_size": 201088,
}
OSS_20B = OSS | {"layer_types": OSS["layer_types"][:24], "num_hidden_layers": 24, "num_local_experts": 32}
QWEN = {
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
MIXTRAL = {
    "model_type": "mixtral",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}

#: The published number of parameters in billions, and how far it is rounded. GLM-4.5's counts some of the layer that is
#: not read; Kimi K2's is "1 trillion".
PUBLISHED = {
    "DeepSeek-R1": (R1, 671.0, 0.05),
    "Kimi K2": (K2, 1000, 30),
    "GLM-4.5": (GLM, 355, 3),
    "GLM-4.5-Air": (AIR, 106, 1),
    "gpt-oss-120b": (OSS, 116.83, 0.005),
    "gpt-oss-20b": (OSS_20B, 20.91, 0.005),
    "Qwen3-30B-A3B": (QWEN, 30.5, 0.05),
    "Mixtral 8x7B": (MIXTRAL, 46.7, 0.05),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    config, billions, within = PUBLISHED[name]
    found = parameter_count(read_config(config)) / 1e9
    print(f"{name}: {found:.3f} B parameters")
    assert abs(found - billions) <= within


def test_deepseek_with_its_further_layer_is_684_and_a_half_billion():
    """That layer, as published: a layer of the decoder, a projection of two vectors, two norms, and a copy of the
    embedding and of the output matrix with a norm before it."""
    config = read_config(R1)
    longer = replace(config, num_layers=62)
    extra = 2 * config.hidden_size**2 + 3 * config.hidden_size + 2 * config.vocab_size * config.hidden_size
    found = (parameter_count(longer) + extra) / 1e9
    print(f"DeepSeek-R1 with the layer that predicts a further token: {found:.2f} B")
    assert round(found, 1) == 684.5


def test_deepseek_r1_reads_into_its_shape():
    config = read_config(R1)
    assert config.latent == Latent(rank=512, query_rank=1536, plain=128, rotated=64, value=128, eps=1e-6)
    assert config.experts == Experts(
        count=256,
        per_token=8,
        units=2048,
        dense_layers=(0, 1, 2),
        scoring="sigmoid",
        renormalise=True,
        correction=True,
        groups=8,
        groups_kept=4,
        group_best=2,
        scaling=2.5,
        shared_units=2048,
    )
    assert (config.family, config.num_layers, config.skipped_layers) == ("deepseek_v3", 61, 1)
    assert config.attention_scale == pytest.approx(192**-0.5 * 1.8738, rel=1e-4)  # (0.1 ln 40 + 1)^2
    rope = config.rope
    assert (rope.kind, rope.factor, rope.rotary_dim, rope.interleaved) == ("yarn", 40, 64, True)
    assert rope.attention_factor == 1.0 and config.context == 163840
    assert rope_frequencies(rope, head_dim=192).shape == (32,)
    # 576 numbers a token and layer, and a mask of 4 bytes.
    assert cache_bytes(config, batch=1, length=1, dtype="bfloat16") == 61 * 576 * 2 + 4


def test_kimi_k2_is_read_as_what_it_is():
    config = read_config(K2)
    assert (config.family, config.num_heads, config.skipped_layers) == ("deepseek_v3", 64, 0)
    assert (config.experts.groups, config.experts.count, config.experts.dense_layers) == (1, 384, (0,))
    assert read_config(R1 | {"model_type": "kimi_k2"}) == read_config(R1)


#: The fields that count layers, of a decoder of five.
KEPT = {"gpt-oss-120b": {"layer_types": OSS["layer_types"][:5]}}


@pytest.mark.parametrize("name", ["DeepSeek-R1", "gpt-oss-120b"])  # latent attention, and the other kind
def test_layers_of_full_size_can_be_evaluated_abstractly(name):
    # Layers beyond these repeat one of them; all of DeepSeek-R1's are lowered in test_lowered.py.
    config = read_config(PUBLISHED[name][0] | {"num_hidden_layers": 5, **KEPT.get(name, {})})

    def step(tokens, positions):
        model = build_model(config, rngs=nnx.Rngs(0), dtype="bfloat16")
        cache = empty_cache(config, batch=2, length=256, dtype="bfloat16")
        hidden, cache = model(tokens, positions, cache)
        return model.logits(hidden), cache

    logits, _ = jax.eval_shape(step, *(jax.ShapeDtypeStruct((2, 1), jnp.int32) for _ in range(2)))
    assert logits.shape == (2, 1, config.vocab_size)
