"""What is saved is an ordinary checkpoint: read back to the bit, whole or in shards, with all that belongs to it."""

import json
import shutil
import stat

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import llmlab
from llmlab.checkpoints.files import read_json
from llmlab.checkpoints.load import load_model
from llmlab.checkpoints.save import save_checkpoint
from llmlab.checkpoints.writing import write_weights
from llmlab.errors import CheckpointError, RequestError
from llmlab.testing import tiny_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tiny_checkpoint(tmp_path_factory.mktemp("saved") / "tiny", family="llama", tie_word_embeddings=False)
    (made / "generation_config.json").write_text(json.dumps({"eos_token_id": [258, 256], "temperature": 0.6}))
    return made


@pytest.fixture(scope="module")
def lab(folder):
    lab = llmlab.load(folder, slots=1, max_context=128, quiet=True)
    yield lab
    lab.close()


def arrays(folder):
    files = sorted(folder.glob("*.safetensors"))
    return {name: value for file in files for name, value in load_file(file).items()}


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_a_saved_model_is_the_one_that_was_loaded(folder, lab, tmp_path):
    saved = lab.save_model(tmp_path / "deep" / "saved")
    assert saved == tmp_path / "deep" / "saved"
    same(arrays(saved), arrays(folder))
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in saved.iterdir()} == names and "generation_config.json" in names
    for name in names - {"config.json", "model.safetensors"}:
        assert (saved / name).read_bytes() == (folder / name).read_bytes(), name
    config = read_json(folder, "config.json")
    assert read_json(saved, "config.json") == {**config, "dtype": "float32"}
    again = llmlab.load(saved, slots=1, max_context=128, quiet=True)
    asked = {"max_tokens": 12, "seed": 3}
    assert again.chat("Hello", **asked).choices[0].text == lab.chat("Hello", **asked).choices[0].text
    again.close()


