from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Raw
from tokenizers import decoders, models
from transformers import AutoTokenizer

from llmlab.errors import CheckpointError
from llmlab.text.tokenizer import Tokenizer
from tests.text import folders

TEXTS = ["the cat", " the  cat", "é", "猫 and 😀 and 🏳️‍🌈", "x = 1;\n\ty\r\n", "", "\x00\x7f", "ÿ Ġ ▁ <0x41>"]


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_a_byte_level_encoding_are_the_text(byte_level, text):
    ids = byte_level.encode(text)
    assert b"".join(byte_level.token_bytes[i] for i in ids) == text.encode()
    assert byte_level.decode(ids) == text


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_a_sentencepiece_encoding_are_the_text_after_its_one_added_space(sentencepiece, text):
    ids = sentencepiece.encode(text)
    # SentencePiece cannot tell a "▁" in the text from its own sign for a space, and reads <0x41> in a text as its byte.
    want = text.replace("▁", " ")
    if "<0x41>" not in text:
        assert sentencepiece.decode(ids) == (" " + want if text else "")


def test_every_byte_has_a_token(byte_level, sentencepiece):
    for tokenizer in (byte_level, sentencepiece):
        singles = {raw for raw in tokenizer.token_bytes if raw is not None and len(raw) == 1}
        assert singles == {bytes([b]) for b in range(256)}


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_tokens_read_as_transformers_reads_them(byte_level, sentencepiece, data):
    tokenizer = data.draw(st.sampled_from([byte_level, sentencepiece]))
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12))
    theirs = tokenizer.hf.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    ours = tokenizer.decode(ids)
    if tokenizer is byte_level:
        assert ours == theirs
    elif "\ufffd" not in ours + theirs:
        # transformers reads a whole text and drops its first space; a generation goes on from a prompt and keeps it.
        # (Bad bytes: transformers gives up on a whole run of byte tokens, where ours keep what is a character.)
        assert ours in (theirs, " " + theirs)


def test_a_piece_of_a_character_keeps_its_own_bytes(byte_level):
    pieces = [byte_level.token_bytes[i] for i in byte_level.encode("🔧")]
    assert len(pieces) > 1 and b"".join(pieces) == "🔧".encode()
    assert "\ufffd" in byte_level.name(byte_level.encode("🔧")[0])


def test_added_tokens_have_their_text_and_control_tokens_have_none(byte_level):
    assert byte_level.token_bytes[byte_level.id_of("a tool 🔧")] == "a tool 🔧".encode()
    assert byte_level.token_bytes[byte_level.id_of("</think>")] == b"</think>"
    end = byte_level.id_of("<|im_end|>")
    assert byte_level.token_bytes[end] is None
    assert end in byte_level.special_ids and byte_level.eos_ids == (end,)
    assert byte_level.name(end) == "<|im_end|>"


def test_thinking_delimiters_keep_their_text_even_where_a_checkpoint_calls_them_special(byte_level_folder, tmp_path):
    folder = shutil.copytree(byte_level_folder, tmp_path / "special")
    stored = json.loads((folder / "tokenizer.json").read_text())
    tags = ["[THINK]", "[/THINK]", "<|START_THINKING|>", "<|END_THINKING|>"]
    last = stored["added_tokens"][-1]
    stored["added_tokens"] += [{**last, "id": last["id"] + at, "content": tag} for at, tag in enumerate(tags, 1)]
    for token in stored["added_tokens"]:
        token["special"] = True
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    tokenizer = Tokenizer.load(folder)
    for tag in ("<think>", *tags):
        assert tokenizer.token_bytes[tokenizer.id_of(tag)] == tag.encode()
    assert tokenizer.token_bytes[tokenizer.id_of("a tool 🔧")] is None


