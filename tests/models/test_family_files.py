"""Checkpoints that call their tensors otherwise, or hold more than a decoder: the same logits come out."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmlab.checkpoints.load import load_model
from llmlab.checkpoints.save import save_checkpoint
from llmlab.errors import CheckpointError
from tests.models.cases import cases
from tests.models.test_golden import GOLDEN, checkpoint, kept


def named(family, name):
    return next(case for case in cases(family) if case.name == name)


def rewritten(folder, *, rename, more, config=None):
    """The checkpoint with other names for its tensors, more tensors, and perhaps another config.json."""
    stored = load_file(folder / "model.safetensors")
    save_file({rename(name): tensor for name, tensor in stored.items()} | more, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


IMAGE = {
    "vision_tower.vision_model.embeddings.position_embedding.weight": np.zeros((4, 8), np.float32),
    "multi_modal_projector.mm_input_projection_weight": np.zeros((8, 32), np.float32),
}


@pytest.mark.parametrize(
    ("prefix", "head", "image"),
    [
        ("language_model.model.", "language_model.lm_head.", ""),  # as Gemma 3 was published
        ("model.language_model.", "lm_head.", "model."),  # as transformers 5 writes it
    ],
)
def test_the_text_of_a_multimodal_gemma_3(tmp_path, prefix, head, image):
    case = named("gemma3_text", "listed")
    text = {name: value for name, value in case.config.items() if name != "torch_dtype"}
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}, "image_token_index": 9}
    folder = rewritten(
        checkpoint(case, tmp_path / "made"),
        rename=lambda name: name.replace("lm_head.", head).replace("model.", prefix, int(name.startswith("model."))),
        more={image + name: tensor for name, tensor in IMAGE.items()},
        config=config,
    )
    _, model = load_model(folder, dtype=jnp.float32)
    assert kept(model) == pytest.approx(recorded(case), abs=1e-3)
    save_checkpoint(tmp_path / "saved", model=model, config=config)
    written = json.loads((tmp_path / "saved" / "config.json").read_text("utf-8"))
    assert written["model_type"] == "gemma3_text" and written["architectures"] == ["Gemma3ForCausalLM"]
    assert kept(load_model(tmp_path / "saved", dtype=jnp.float32)[1]) == pytest.approx(recorded(case), abs=1e-3)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_a_gpt2_with_and_without_a_prefix_and_with_its_masks(tmp_path, prefix):
    case = named("gpt2", "plain")
    masks = {
        f"{prefix}h.{i}.attn.{name}": np.ones((1, 1), np.float32) for i in (0, 1) for name in ("bias", "masked_bias")
    }
    folder = rewritten(
        checkpoint(case, tmp_path / "made"), rename=lambda name: prefix + name.removeprefix("transformer."), more=masks
    )
    assert kept(load_model(folder, dtype=jnp.float32)[1]) == pytest.approx(recorded(case), abs=1e-3)


def test_a_tensor_that_belongs_to_nothing_is_still_refused(tmp_path):
    more = {"transformer.h.0.attn.c_attn.more": np.zeros(2, np.float32)}
    folder = rewritten(checkpoint(named("gpt2", "plain"), tmp_path / "made"), rename=str, more=more)
    with pytest.raises(CheckpointError, match="surplus: transformer.h.0.attn.c_attn.more"):
        load_model(folder, dtype=jnp.float32)


def recorded(case):
    return np.array(json.loads((GOLDEN / f"{case.family}.json").read_text("utf-8"))[case.name])