@pytest.mark.parametrize(("dtype", "kind"), [("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)])
def test_another_dtype(folder, lab, tmp_path, dtype, kind):
    saved = lab.save_model(tmp_path / "saved", dtype=dtype)
    same(arrays(saved), {name: value.astype(kind) for name, value in arrays(folder).items()})
    assert all(value.dtype == kind for value in arrays(saved).values())
    assert read_json(saved, "config.json")["dtype"] == dtype
    with safe_open(saved / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_what_cannot_be_saved_is_one_error(folder, lab, tmp_path):
    with pytest.raises(RequestError, match="'float32', 'bfloat16', 'float16', got 'int4'") as caught:
        lab.save_model(tmp_path / "saved", dtype="int4")
    assert caught.value.param == "dtype"
    before = arrays(folder)
    with pytest.raises(RequestError, match="loaded from; save it to another") as caught:
        lab.save_model(folder)
    assert caught.value.param == "folder"
    same(arrays(folder), before)
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="is a file"):
        lab.save_model(tmp_path / "file")


def test_a_number_that_the_dtype_does_not_reach(folder, tmp_path):
    large = shutil.copytree(folder, tmp_path / "large")
    tensors = load_file(large / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = 1e6
    save_file(tensors, large / "model.safetensors")
    lab = llmlab.load(large, slots=1, quiet=True)
    with pytest.raises(CheckpointError, match=r"lm_head.weight has values beyond 65504.*bfloat16"):
        lab.save_model(tmp_path / "saved", dtype="float16")
    assert not list((tmp_path / "saved").glob("*.safetensors"))
    lab.close()


def loaded(folder):
    return load_model(folder, dtype=jnp.float32)[1]


def test_shards_with_an_index(folder, tmp_path):
    config = read_json(folder, "config.json")
    index = save_checkpoint(tmp_path, model=loaded(folder), config=config, shard_bytes=20_000)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert index == tmp_path / "model.safetensors.index.json" and len(shards) > 3
    assert shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    assert all(len(load_file(path)) == 1 or path.stat().st_size < 22_000 for path in shards)
    written = json.loads(index.read_text())
    held = arrays(tmp_path)
    assert written["metadata"]["total_size"] == sum(value.nbytes for value in held.values())
    assert {name: file.name for file in shards for name in load_file(file)} == written["weight_map"]
    same(held, arrays(folder))
    for one, other in zip(*(jax.tree.leaves(nnx.state(loaded(path))) for path in (tmp_path, folder)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_old_weights_are_replaced(folder, tmp_path):
    """In every direction: shards by fewer shards, by a whole file, and a whole file by shards."""
    config, model = read_json(folder, "config.json"), loaded(folder)
    for most in (5_000, 20_000, 10**9, 5_000):
        save_checkpoint(tmp_path, model=model, config=config, shard_bytes=most)
        whole = (tmp_path / "model.safetensors").exists()
        assert whole == (most == 10**9) and whole != (tmp_path / "model.safetensors.index.json").exists()
        same(arrays(tmp_path), arrays(folder))
        loaded(tmp_path)


def test_an_interrupted_save_leaves_what_was_there(folder, tmp_path):
    write_weights(tmp_path, [("a", (2,))], [np.ones(2, np.float32)], dtype=np.dtype(np.float32), shard_bytes=99)

    def interrupted():
        yield np.zeros(2, np.float32)
        raise KeyboardInterrupt

    shapes = [("a", (2,)), ("b", (2,))]
    with pytest.raises(KeyboardInterrupt):
        write_weights(tmp_path, shapes, interrupted(), dtype=np.dtype(np.float32), shard_bytes=99)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    same(arrays(tmp_path), {"a": np.ones(2, np.float32)})


def test_a_quantized_checkpoint_is_saved_as_what_it_was_dequantized_to(folder, tmp_path):
    source = shutil.copytree(folder, tmp_path / "fp8")
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].astype(ml_dtypes.float8_e4m3fn)
    tensors[f"{name}_scale_inv"] = np.full((1, 1), 0.5, np.float32)
    save_file(tensors, source / "model.safetensors")
    config = read_json(source, "config.json")
    quantized = {**config, "torch_dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}}
    (source / "config.json").write_text(json.dumps(quantized))
    lab = llmlab.load(source, slots=1, quiet=True)
    saved = lab.save_model(tmp_path / "saved")
    lab.close()
    assert read_json(saved, "config.json") == {**config, "torch_dtype": "float32", "dtype": "float32"}
    expected = {**arrays(folder), name: tensors[name].astype(np.float32) * 0.5}
    same(arrays(saved), expected)


def test_an_adapter_beside_the_weights_is_not_copied(folder, tmp_path):
    source = shutil.copytree(folder, tmp_path / "source")
    (source / "adapter_config.json").write_text("{}")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "rag.jinja").write_text("R")
    lab = llmlab.load(source, slots=1, quiet=True)
    saved = lab.save_model(tmp_path / "saved")
    lab.close()
    assert not (saved / "adapter_config.json").exists()
    assert (saved / "additional_chat_templates" / "rag.jinja").read_text() == "R"


def test_others_may_read_the_weights(folder, tmp_path):
    path = save_checkpoint(tmp_path, model=loaded(folder), config=read_json(folder, "config.json"))
    (tmp_path / "other").write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_a_model_without_a_folder_of_its_own(folder, lab, tmp_path, monkeypatch):
    """As one of a single file: the tokenizer is written by transformers, with the end tokens."""
    monkeypatch.setattr(lab.backend.tokenizer, "folder", None)
    saved = lab.save_model(tmp_path / "saved")
    again = llmlab.load(saved, slots=1, max_context=128, quiet=True)
    assert again.backend.end_ids == lab.backend.end_ids
    request = lab.request("Hello, you")
    assert again.tokenize(request).ids.tolist() == lab.tokenize(request).ids.tolist()
    again.close()


def test_the_text_of_a_larger_model_says_the_dtype_it_is_saved_in(tmp_path):
    """A larger model's config.json has a dtype of its own and one of its text; neither says what is saved."""
    source = tiny_checkpoint(tmp_path / "source", family="gemma3_text")
    text = {**read_json(source, "config.json"), "torch_dtype": "bfloat16"}
    about = {"model_type": "gemma3", "torch_dtype": "bfloat16", "text_config": text, "vision_config": {}}
    (source / "config.json").write_text(json.dumps(about))
    lab = llmlab.load(source, slots=1, max_context=128, quiet=True)
    saved = lab.save_model(tmp_path / "saved")
    lab.close()
    written = read_json(saved, "config.json")
    assert (written["model_type"], written["dtype"], written["torch_dtype"]) == ("gemma3_text", "float32", "float32")
    same(arrays(saved), arrays(source))
