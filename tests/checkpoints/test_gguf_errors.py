"""One clear error for each thing that can be wrong with a GGUF file."""

from __future__ import annotations

import shutil
import struct
import sys

import numpy as np
import pytest

from llmlab.backends.local.backend import LocalBackend
from llmlab.checkpoints.gguf.header import read_header
from llmlab.errors import CheckpointError, ModelNotFoundError
from tests.checkpoints.gguf_files import some_tokens, write_gguf
from tests.models.cases import VOCABULARY, Case
from tests.models.test_golden import checkpoint

Q = "blk.0.attn_q.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoint(Case("llama", "tiny", {}), tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture
def made(folder, tmp_path):
    """Writes the file with something changed."""
    return lambda **changes: write_gguf(tmp_path / "model.gguf", folder, **changes)


def refused(path, *words):
    with pytest.raises(CheckpointError) as caught:
        LocalBackend.load(path)
    message = str(caught.value)
    assert all(word in message for word in words), message
    return message


def test_a_file_that_ends_early(made):
    path = made()
    whole = path.read_bytes()
    for count in (6, 30, 500, 2000, len(whole) - 1):
        path.write_bytes(whole[:count])
        refused(path, str(path), "truncated", "fetch it again")


def test_a_file_that_ends_while_it_is_read(made):
    """The header was whole; what it says lies beyond the end."""
    from llmlab.checkpoints.opened import open_checkpoint

    path = made()
    held = open_checkpoint(path)
    source = held.open_weights()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"ends within .*; fetch it again"):
        for name in source.names():
            source.read(name)
    source.close()


@pytest.mark.parametrize(
    ("start", "word"), [(b"ggjt", "ggjt"), (b"\x08\0\0\0\0\0\0\0{}", "no GGUF file"), (b"", "no GGUF")]
)
def test_a_foreign_file(tmp_path, start, word):
    path = tmp_path / "model.gguf"
    path.write_bytes(start + b"\0" * 100 * bool(start))
    refused(path, word, "begins with", "safetensors")


def test_another_version_and_another_byte_order(made):
    path = made()
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + struct.pack("<I", 9) + whole[8:])
    refused(path, "version 9", "2 and 3")
    path.write_bytes(whole[:4] + struct.pack(">I", 3) + whole[8:])
    refused(path, "byte order")


def test_damage_anywhere_in_the_header_is_one_error(made, tmp_path):
    """Whatever byte is another: the file is read, or refused with one of our errors."""
    path = made()
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    seen = 0
    for place in rng.integers(0, 4000, 150):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        (tmp_path / "broken.gguf").write_bytes(broken)
        try:
            read_header(tmp_path / "broken.gguf")
        except CheckpointError as error:
            seen += 1
            assert "broken.gguf" in str(error)
    assert seen > 10


def test_an_architecture_that_is_not_read(made):
    message = refused(made(fields={"general.architecture": "quen3"}), "'quen3'", "nearest by name is qwen3")
    assert "gemma2, gemma3, llama, phi3, qwen2, qwen3, smollm3" in message
    refused(made(fields={"general.architecture": "mamba"}), "'mamba'", "safetensors")


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("llama.expert_count", 8, "8"),
        ("llama.attention.sliding_window", 24, "24"),
        ("llama.attention.value_length", 4, "4"),
        ("llama.rope.dimension_count", 4, "4"),
        ("llama.logit_scale", 0.5, "0.5"),
        ("llama.rope.scaling.attn_factor", 1.5, "1.5"),
        ("llama.something.new", 3, "3"),
    ],
)
def test_what_changes_the_result_and_is_not_done(made, key, value, shown):
    refused(made(fields={key: value}), f"{key} = {shown}", "not supported", "safetensors")


def test_what_changes_nothing_is_read(made):
    path = made(fields={"llama.logit_scale": 1.0, "llama.expert_count": 0, "llama.attention.causal": True})
    LocalBackend.load(path, slots=1).close()


