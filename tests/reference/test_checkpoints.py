"""Quantized checkpoints beside transformers' own dequantization, and what we save as transformers reads it."""

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import llmlab
from llmlab.checkpoints.load import load_model
from llmlab.checkpoints.save import save_checkpoint
from llmlab.checkpoints.sources.fp8 import Fp8Source
from llmlab.checkpoints.sources.mxfp4 import Mxfp4Source
from llmlab.checkpoints.sources.safetensors import SafetensorsSource
from llmlab.testing import tiny_checkpoint

pytestmark = pytest.mark.reference


@pytest.mark.parametrize("kind", ["float32", "e8m0"])
def test_fp8_blocks(tmp_path, kind):
    import torch
    from safetensors.torch import save_file
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    torch.manual_seed(0)
    weight = (torch.randn(256, 384) * 100).to(torch.float8_e4m3fn)
    scales = torch.rand(2, 3) if kind == "float32" else torch.exp2(torch.randint(-9, 9, (2, 3)).float())
    stored = scales if kind == "float32" else scales.to(torch.float8_e8m0fnu)
    save_file({"w": weight, "w_scale_inv": stored}, tmp_path / "w")
    source = Fp8Source(SafetensorsSource([tmp_path / "w"]), block=(128, 128))
    expected = Fp8Dequantize(None)._dequantize_one(weight, stored, output_dtype=torch.float32)
    np.testing.assert_array_equal(source.read("w"), expected.numpy())
    source.close()


def test_mxfp4_experts(tmp_path):
    import torch
    from safetensors.torch import save_file
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    torch.manual_seed(0)
    blocks = torch.randint(0, 256, (2, 96, 4, 16), dtype=torch.uint8)
    scales = torch.randint(100, 150, (2, 96, 4), dtype=torch.uint8)
    save_file({"w_blocks": blocks, "w_scales": scales}, tmp_path / "w")
    source = Mxfp4Source(SafetensorsSource([tmp_path / "w"]))
    for dtype in (torch.float32, torch.bfloat16):
        expected = convert_moe_packed_tensors(blocks, scales, dtype=dtype)
        np.testing.assert_array_equal(source.read("w"), expected.float().numpy())
    source.close()


def test_a_model_in_fp8(tmp_path):
    """The checkpoint is written by transformers from its own quantization, and read by both."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, FineGrainedFP8Config
    from transformers.integrations.finegrained_fp8 import Fp8Quantize

    folder = tiny_checkpoint(tmp_path / "tiny", family="llama", hidden_size=64, intermediate_size=96)
    settings = FineGrainedFP8Config(weight_block_size=(16, 32), dequantize=True)
    quantize = Fp8Quantize(type("Quantizer", (), {"quantization_config": settings})())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tensors = {}
    for name, value in model.state_dict().items():
        if name.endswith("_proj.weight"):
            tensors |= quantize.convert({name: [value]})
        elif name != "lm_head.weight":
            tensors[name] = value
    assert sum(value.dtype == torch.float8_e4m3fn for value in tensors.values()) == 14
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    about = json.loads((folder / "config.json").read_text())
    quantization = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 32]}
    (folder / "config.json").write_text(json.dumps({**about, "quantization_config": quantization}))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=settings).eval()
    ids = np.random.default_rng(0).integers(0, 256, (1, 40))
    expected = theirs(torch.tensor(ids)).logits.detach().numpy()
    _, ours = load_model(folder, dtype=jnp.float32)
    tokens = jnp.asarray(ids, jnp.int32)
    hidden, _ = ours(tokens, jnp.arange(40, dtype=jnp.int32)[None])
    found = np.asarray(ours.logits(hidden))
    print(f"largest difference {np.abs(found - expected).max():.2e}")
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_float8_of_ml_dtypes_is_torchs():
    import torch

    every = np.arange(256, dtype=np.uint8)
    ours = every.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(ours, torch.tensor(every).view(torch.float8_e4m3fn).float().numpy())


def test_a_saved_model_is_read_by_transformers(tmp_path):
    """In shards and in bfloat16, with its tokenizer and generation_config.json."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_checkpoint(tmp_path / "tiny", family="llama", tie_word_embeddings=False)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [258, 256], "top_k": 7}))
    lab = llmlab.load(folder, slots=1, quiet=True)
    saved = lab.save_model(tmp_path / "saved", dtype="bfloat16")
    lab.close()
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
    for path, limit in ((saved, None), (tmp_path / "shards", 20_000)):
        if limit:
            _, model = load_model(saved, dtype=jnp.bfloat16)
            about = json.loads((saved / "config.json").read_text())
            save_checkpoint(path, model=model, config=about, dtype=jnp.bfloat16, shard_bytes=limit)
        read = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
        assert read.dtype == torch.bfloat16
        found = read.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    read = AutoModelForCausalLM.from_pretrained(saved)
    assert (read.generation_config.eos_token_id, read.generation_config.top_k) == ([258, 256], 7)
    ours, theirs = (AutoTokenizer.from_pretrained(path) for path in (saved, folder))
    chat = [{"role": "user", "content": "Hello"}]
    assert ours.apply_chat_template(chat)["input_ids"] == theirs.apply_chat_template(chat)["input_ids"]
