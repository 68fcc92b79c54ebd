"""Loading what is right, and one clear error for each thing that is wrong."""

import json
import pickle
import shutil
from contextlib import closing

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmlab.backends.local.backend import LocalBackend
from llmlab.checkpoints.files import weight_files
from llmlab.checkpoints.folder_notes import folder_notes
from llmlab.checkpoints.load import load_model
from llmlab.checkpoints.sources.safetensors import SafetensorsSource
from llmlab.errors import CheckpointError, ModelNotFoundError, RequestError
from llmlab.protocol.request import ChatRequest
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
    _, second = sharded(folder)
    np.testing.assert_array_equal(logits(folder), expected)
    (folder / second).unlink()
    refused(folder, "shards", second, "fetch them again")


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
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "rwkv"}))
    refused(folder, "rwkv", "qwen3")


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
        *[("dtype", "int4"), ("max_context", 0), ("slots", -1), ("slots", True)],
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


def sharded(folder):
    """Two shards with an index, in place of the whole file; the names of the tensors of each."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    halves = {f"model-{i + 1:05}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, held in halves.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, held in halves.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return halves


def test_an_index_that_names_a_tensor_in_a_shard_without_it(folder):
    (one, held), (other, _) = sharded(folder).items()
    path = folder / "model.safetensors.index.json"
    right = json.loads(path.read_text())["weight_map"]
    path.write_text(json.dumps({"weight_map": {**right, held[0]: other}}))
    refused(folder, f"{path} names tensors that their shards do not hold: {held[0]} in {other}", "fetch both again")
    tensors = load_file(folder / one)
    del tensors[held[0]]
    save_file(tensors, folder / one)
    path.write_text(json.dumps({"weight_map": right}))
    refused(folder, f"{held[0]} in {one}")
    path.write_text(json.dumps({"weight_map": dict.fromkeys(right, other)}))
    refused(folder, "names tensors that their shards do not hold", "more")


def test_a_shard_that_is_cut(folder):
    one, _ = sharded(folder)
    path = folder / one
    path.write_bytes(path.read_bytes()[:-1])
    refused(folder, f"{path} is not a whole safetensors file", "fetch it again")


def test_a_tensor_in_two_shards(folder):
    (one, held), (other, more) = sharded(folder).items()
    tensors = load_file(folder / one) | load_file(folder / other)
    save_file({name: tensors[name] for name in [*more, held[0]]}, folder / other)
    refused(folder, f"{held[0]} is stored twice", other)


def test_a_file_that_shrinks_while_it_is_read(folder):
    path = folder / "model.safetensors"
    with closing(SafetensorsSource([path])) as source:
        name = max(source.names(), key=lambda name: source._places[name].offset)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(CheckpointError, match=f"ends within {name}"):
            source.read(name)


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.bool_, ml_dtypes.float8_e8m0fnu])
def test_a_tensor_in_a_format_that_holds_no_weights(folder, kind):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = np.ones(tensors["model.norm.weight"].shape, np.float32).astype(kind)
    save_file(tensors, folder / "model.safetensors")
    refused(folder, "unreadable: model.norm.weight is stored as", "only floating-point weights are read")


@pytest.mark.parametrize("kind", [np.float64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_a_tensor_in_another_float_is_read_as_what_it_is(folder, kind):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = np.full(tensors["model.norm.weight"].shape, 1.25, np.float32)
    save_file(tensors, folder / "model.safetensors")
    expected = logits(folder)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(kind)
    save_file(tensors, folder / "model.safetensors")
    np.testing.assert_array_equal(logits(folder), expected)


@pytest.mark.parametrize("rows", [None, slice(0, 0), slice(2, 5), slice(4, 99), slice(9, 12)])
def test_rows_of_a_tensor(tmp_path, rows):
    value = np.arange(70, dtype=np.float32).reshape(10, 7)
    save_file({"before": value[:3], "value": value, "scalar": np.asarray(4, np.float32)}, tmp_path / "some")
    with closing(SafetensorsSource([tmp_path / "some"])) as source:
        np.testing.assert_array_equal(source.read("value", rows), value[rows or slice(None)])
        assert source.read("scalar") == 4 and source.shape("scalar") == ()
        read = source.read("value", rows)
        read += 1  # the caller's own memory
        np.testing.assert_array_equal(source.read("value", rows), value[rows or slice(None)])


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


@pytest.mark.parametrize("named", ["someone/base", None])
def test_an_adapter_is_called_one_and_its_base_is_named(folder, named):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": named, "peft_type": "LORA"}))
    backend = LocalBackend.load(folder, slots=1)
    assert any("adapter_config.json" in note and "not applied" in note for note in backend.describe()["notes"])
    backend.close()
    (folder / "model.safetensors").unlink()
    save_file({"base_model.model.lora_A": np.zeros((2, 2), np.float32)}, folder / "adapter_model.safetensors")
    said = f"is an adapter for {named or 'a model that it does not name'}", "llmlab.load(MODEL, adapter="
    refused(folder, *said)  # with the base's configuration beside it,
    (folder / "config.json").unlink()
    refused(folder, *said)  # and without


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("wrapper", "prefix"), [("", ""), ("_orig_mod.", "model."), ("module.", "model.")])
def test_tensors_by_other_names(tmp_path, tied, wrapper, prefix):
    folder = tiny_checkpoint(tmp_path / "tiny", tie_word_embeddings=tied)
    expected = logits(folder)
    tensors = load_file(folder / "model.safetensors")
    renamed = {
        wrapper + (prefix + name.removeprefix("model.") if name.startswith("model.") else name): value
        for name, value in tensors.items()
    }
    assert renamed.keys() != tensors.keys()
    save_file(renamed, folder / "model.safetensors")
    np.testing.assert_array_equal(logits(folder), expected)
    name = f"{wrapper}{prefix}norm.weight"
    save_file({**renamed, f"{wrapper}extra.weight": renamed[name]}, folder / "model.safetensors")
    refused(folder, f"surplus: {wrapper}extra.weight")
    del renamed[name]
    save_file(renamed, folder / "model.safetensors")
    refused(folder, "missing: model.norm.weight")


def test_sampling_values_of_a_checkpoint_are_noted_and_not_applied(folder):
    suggested = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": None, "eos_token_id": 258}
    (folder / "generation_config.json").write_text(json.dumps(suggested))
    backend = LocalBackend.load(folder, slots=1)
    (note,) = [note for note in backend.describe()["notes"] if "generation_config.json" in note]
    assert "temperature 0.6, top_p 0.95, top_k 20;" in note and "do_sample" not in note
    backend.close()
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 1.0, "top_p": 1, "top_k": 0}))
    assert folder_notes(folder) == ()
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False}))
    assert "do_sample False" in folder_notes(folder)[0]
    (folder / "generation_config.json").write_text("[1]")
    assert folder_notes(folder) == ()


def test_a_model_without_an_end_token_is_noted(folder):
    about = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in about.items() if k != "eos_token"}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "eos_token_id"}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    backend = LocalBackend.load(folder, slots=1)
    assert any("no end token" in note for note in backend.describe()["notes"])
    answer = backend.complete(ChatRequest.build("Hello", max_tokens=3))
    assert answer.choices[0].finish_reason == "length"
    backend.close()


def test_several_templates_without_a_default_load_and_ask_for_a_choice(folder):
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    about = json.loads((folder / "tokenizer_config.json").read_text())
    templates = {"rag": "R{{ messages[0].content }}", "tool_use": "T{{ messages[0].content }}{{ tools }}"}
    about["chat_template"] = [{"name": name, "template": source} for name, source in templates.items()]
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    backend = LocalBackend.load(folder, slots=1)
    assert any("rag, tool_use" in note and "chat_template='rag'" in note for note in backend.describe()["notes"])
    with pytest.raises(RequestError, match=r"rag, tool_use.*chat_template='rag'"):
        backend.complete(ChatRequest.build("Hello", max_tokens=1))
    backend.close()
    chosen = LocalBackend.load(folder, slots=1, chat_template="rag")
    answer = chosen.complete(ChatRequest.build("Hello", max_tokens=1))
    assert chosen.tokenizer.decode(answer.prompt_ids.tolist()) == "RHello"
    assert not any("chat templates" in note for note in chosen.describe()["notes"])
    chosen.close()


def test_a_pointer_that_git_left_is_called_one(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refused(folder, "model.safetensors", "pointer", "git lfs pull")


def test_weights_that_do_not_fit_say_what_to_do(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "model.layers.0.extra": np.ones(2, np.float32)}, folder / "model.safetensors")
    refused(folder, "surplus: model.layers.0.extra", "fetch both again")