def test_an_adapter_and_another_rope(made):
    refused(made(fields={"general.type": "adapter", "adapter.type": "lora"}), "no model", "'lora'")
    refused(made(tensors={"rope_freqs.weight": np.array([1, 2, 3, 4], np.float32)}), "rope_freqs", "safetensors")
    refused(made(fields={"llama.rope.scaling.type": "dynamic"}), "dynamic")


def test_what_a_file_must_say(made):
    refused(made(fields={"llama.block_count": None}), "no llama.block_count", "fetch it again")
    refused(made(fields={"llama.block_count": "two"}), "llama.block_count", "'two'")
    refused(made(fields={"general.alignment": 0}), "general.alignment")


def test_a_tensor_is_missing_or_misshapen_or_too_many(made):
    refused(made(tensors={Q: None}), f"missing: {Q} [32, 32]", "metadata")
    refused(made(tensors={Q: np.zeros((16, 32), np.float32)}), f"misshapen: {Q} is [16, 32]", "implies [32, 32]")
    refused(made(tensors={"token_embd.weight": None}), "token_embd.weight", "no whole model")
    message = refused(made(tensors={"blk.0.more.weight": np.zeros(3, np.float32)}), "surplus: blk.0.more.weight")
    assert "config.json" not in message


def test_integers_are_no_weights(made):
    import gguf

    def quantize(name, value):
        if name != Q:
            return value.astype(np.float32), gguf.GGMLQuantizationType.F32
        return value.astype(np.int32), gguf.GGMLQuantizationType.I32

    refused(made(quantize=quantize), "I32", "only floating-point weights")


def test_parts(made, tmp_path):
    first = made(parts=3)
    second = tmp_path / "model-00002-of-00003.gguf"
    kept = second.read_bytes()
    second.unlink()
    refused(first, "one of 3 parts", second.name, "fetch them too")
    refused(tmp_path, second.name)
    shutil.copy(first, second)
    refused(first, str(second), "part 1 of 3", "part 2 of 3", "published with")
    second.write_bytes(kept)
    renamed = first.rename(tmp_path / "renamed.gguf")
    refused(renamed, "part 1 of 3", "a whole model")


def test_parts_of_different_models(made, folder, tmp_path):
    first = made(parts=2)
    other = checkpoint(Case("llama", "other", {"num_hidden_layers": 3}), tmp_path / "other")
    write_gguf(tmp_path / "other.gguf", other, parts=2)
    shutil.copy(tmp_path / "other-00002-of-00002.gguf", tmp_path / "model-00002-of-00002.gguf")
    refused(first, "parts are of different models", "fetch them again")


def test_a_folder_with_several_models(made, tmp_path):
    shutil.copy(made(), tmp_path / "other.gguf")
    refused(tmp_path, "2 models", "model.gguf, other.gguf", "name the file")


def test_a_vocabulary_that_does_not_fit(made):
    refused(made(tokenizer=some_tokens(VOCABULARY + 1)), "97 tokens", "96 rows", "different models")
    words = some_tokens(VOCABULARY)
    refused(made(tokenizer={**words, "token_type": [1]}), "96 tokens and 1 kinds")
    refused(made(tokenizer={**words, "merges": ["a c"]}), "merge 'a c'")
    refused(made(tokenizer={**words, "eos_token_id": 96}), "eos_token_id 96 and 96 tokens")
    refused(made(tokenizer={**words, "model": "bert"}), "'bert'", "gpt2 (byte-level BPE)")
    refused(made(tokenizer={**words, "pre": "llama-bqe"}), "pre-tokenizer 'llama-bqe'", "nearest by name is llama-bpe")
    refused(made(tokenizer={}), "tokenizer.ggml.tokens is missing")
    refused(made(tokenizer={**words, "model": "llama"}), "96 tokens and 0 scores")


def test_no_such_file(tmp_path):
    with pytest.raises(ModelNotFoundError, match="no file"):
        LocalBackend.load(tmp_path / "nowhere.gguf")
    with pytest.raises(ModelNotFoundError, match=r"no file nowhere\.gguf"):
        LocalBackend.load("nowhere.gguf")


def test_the_package_is_missing(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    refused(made(), "gguf package", "pip install 'llmlab[gguf]'")
