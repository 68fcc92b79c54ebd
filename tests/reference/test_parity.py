"""The decoder against transformers' torch models: logits within 1e-3, and the same 128 greedy tokens."""

import gc

import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.checkpoints.load import load_model
from llmlab.checkpoints.save import save_checkpoint
from llmlab.embedded import demo_folder
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Row
from llmlab.models.families import parameter_count, read_config
from llmlab.sampling.params import SamplingParams
from llmlab.testing import tiny_config

pytestmark = pytest.mark.reference

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CASES = [
    ("llama", {"num_key_value_heads": 4}),
    (
        "llama",
        {
            "num_attention_heads": 8,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
            "rope_theta": 5e5,
            "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64},
        },
    ),
    ("llama", {"num_key_value_heads": 1, "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rms_norm_eps": 1e-5}),
    ("qwen2", {}),
    ("qwen2", {"num_attention_heads": 6, "tie_word_embeddings": False, "rope_theta": 1e6, "rope_scaling": YARN}),
    ("qwen2", {"num_key_value_heads": 4, "num_hidden_layers": 3, "head_dim": 8}),
    ("qwen3", {}),
    ("qwen3", {"head_dim": 16, "num_key_value_heads": 1, "tie_word_embeddings": False}),
    ("qwen3", {"attention_bias": True, "rope_theta": 1e6, "rope_scaling": {**YARN, "attention_factor": 1.2}}),
]


@pytest.fixture(scope="module", params=range(len(CASES)), ids=lambda i: f"{CASES[i][0]}-{i}")
def pair(request, tmp_path_factory):
    """A checkpoint written by transformers with random weights, read by both."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    family, changes = CASES[request.param]
    folder = tmp_path_factory.mktemp("parity") / family
    fields = tiny_config(family, **changes)
    if family == "qwen2":  # its head size follows from the other two
        fields["head_dim"] = fields["hidden_size"] = 8 * fields["num_attention_heads"]
        fields["head_dim"] = 8
    torch.manual_seed(request.param)
    torch_model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields)).eval()
    with torch.no_grad():  # far from uniform laws, and biases that are not zero
        for name, weight in torch_model.named_parameters():
            weight.normal_(1.0 if "norm" in name else 0.0, 0.1 if weight.ndim == 1 else 0.2)
    torch_model.save_pretrained(folder)
    return torch_model, load_model(folder, dtype=jnp.float32)


@pytest.fixture(scope="module")
def demo():
    import torch
    from transformers import AutoModelForCausalLM

    torch_model = AutoModelForCausalLM.from_pretrained(demo_folder(), dtype=torch.float32).eval()
    return torch_model, load_model(demo_folder(), dtype=jnp.float32)


def check_logits(torch_model, config, model):
    import torch

    ids = np.random.default_rng(0).integers(0, config.vocab_size, (3, 160)).astype(np.int32)
    with torch.no_grad():
        expected = torch_model(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32)[None, :], ids.shape)
    hidden, _ = model(jnp.asarray(ids), positions)
    difference = np.abs(np.asarray(model.logits(hidden)) - expected).max()
    print(f"largest logit difference {difference:.1e}, largest logit {np.abs(expected).max():.1f}")
    assert difference <= 1e-3


def check_greedy(torch_model, config, model):
    import torch

    prompt = np.random.default_rng(1).integers(0, config.vocab_size, 21).astype(np.int32)
    with torch.no_grad():
        expected = torch_model.generate(
            torch.tensor(prompt[None, :], dtype=torch.long),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
            do_sample=False,
            max_new_tokens=128,
            min_new_tokens=128,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
    engine = Engine(config, model)
    row = Row(prompt, SamplingParams(temperature=0.0), budget=128, ignore_ends=True)
    made = [token for block in engine.submit([row]) for piece in block for token in piece.tokens.tolist()]
    engine.close()
    assert made == expected


def test_logits(pair):
    check_logits(pair[0], *pair[1])


def test_128_greedy_tokens(pair):
    check_greedy(pair[0], *pair[1])


def test_our_own_save_is_read_by_transformers(pair, tmp_path):
    """What `save_checkpoint` writes is an ordinary checkpoint."""
    import json

    import torch
    from transformers import AutoModelForCausalLM

    torch_model, (config, model) = pair
    written = json.loads(torch_model.config.to_json_string())
    assert read_config(written) == config
    save_checkpoint(tmp_path, model=model, config=written)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for (name, ours), (other, theirs) in zip(again.named_parameters(), torch_model.named_parameters(), strict=True):
        assert name == other and torch.equal(ours, theirs)
    gc.collect()


def test_the_embedded_models_logits(demo):
    check_logits(demo[0], *demo[1])


def test_the_embedded_models_128_greedy_tokens(demo):
    check_greedy(demo[0], *demo[1])


def test_the_embedded_models_parameters(demo):
    assert parameter_count(demo[1][0]) == sum(p.numel() for p in set(demo[0].parameters()))
