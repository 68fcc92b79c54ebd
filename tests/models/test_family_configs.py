"""What each family's config.json may say beside the common fields, and published ones of every family."""

from __future__ import annotations

import json
import math

import pytest

from llmlab.errors import CheckpointError
from llmlab.models.families import parameter_count, read_config
from llmlab.testing import tiny_config

LONG = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
SLIDING = ["sliding_attention", "full_attention"]


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("qwen2", {"layer_types": SLIDING}, "use_sliding_window is false"),
        (
            "qwen3",
            {"layer_types": SLIDING, "use_sliding_window": True, "sliding_window": None},
            "sliding_window is null",
        ),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": -1}, "max_window_layers must be an integer from 0"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers must be 2 numbers"),
        ("smollm3", {"no_rope_layers": [1, 2]}, "no_rope_layers must be 2 numbers"),
        ("smollm3", {"layer_types": SLIDING}, "use_sliding_window is false"),
        ("olmo3", {"rope_parameters": {"rope_type": "default"}}, "an object for full_attention"),
        ("olmo3", {"layer_types": SLIDING, "sliding_window": None}, "sliding_window is null"),
        ("gemma3_text", {"rope_parameters": {"rope_theta": 1e6}}, "an object for full_attention"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"model_type": "gemma3", "text_config": []}, "text_config must be an object"),
        ("gemma3_text", {"model_type": "gemma3", "text_config": {"model_type": "llama"}}, "gemma3_text would be"),
        ("glm4", {"partial_rotary_factor": 0.4}, "of head_dim 8 is 3; rotary embedding needs pairs"),
        ("phi3", {"rope_scaling": {"type": "su", "short_factor": [1.0] * 4}}, "needs long_factor in rope_scaling"),
        ("phi3", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "'longrope' needs short_factor"),
        ("phi3", {"rope_scaling": {**LONG, "long_factor": [1.0] * 3}}, "long_factor .* a list of 4 numbers above 0"),
        ("phi3", {"rope_scaling": {**LONG, "short_factor": [1.0, 1.0, 1.0, 0]}}, "short_factor .* numbers above 0"),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0, "mrope_section": [1]}}, "mrope_section"),
        ("phi3", {"lm_head_bias": True}, "lm_head_bias"),
        ("llama", {"rope_parameters": {"rope_type": "default", "llama_4_scaling_beta": 0.1}}, "llama_4_scaling_beta"),
        ("gpt2", {"n_embd": 33}, "n_embd 33 is not a multiple of n_head 4"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
    ],
)
def test_what_a_family_cannot_do_is_refused_by_name(family, changes, named):
    with pytest.raises(CheckpointError, match=named):
        read_config(tiny_config(family, **changes))


def test_windows_begin_at_max_window_layers_and_only_where_they_are_used():
    def windows(family, **changes):
        return read_config(tiny_config(family, num_hidden_layers=3, sliding_window=16, **changes)).windows

    for family in ("qwen2", "qwen3"):
        assert windows(family) == windows(family, use_sliding_window=True) == ()
        assert windows(family, use_sliding_window=True, max_window_layers=1) == (None, 16, 16)
        assert windows(family, use_sliding_window=True, max_window_layers=0) == (16, 16, 16)
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    assert windows("qwen2", use_sliding_window=True, layer_types=kinds) == (None, 16, None)
    assert windows("smollm3", use_sliding_window=True, no_rope_layers=[1, 0, 0]) == (None, 16, 16)
    assert windows("olmo3") == (16, 16, 16) and windows("gemma3_text", sliding_window_pattern=2) == (16, None, 16)


