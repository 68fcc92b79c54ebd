"""GGUF files against the same checkpoints as safetensors, and against dequantization that is written here by hand."""

from __future__ import annotations

import json
from contextlib import closing

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmlab.checkpoints.gguf.architectures import ARCHITECTURES
from llmlab.checkpoints.load import load_model
from llmlab.checkpoints.opened import open_checkpoint
from llmlab.models.families import read_config
from tests.checkpoints.blocks import BLOCKS, random_blocks
from tests.checkpoints.gguf_cases import gguf_cases
from tests.checkpoints.gguf_files import architecture, as_float32, quantized, stored_name, write_gguf
from tests.checkpoints.gguf_record import LENGTHS, RECORD
from tests.models.cases import KEPT_TOKENS, VOCABULARY, Case, weights
from tests.models.test_golden import checkpoint, logits

RECORDED = json.loads(RECORD.read_text("utf-8"))


def test_every_architecture_has_two_cases():
    found = [architecture(case.config) for case in gguf_cases()]
    assert set(found) == set(ARCHITECTURES) and all(found.count(name) >= 2 for name in found)


@pytest.mark.parametrize("case", gguf_cases(), ids=str)
def test_logits_are_those_of_the_safetensors(case, tmp_path):
    folder = checkpoint(case, tmp_path / "made")
    config, expected = load_model(folder, dtype=jnp.float32)
    read, model = load_model(write_gguf(tmp_path / "model.gguf", folder), dtype=jnp.float32)
    difference = np.abs(logits(model) - logits(expected)).max()
    print(f"{case}: largest logit difference {difference:.1e}")
    # Gemma's norms are stored with 1 added, which rounds them.
    assert difference <= 2e-5
    if "rope_scaling" not in case.fields:
        assert read == config
    check_llama_cpp(case, logits(model)[0])


def check_llama_cpp(case, found):
    """The distributions that llama.cpp gave of the same file."""
    for length, expected in zip(LENGTHS, RECORDED[str(case)], strict=True):
        row = found[length - 1].astype(float)
        difference = np.abs((row - np.log(np.exp(row).sum()))[list(KEPT_TOKENS)] - expected).max()
        print(f"{case}: after {length} tokens, largest difference from llama.cpp's logprobs {difference:.1e}")
        if str(case) == "phi3-window" and length > case.fields["sliding_window"]:
            continue  # llama.cpp leaves out the window of Phi-3; the safetensors, and torch, have it
        # It looks Gemma's activation up in a table of 16 bits; the records have four decimals.
        assert difference <= (2e-2 if case.family.startswith("gemma") else 1e-4)


#: As wide as a block of the widest formats; the rows of q and k are in pairs.
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8, "num_key_value_heads": 4}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return checkpoint(Case("llama", "wide", {**WIDE, "tie_word_embeddings": True}), tmp_path_factory.mktemp("w") / "w")


@pytest.mark.parametrize("kind", [*BLOCKS, "F16", "BF16"])
def test_every_format_is_dequantized(kind, wide, tmp_path):
    """A checkpoint of the values that independent code makes of the stored bytes gives the same logits."""
    values = {}
    rng = np.random.default_rng(0)

    def quantize(name, value):
        if value.ndim == 1:
            return as_float32(name, value)
        if kind in BLOCKS:
            data = random_blocks(kind, value.shape, rng)
            values[name] = BLOCKS[kind].values(data).reshape(value.shape)
            return data, gguf.GGMLQuantizationType[kind]
        data, to = quantized(kind)(name, value)
        bits = np.asarray(data).view(np.uint16).reshape(value.shape)
        values[name] = bits.view(np.float16) if kind == "F16" else (bits.astype(np.uint32) << 16).view(np.float32)
        return data, to

    path = write_gguf(tmp_path / f"{kind}.gguf", wide, quantize=quantize)
    held = load_file(wide / "model.safetensors")
    for name in held:
        if (found := values.get(stored_name(name, "llama"))) is not None:
            held[name] = in_order(name, np.asarray(found, np.float32))
    folder = tmp_path / "same"
    folder.mkdir()
    (folder / "config.json").write_bytes((wide / "config.json").read_bytes())
    save_file(held, folder / "model.safetensors")
    with closing(open_checkpoint(path).open_weights()) as source:
        for name, value in held.items():
            np.testing.assert_allclose(source.read(name), value, rtol=2e-7, atol=1e-9, err_msg=name)
            if len(value) > 24:  # rows in the middle of a head, and of a block
                np.testing.assert_array_equal(source.read(name, slice(5, 24)), source.read(name)[5:24])
    if kind == "Q4_K":
        found, expected = (logits(load_model(where, dtype=jnp.float32)[1]) for where in (path, folder))
        assert np.abs(found - expected).max() <= 1e-4
        assert np.ptp(found) > 0.5


