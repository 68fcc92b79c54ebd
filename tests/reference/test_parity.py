"""The embedded model against transformers' torch model: logits within 1e-3, and the same 128 greedy tokens."""

import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.checkpoints.load import load_model
from llmlab.embedded import demo_folder
from llmlab.engine.engine import Engine
from llmlab.engine.scheduler import Row
from llmlab.models.families import parameter_count
from llmlab.sampling.params import SamplingParams

pytestmark = pytest.mark.reference


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


def test_the_embedded_models_logits(demo):
    check_logits(demo[0], *demo[1])


def test_the_embedded_models_128_greedy_tokens(demo):
    check_greedy(demo[0], *demo[1])


def test_the_embedded_models_parameters(demo):
    assert parameter_count(demo[1][0]) == sum(p.numel() for p in set(demo[0].parameters()))