def test_the_attention_factors_of_longrope():
    """From the ratio of the contexts, or given: for both sides at once, or for each (Phi-3.5-MoE)."""

    def factors(**more):
        fields = {"original_max_position_embeddings": 64, "rope_scaling": {**LONG, **more}}
        rope = read_config(tiny_config("phi3", **fields)).rope
        return rope.short_attention_factor, rope.attention_factor

    expected = math.sqrt(1 + math.log(512 / 64) / math.log(64))
    assert factors() == (expected, expected)
    assert factors(factor=4.0) == (math.sqrt(1 + math.log(4) / math.log(64)),) * 2
    assert factors(factor=1.0) == (1.0, 1.0)
    assert factors(attention_factor=1.25) == (1.25, 1.25)
    assert factors(short_mscale=1.1, long_mscale=1.3) == (1.1, 1.3)
    assert read_config(tiny_config("phi3", rope_scaling=LONG)).context_switch == 4096
    assert read_config(tiny_config("phi3")).context_switch is None


def test_a_gpt2_has_no_position_after_its_table():
    config = read_config(tiny_config("gpt2", n_positions=100))
    assert (config.context, config.longest_context) == (100, 100)


#: What config.json of published checkpoints says of the computation, and the parameters that they are known to have.
PUBLISHED = [
    (
        """{"model_type": "smollm3", "attention_bias": false, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 11008, "max_position_embeddings": 65536, "max_window_layers": 28, "mlp_bias": false,
        "no_rope_layer_interval": 4, "no_rope_layers": [1,1,1,0,1,1,1,0,1,1,1,0,1,1,1,0,1,1,1,0,1,1,1,0,1,1,1,0,1,1,1,0,
        1,1,1,0], "num_attention_heads": 16, "num_hidden_layers": 36, "num_key_value_heads": 4, "pretraining_tp": 2,
        "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 5000000.0, "sliding_window": null,
        "use_sliding_window": false, "vocab_size": 128256}""",
        3075,
    ),
    (
        """{"model_type": "olmo2", "attention_bias": false, "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 11008, "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 32, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 500000,
        "tie_word_embeddings": false, "vocab_size": 100352}""",
        7299,
    ),
    (
        """{"model_type": "gemma3_text", "attention_bias": false, "attn_logit_softcapping": null,
        "final_logit_softcapping": null, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152,
        "intermediate_size": 6912, "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 26,
        "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000,
        "rope_scaling": null, "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6,
        "vocab_size": 262144}""",
        1000,
    ),
    (
        """{"model_type": "gemma3", "mm_tokens_per_image": 256, "text_config": {"hidden_size": 2560,
        "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34, "rope_scaling": {"factor":
        8.0, "rope_type": "linear"}, "sliding_window": 1024}, "vision_config": {"hidden_size": 1152}}""",
        3880,
    ),
    (
        """{"model_type": "glm4", "attention_bias": false, "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 13696, "max_position_embeddings": 32768, "num_attention_heads": 32,
        "num_hidden_layers": 40, "num_key_value_heads": 2, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "vocab_size": 151552}""",
        9400,
    ),
    (
        """{"model_type": "phi3", "attention_bias": false, "embd_pdrop": 0.0, "hidden_act": "silu", "hidden_size": 3072,
        "intermediate_size": 8192, "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "rope_scaling":
        null, "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": false, "vocab_size": 32064}""",
        3821,
    ),
    (
        """{"model_type": "phi3", "attention_bias": false, "full_attn_mod": 1, "hidden_act": "silu", "hidden_size":
        3072, "intermediate_size": 8192, "interpolate_factor": 1, "lm_head_bias": false, "max_position_embeddings":
        131072, "mlp_bias": false, "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75, "rms_norm_eps": 1e-05, "rope_scaling":
        {"long_factor": FACTORS, "short_factor": FACTORS, "type": "longrope"}, "rope_theta": 10000.0, "sliding_window":
        262144, "tie_word_embeddings": true, "vocab_size": 200064}""".replace("FACTORS", str([1.0] * 48)),
        3836,
    ),
    (
        """{"model_type": "gpt2", "activation_function": "gelu_new", "attn_pdrop": 0.1, "layer_norm_epsilon": 1e-05,
        "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257}""",
        124,
    ),
]


@pytest.mark.parametrize(("published", "millions"), PUBLISHED, ids=lambda value: str(value)[16:30].split('"')[0])
def test_published_configurations_are_read(published, millions):
    assert round(parameter_count(read_config(json.loads(published))) / 1e6) == millions
