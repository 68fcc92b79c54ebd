"""What config.json may say, and what is refused because it would silently change the numbers."""

import pytest

from llmlab.errors import CheckpointError
from llmlab.models.config import ModelConfig
from llmlab.testing import tiny_config


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"model_type": None}, "model_type"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"head_dim": 7}, "head_dim"),
        ({"hidden_act": "swish"}, "hidden_act"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "original_max_position_embeddings"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 8.0}}, "longrope"),
    ],
)
def test_what_the_decoder_does_not_do_is_refused_by_name(changes, named):
    with pytest.raises(CheckpointError, match=named):
        ModelConfig.from_dict(tiny_config(**changes))


def test_both_spellings_of_rope_read_alike():
    scaling = {"factor": 4.0, "original_max_position_embeddings": 64, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    old = tiny_config("llama", rope_theta=5e5, rope_scaling={"type": "llama3", **scaling})
    new = tiny_config("llama", rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling})
    del new["rope_theta"]
    assert ModelConfig.from_dict(old).rope == ModelConfig.from_dict(new).rope


def test_each_familys_biases_and_norms():
    llama, qwen2, qwen3 = (ModelConfig.from_dict(tiny_config(family)) for family in ("llama", "qwen2", "qwen3"))
    assert (llama.qkv_bias, llama.o_bias, llama.qk_norm) == (False, False, False)
    assert (qwen2.qkv_bias, qwen2.o_bias, qwen2.qk_norm) == (True, False, False)
    assert (qwen3.qkv_bias, qwen3.o_bias, qwen3.qk_norm) == (False, False, True)
    biased = ModelConfig.from_dict(tiny_config("llama", attention_bias=True, mlp_bias=True))
    assert (biased.qkv_bias, biased.o_bias, biased.mlp_bias) == (True, True, True)
