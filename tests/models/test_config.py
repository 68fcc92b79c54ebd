"""What config.json may say, and what is refused because it would silently change the numbers."""

import json
import math

import pytest

from llmlab.errors import CheckpointError
from llmlab.models.families import families, parameter_count, read_config
from llmlab.testing import tiny_config

YARN = {"rope_type": "yarn", "factor": 4.0}


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
        ({"family": "llama", "use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "original_max_position_embeddings"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 8.0}}, "longrope"),
        ({"is_causal": False}, "is_causal"),  # transformers then lets every token see all the others
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "full_attention"),
        ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 2}}, "keep one"),
        (
            {"rope_scaling": {**YARN, "original_max_position_embeddings": 64}, "original_max_position_embeddings": 32},
            "original_max_position_embeddings is 32, and 64 in rope_scaling",
        ),
    ],
)
def test_what_the_decoder_does_not_do_is_refused_by_name(changes, named):
    with pytest.raises(CheckpointError, match=named):
        read_config(tiny_config(**changes))


def test_both_spellings_of_rope_read_alike():
    scaling = {"factor": 4.0, "original_max_position_embeddings": 64, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    old = tiny_config("llama", rope_theta=5e5, rope_scaling={"type": "llama3", **scaling})
    new = tiny_config("llama", rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling})
    del new["rope_theta"]
    assert read_config(old).rope == read_config(new).rope


def test_what_is_said_twice_is_read_once():
    yarn = {**YARN, "rope_theta": 1e6, "original_max_position_embeddings": 64}
    once = read_config(tiny_config("llama", rope_parameters=yarn)).rope
    both = tiny_config("llama", rope_parameters=yarn, rope_scaling=yarn, original_max_position_embeddings=64)
    assert read_config(both).rope == once
    told = read_config(tiny_config("llama", rope_parameters=yarn, rope_scaling={}))
    assert told.rope == once


def test_how_a_checkpoint_was_trained_on_several_devices_changes_nothing():
    """Llama 2's first config.json: its products were cut in two, which adds up to the same."""
    assert read_config(tiny_config("llama", pretraining_tp=2)) == read_config(tiny_config("llama"))


def test_each_familys_biases_and_norms():
    llama, qwen2, qwen3 = (read_config(tiny_config(family)) for family in ("llama", "qwen2", "qwen3"))
    assert (llama.qkv_bias, llama.o_bias, llama.qk_norm) == (False, False, "")
    assert (qwen2.qkv_bias, qwen2.o_bias, qwen2.qk_norm) == (True, False, "")
    assert (qwen3.qkv_bias, qwen3.o_bias, qwen3.qk_norm) == (False, False, "head")
    biased = read_config(tiny_config("llama", attention_bias=True, mlp_bias=True))
    assert (biased.qkv_bias, biased.o_bias, biased.mlp_bias) == (True, True, True)


JUNK = ["x", "64", "", -5, 0, -1.5, 2.5, True, False, None, [], [1], [None], {}, {"a": 1}, math.nan, math.inf, 10**30]
FIELDS = [
    *("model_type", "hidden_act", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps"),
    *("tie_word_embeddings", "attention_bias", "mlp_bias", "layer_types", "rope_theta", "rope_scaling"),
    *("rope_parameters", "use_sliding_window", "partial_rotary_factor", "num_experts"),
]
IN_ROPE = [
    *("rope_type", "rope_theta", "factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    *("beta_fast", "beta_slow", "attention_factor", "mscale", "truncate", "partial_rotary_factor"),
]


def read_or_refuse(config):
    """A shape whose numbers are all possible, or the one kind of error."""
    try:
        read = read_config(config)
    except CheckpointError:
        return False
    sizes = (read.head_dim, read.num_kv_heads, read.max_position, read.num_layers, read.rope.theta, read.rope.factor)
    assert all(not isinstance(size, bool) and 0 < size < math.inf for size in sizes), read
    assert isinstance(read.tie_word_embeddings, bool) and 0 < read.rms_norm_eps < math.inf
    return True


#: How a family calls some of the fields; None for one that it has not.
RENAMED = {
    "gpt2": {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
        "intermediate_size": "n_inner",
        "rms_norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation_function",
        **dict.fromkeys(["num_key_value_heads", "head_dim", "attention_bias", "mlp_bias"]),
        **dict.fromkeys(["rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"]),
    },
}


@pytest.mark.parametrize("family", families())
def test_a_field_of_any_value_is_read_or_refused_by_the_one_kind_of_error(family):
    fields = [name for field in FIELDS if (name := RENAMED.get(family, {}).get(field, field))]
    taken = sum(read_or_refuse(tiny_config(family, **{field: junk})) for field in fields for junk in JUNK)
    assert taken < 0.5 * len(fields) * len(JUNK)


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
def test_so_is_one_of_the_rope(kind, spelling):
    rope = {"rope_type": kind, "factor": 4.0, "original_max_position_embeddings": 64}
    for field in IN_ROPE:
        for junk in JUNK:
            read_or_refuse(tiny_config("llama", **{spelling: {**rope, field: junk}}))
    with pytest.raises(CheckpointError, match="factor"):
        read_config(tiny_config("llama", **{spelling: {**rope, "factor": 0}}))


#: The config.json of published checkpoints, shortened to what shapes the computation; sizes as they are.
LLAMA_32 = """{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu",
"hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings":
131072, "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16,
"num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0,
"high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type":
"llama3"}, "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
"transformers_version": "4.45.0.dev0", "use_cache": true, "vocab_size": 128256}"""
QWEN_25 = """{"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
"eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
"max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 14,
"num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
"sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true,
"use_sliding_window": false, "vocab_size": 151936}"""
QWEN_3 = """{"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "head_dim": 128,
"hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
"max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28,
"num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null,
"tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true, "use_sliding_window": false,
"vocab_size": 151936}"""


@pytest.mark.parametrize(("published", "millions"), [(LLAMA_32, 1236), (QWEN_25, 494), (QWEN_3, 596)])
def test_published_configurations_are_read(published, millions):
    """The parameters come to what the models are known to have."""
    assert round(parameter_count(read_config(json.loads(published))) / 1e6) == millions


@pytest.mark.parametrize(
    ("scaling", "context", "longest"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512, 512),
        ({"rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 128}, 512, 512),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}, 512, 512),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8}, 128, 128),
        ({"rope_type": "linear", "factor": 4.0}, 128, 512),
        ({"rope_type": "yarn", "factor": 4.0}, 128, 512),
        ({"rope_type": "default"}, 128, 128),
    ],
)
def test_a_stretched_rope_gives_a_longer_context(scaling, context, longest):
    config = read_config(tiny_config("llama", max_position_embeddings=128, rope_scaling=scaling))
    assert (config.max_position, config.context, config.longest_context) == (128, context, longest)