@pytest.mark.parametrize(
    ("specials", "visible"),
    [
        (["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"],
         {"<|start|>", "<|channel|>", "<|message|>", "<|end|>"}),
        (["<|channel>", "<channel|>", "<|turn>", "<|tool_call>"], {"<|channel>", "<channel|>"}),
        # Phi ends its turns with the token that ends gpt-oss' reasoning.
        (["<|user|>", "<|end|>", "<|assistant|>"], set()),
    ],
)  # fmt: skip
def test_delimiters_of_several_tokens_keep_their_text_where_the_format_is_known(
    byte_level_folder, tmp_path, specials, visible
):
    folder = shutil.copytree(byte_level_folder, tmp_path / "special")
    stored = json.loads((folder / "tokenizer.json").read_text())
    last = stored["added_tokens"][-1]
    stored["added_tokens"] += [
        {**last, "id": last["id"] + at, "content": name, "special": True} for at, name in enumerate(specials, 1)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    tokenizer = Tokenizer.load(folder)
    found = {name for name in specials if tokenizer.token_bytes[tokenizer.id_of(name)] is not None}
    assert found == visible


def test_a_padded_vocabulary_has_no_bytes_beyond_the_tokenizer(byte_level):
    assert byte_level.vocab_size == len(byte_level.token_bytes)
    assert byte_level.bytes_of(byte_level.vocab_size + 7) is None
    assert byte_level.name(byte_level.vocab_size + 7) == f"<id {byte_level.vocab_size + 7}>"
    assert byte_level.id_of("no such token") is None


def test_a_spelled_special_token_becomes_that_token(byte_level):
    assert byte_level.encode("<|im_end|>") == [byte_level.id_of("<|im_end|>")]


def test_a_raw_prompt_may_begin_with_the_tokenizers_own_start(sentencepiece):
    assert sentencepiece.encode("the cat", special=True) == [1, *sentencepiece.encode("the cat")]


def test_ends_come_from_the_generation_config_too(byte_level_folder, tmp_path):
    folder = shutil.copytree(byte_level_folder, tmp_path / "ends")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", "eos_token_id": 7}))
    assert Tokenizer.load(folder).eos_ids == (1, 7)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert Tokenizer.load(folder).eos_ids == (1, 5, 6)


def test_the_hash_follows_the_content(byte_level_folder, sentencepiece, tmp_path):
    one = Tokenizer.load(byte_level_folder).content_hash
    assert one == Tokenizer.load(shutil.copytree(byte_level_folder, tmp_path / "copy")).content_hash
    assert one != sentencepiece.content_hash


def test_a_folder_without_a_tokenizer_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_broken_tokenizer_says_so(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model"')
    with pytest.raises(CheckpointError, match="cannot be read"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_whose_bytes_cannot_be_known_says_so(tmp_path):
    raw = Raw(models.WordPiece({"[UNK]": 0, "the": 1}, unk_token="[UNK]"))
    raw.decoder = decoders.WordPiece()
    raw.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(CheckpointError, match="WordPiece"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen2", "phi3"])
def test_a_folder_that_names_the_general_class_is_read_as_auto_tokenizer_reads_it(tmp_path, byte_level_folder, family):
    folder = shutil.copytree(byte_level_folder, tmp_path / "copy")
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    told = {"tokenizer_class": "TokenizersBackend", "eos_token": "<|im_end|>", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    ours, theirs = Tokenizer.load(folder).hf, AutoTokenizer.from_pretrained(folder)
    assert type(ours) is type(theirs)
    assert ours.get_vocab() == theirs.get_vocab() and ours.special_tokens_map == theirs.special_tokens_map
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert [ours(text)["input_ids"] for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]


def test_loading_and_a_text_beyond_the_context_print_nothing_and_leave_the_environment_alone(byte_level_folder):
    code = (
        "import os, sys; from llmlab.text.tokenizer import Tokenizer; "
        f"tokenizer = Tokenizer.load({str(byte_level_folder)!r}); "
        "tokenizer.hf.model_max_length = 8; assert len(tokenizer.encode('abcdefgh ' * 9)) > 8; "
        "assert 'TRANSFORMERS_NO_ADVISORY_WARNINGS' not in os.environ"
    )
    env = {k: v for k, v in os.environ.items() if k != "TRANSFORMERS_NO_ADVISORY_WARNINGS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "mistral-v1"])
def test_real_tokenizers(shared_data, name):
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / name)
    assert tokenizer.vocab_size == {"gpt2": 50257, "qwen3": 151669, "mistral-v1": 32000}[name]
    for text in ("The café's 猫 said 😀🏳️‍🌈.\n\tx = 1;  y", "a"):
        whole = tokenizer.decode(tokenizer.encode(text))
        assert whole == (" " + text if name == "mistral-v1" else text)
    without = [i for i, raw in enumerate(tokenizer.token_bytes) if raw is None]
    assert set(without) == set(tokenizer.special_ids) - {tokenizer.id_of("<think>")}


def test_a_second_begin_token_is_a_note(sentencepiece, byte_level):
    once, twice = sentencepiece.encode("the cat", special=True), sentencepiece.encode("<s>the cat", special=True)
    assert sentencepiece.prompt_notes(once[:2]) == ()
    (note,) = sentencepiece.prompt_notes(twice[:2])
    assert "'<s>' twice" in note
    assert byte_level.prompt_notes([0, 0]) == () and sentencepiece.prompt_notes([]) == ()


def sentencepiece_model(folder):
    """A folder whose only tokenizer is the file that sentencepiece trained, with Llama's options."""
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    trainer.train(
        sentence_iterator=iter(folders.CORPUS * 20),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    about = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


def test_a_sentencepiece_file_alone_is_read_by_sentencepiece(tmp_path):
    pytest.importorskip("google.protobuf")
    folder = sentencepiece_model(tmp_path)
    theirs = pytest.importorskip("sentencepiece").SentencePieceProcessor(str(folder / "tokenizer.model"))
    tokenizer = Tokenizer.load(folder)
    for text in ("the cat", "two  spaces", "é 猫 😀", "x\n\ty", "<0x41> once"):
        assert tokenizer.encode(text) == theirs.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == " " + text
    assert tokenizer.eos_ids == (theirs.eos_id(),)


@pytest.mark.parametrize("absent", [("sentencepiece",), ("google.protobuf",), ("sentencepiece", "google.protobuf")])
def test_a_sentencepiece_file_alone_says_what_it_wants(tmp_path, monkeypatch, absent):
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    for module in absent:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model alone.*llmlab\[sentencepiece\]") as caught:
        Tokenizer.load(tmp_path)
    named = str(caught.value).partition("which reads it")[0]
    assert all(module.removeprefix("google.") in named for module in absent) and "tiktoken" not in str(caught.value)
