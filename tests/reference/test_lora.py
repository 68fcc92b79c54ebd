"""Adapters that peft saved: merged at load and beside the base, logits are those of peft on torch's model."""

from __future__ import annotations

import warnings
from contextlib import closing

import jax.numpy as jnp
import numpy as np
import pytest

from llmlab.checkpoints.load import load_model
from llmlab.checkpoints.lora.adapter import open_adapter
from llmlab.testing import tiny_checkpoint

pytestmark = pytest.mark.reference

#: The largest difference of logits.
LARGEST = 1e-3

#: family, fields of peft's LoraConfig, and whether such an adapter can lie beside its base.
CASES = {
    "llama": (
        "llama",
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"v_proj": 2},
            "alpha_pattern": {"layers.1.mlp.down_proj": 3},
            "use_rslora": True,
        },
        True,
    ),
    "qwen3": ("qwen3", {"target_modules": "all-linear"}, True),
    "qwen3, DoRA": ("qwen3", {"target_modules": "all-linear", "use_dora": True}, False),
    "qwen3, tied embedding": ("qwen3", {"target_modules": ["embed_tokens", "q_proj"]}, True),
    "qwen3, tied output matrix": ("qwen3", {"target_modules": ["lm_head", "q_proj"], "layers_to_transform": [1]}, True),
    "qwen3, ties kept": ("qwen3", {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, True),
    "qwen3, saved whole": (
        "qwen3",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "norm"]},
        False,
    ),
    "gemma2": ("gemma2", {"target_modules": r".*self_attn\.(q|k|o)_proj"}, True),
    "gemma2, embedding": ("gemma2", {"target_modules": ["embed_tokens", "o_proj"]}, True),
    "gpt2": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}, True),
    "gpt2, biases": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "bias": "all"}, False),
    "gpt2, a bias of B": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "lora_bias": True}, False),
    "gpt2, both tables": ("gpt2", {"target_modules": ["c_attn", "wte", "wpe"]}, False),
    "phi3": ("phi3", {"target_modules": "all-linear"}, True),
    "qwen3_moe": ("qwen3_moe", {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}, True),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_peft(tmp_path, case):
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    family, fields, beside = CASES[case]
    base = tiny_checkpoint(tmp_path / "base", family=family, template=None, pad_token_id=0)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own, such as on tied embeddings
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, **fields))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / "adapter")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    ids = torch.randint(0, 256, (2, 40))
    with torch.no_grad():
        wanted = model(ids).logits.numpy()
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()(ids).logits.numpy()
    assert np.abs(wanted - plain).max() > 0.5
    tokens = jnp.asarray(ids.numpy(), jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(40, dtype=jnp.int32), tokens.shape)
    with closing(open_adapter(tmp_path / "adapter")) as adapter:
        merged = load_model(base, dtype=jnp.float32, adapter=adapter)[1]
        found = [np.abs(np.asarray(merged.logits(merged(tokens, positions)[0])) - wanted).max()]
        if beside:
            both = load_model(base, dtype=jnp.float32, beside={"mine": adapter})[1]
            both.choose(jnp.asarray([1, 0], jnp.int32))
            logits = np.asarray(both.logits(both(tokens, positions)[0]))
            found += [np.abs(logits[0] - wanted[0]).max(), np.abs(logits[1] - plain[1]).max()]
    print(f"{case}: {max(found):.1e}")
    assert max(found) <= LARGEST
