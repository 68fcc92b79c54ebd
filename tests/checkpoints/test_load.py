"""Loading what is right, and one clear error for each thing that is wrong."""

import json
import pickle
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmlab.backends.local.backend import LocalBackend
from llmlab.checkpoints.load import load_model, weight_files
from llmlab.errors import CheckpointError, ModelNotFoundError, RequestError
from llmlab.testing import tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(checkpoint, tmp_path / "tiny")


def logits(folder):
    _, model = load_model(folder, dtype=jnp.float32)
    ids = np.arange(12, dtype=np.int32)[None, :]
    hidden, _ = model(jnp.asarray(ids), jnp.asarray(ids))
    return np.asarray(model.logits(hidden))


def refused(folder, *words):
    with pytest.raises(CheckpointError) as caught:
        LocalBackend.load(folder)
    message = str(caught.value)
    assert all(word in message for word in words), message
    return message


def test_shards_give_the_same_model(folder):
    expected = logits(folder)
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in halves.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, held in halves.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    np.testing.assert_array_equal(logits(folder), expected)
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(folder, "shards", "model-00002-of-00002.safetensors")


def test_no_such_model(tmp_path):
    with pytest.raises(ModelNotFoundError, match="no folder"):
        LocalBackend.load(tmp_path / "nowhere")
    with pytest.raises(ModelNotFoundError, match="neither a folder nor"):
        LocalBackend.load("not a name!")


def test_a_folder_without_configuration(folder):
    (folder / "config.json").unlink()
    refused(folder, "config.json")


def test_a_broken_configuration(folder):
    (folder / "config.json").write_text("{not json")
    refused(folder, "config.json", "not valid JSON")


def test_an_unsupported_architecture(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt_neox"}))
    refused(folder, "gpt_neox", "qwen3")


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "no weights")


def test_a_pickle_is_refused_and_never_opened(folder):
    (folder / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self):
            return (open, (str(folder / "ran"), "w"))

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    refused(folder, "pytorch_model.bin", "pickle", "safetensors")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("size", [0, 5, 300, -100])
def test_a_truncated_file(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    refused(folder, "model.safetensors")


def test_missing_surplus_and_misshapen_tensors_are_told_together(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    tensors["model.layers.7.mlp.up_proj.weight"] = np.zeros((2, 2), np.float32)
    tensors["model.layers.0.self_attn.q_proj.weight"] = np.zeros((3, 32), np.float32)
    tensors["model.layers.1.self_attn.k_norm.weight"] = np.zeros(8, np.int32)
    save_file(tensors, folder / "model.safetensors")
    message = refused(folder, "missing: model.norm.weight", "surplus: model.layers.7.mlp.up_proj.weight")
    assert "misshapen: model.layers.0.self_attn.q_proj.weight is [3, 32]" in message
    assert "unreadable: model.layers.1.self_attn.k_norm.weight is stored as I32" in message


def test_a_tied_output_matrix_that_is_stored_all_the_same(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, folder / "model.safetensors")
    assert logits(folder).shape == (1, 12, 261)


def test_a_tied_output_matrix_that_is_another_than_the_embedding(folder):
    """One reader would take the stored one, the next the embedding: neither is a guess to make."""
    tensors = load_file(folder / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].copy()
    for other in (head[:-1], np.zeros(3, np.float32), np.where(np.arange(len(head))[:, None] == 260, 1, head)):
        save_file({**tensors, "lm_head.weight": other.astype(np.float32)}, folder / "model.safetensors")
        refused(folder, "tie_word_embeddings", "lm_head.weight is not model.embed_tokens.weight")


def test_a_tied_matrix_that_is_stored_by_its_other_name(folder):
    expected = logits(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, folder / "model.safetensors")
    np.testing.assert_array_equal(logits(folder), expected)


def test_a_folder_without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    refused(folder, "tokenizer")


def test_a_tokenizer_that_is_larger_than_the_model(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:200]
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 200}))
    backend = LocalBackend.load(folder, max_context=128)
    notes = backend.describe()["notes"]
    backend.close()
    assert any("the tokenizer has 261 tokens and the model 200" in note for note in notes)
    assert any("of the end tokens" in note for note in notes)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("dtype", "int8"), ("max_context", 0), ("slots", -1), ("slots", True)],
        ("max_context", 513),  # the model has 512
        ("slots", 10**9),  # more than any memory holds
    ],
)
def test_options_that_make_no_sense(checkpoint, option, value):
    with pytest.raises(RequestError, match=option) as caught:
        LocalBackend.load(checkpoint, **{option: value})
    assert caught.value.param == option


def test_an_end_token_that_the_model_cannot_draw_is_noted(folder):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [258, 256, 999, -1]}))
    backend = LocalBackend.load(folder, slots=1)
    assert backend.end_ids == (256, 258) and any("999" in note for note in backend.describe()["notes"])
    backend.close()


@pytest.mark.parametrize("ends", ["<|im_end|>", [[258]], {"id": 258}])
def test_end_tokens_that_are_no_ids(folder, ends):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    refused(folder, "generation_config.json", "eos_token_id")


def test_what_lies_beside_the_weights_is_left_alone(folder):
    expected = logits(folder)
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    save_file({"lora_A": np.zeros((2, 2), np.float32)}, folder / "adapter_model.safetensors")
    np.testing.assert_array_equal(logits(folder), expected)


@pytest.mark.parametrize("weight_map", [[1], {"model.norm.weight": 1}])
def test_an_index_that_is_none(folder, weight_map):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(folder, "model.safetensors.index.json", "weight_map")


def test_half_precision_is_stored_and_read(tmp_path):
    folder = tiny_checkpoint(tmp_path / "half")
    tensors = load_file(folder / "model.safetensors")
    half = {name: value.astype(jnp.bfloat16) for name, value in tensors.items()}
    save_file(half, folder / "model.safetensors")
    _, model = load_model(folder, dtype=jnp.float32)
    held = np.asarray(model.embedding[...])
    np.testing.assert_array_equal(held, half["model.embed_tokens.weight"].astype(np.float32))


def test_a_whole_file_is_read_before_a_leftover_index(folder, tmp_path):
    # A fine-tune that was saved over a sharded folder: the old shards and their index are still there.
    old = tiny_checkpoint(tmp_path / "old", seed=5)
    shutil.copy(old / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    names = load_file(old / "model.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_files(folder) == [folder / "model.safetensors"]
    (folder / "model-00001-of-00001.safetensors").unlink()  # an index of files that are gone does no harm either
    assert weight_files(folder) == [folder / "model.safetensors"]
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="names shards that are missing: model-00001-of-00001.safetensors"):
        weight_files(folder)