def in_order(name, value):
    """Rows of q and k out of llama.cpp's pairs, one by one."""
    heads = 8 if "q_proj" in name else 4 if "k_proj" in name else 0
    if not heads:
        return value
    head = len(value) // heads
    places = [(i % (head // 2)) * 2 + i // (head // 2) for i in range(head)]
    return np.stack([value[n * head + place] for n in range(heads) for place in places])


#: Format -> the most that a value of a block is away from what is stored, from the block's own values.
STEPS = {
    "F16": lambda block: np.abs(block) * 2**-11 + 2**-25,
    "BF16": lambda block: np.abs(block) * 2**-8,
    "Q8_0": lambda block: np.abs(block).max(-1, keepdims=True) / 127 * 0.57,
    "Q4_0": lambda block: np.abs(block).max(-1, keepdims=True) / 8 * 1.01,
    "Q4_1": lambda block: np.ptp(block, axis=-1, keepdims=True) / 15 * 0.51 + np.abs(block).max() * 2**-11,
}


@pytest.mark.parametrize("kind", STEPS)
def test_what_the_gguf_package_writes_is_near_the_original(kind, wide, tmp_path):
    held = open_checkpoint(write_gguf(tmp_path / "model.gguf", wide, quantize=quantized(kind)))
    assert any(kind in note for note in held.notes) == (kind not in ("F16", "BF16"))
    assert held.config["dtype"] == {"F16": "float16", "BF16": "bfloat16"}.get(kind, "float32")
    with closing(held.open_weights()) as source:
        for name, value in load_file(wide / "model.safetensors").items():
            if value.ndim == 1:
                np.testing.assert_array_equal(source.read(name), value)
                continue
            away = np.abs(source.read(name).astype(np.float32) - value).reshape(-1, 32)
            assert (away <= STEPS[kind](value.reshape(-1, 32))).all() and away.max() > 0, name


def test_a_folder_with_one_file_and_parts_of_one(wide, tmp_path):
    expected = logits(load_model(wide, dtype=jnp.float32)[1])
    folder = tmp_path / "parts"
    folder.mkdir()
    first = write_gguf(folder / "model.gguf", wide, parts=3)
    (folder / "mmproj-model.gguf").write_bytes(b"what sees images")
    (folder / "config.json").write_text("{}")  # repositories of GGUF files have one that other programs read
    assert len(list(folder.glob("model-0000?-of-00003.gguf"))) == 3
    for where in (folder, first, folder / "model-00002-of-00003.gguf"):
        np.testing.assert_array_equal(logits(load_model(where, dtype=jnp.float32)[1]), expected)


def test_safetensors_come_before_a_gguf_file_beside_them(wide, tmp_path):
    case = Case("llama", "small", {})
    folder = checkpoint(case, tmp_path / "both")
    write_gguf(folder / "other.gguf", wide)
    assert open_checkpoint(folder).config == case.config


def test_what_a_file_leaves_out_is_what_llama_cpp_takes(wide, tmp_path):
    left = ("attention.key_length", "attention.value_length", "rope.freq_base", "rope.dimension_count", "vocab_size")
    path = write_gguf(tmp_path / "model.gguf", wide, fields={f"llama.{key}": None for key in left})
    assert read_config(open_checkpoint(path).config) == read_config(json.loads((wide / "config.json").read_text()))


def test_a_model_of_a_gguf_file_is_saved_as_safetensors(wide, tmp_path):
    from llmlab.checkpoints.save import save_checkpoint

    path = write_gguf(tmp_path / "model.gguf", wide)
    _, model = load_model(path, dtype=jnp.float32)
    save_checkpoint(tmp_path / "saved", model=model, config=dict(open_checkpoint(path).config))
    saved, original = (load_file(where / "model.safetensors") for where in (tmp_path / "saved", wide))
    assert saved.keys() == original.keys()
    for name, value in original.items():
        np.testing.assert_array_equal(saved[name], value)
    assert weights("model.norm.weight", (256,)).shape == saved["model.norm.weight"].shape
    assert len(original["model.embed_tokens.weight"]) == VOCABULARY
