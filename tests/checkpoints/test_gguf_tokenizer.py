"""Tokenizers and chat templates of GGUF files against the tokenizer.json that they were made of."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

import llmlab
from llmlab.backends.local.backend import LocalBackend
from llmlab.checkpoints.gguf.header import read_header
from llmlab.checkpoints.gguf.tokenizer import read_tokenizer
from llmlab.testing import TEMPLATE, tiny_checkpoint
from llmlab.text.tokenizer import Tokenizer as Held
from tests.checkpoints.gguf_files import CONTROL, NORMAL, byte_level, sentencepiece, write_gguf

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  two spaces, and three   within, and some after   ",
    "line one\nline two\n\n\n   line five\r\n\ttab",
    "It's what they'LL say; I'd've said you're 'right'.",
    "12 345 6789 1234567890 3.14159 1,000,000 ½ ² Ⅷ",
    "Größe, naïve café, Ångström, Πλάτων, Война и мир",
    "日本語のテキスト、한국어 텍스트, 中文文本。العربية עברית हिन्दी",
    "👩‍👩‍👧 🇩🇪 emoji 🙂🙃 \u200b zero \u00a0 width",
    "def f(x):\n    return x ** 2  # squared\n\n\nclass A(B): ...",
    "CamelCaseAndHTTPServer_snake_case-kebab; a+=b!=c??? ...---===",
    "<|im_start|>user\nHi<|im_end|>\n<s>[INST] no [/INST]</s><|endoftext|>",
    "e\u0301 decomposed, and \ufb01 a ligature",
    "\x00\x01 control \x7f characters",
]


def of_file(path, folder, tokenizer):
    """The tokenizer of a GGUF file with those values."""
    return read_tokenizer(read_header(write_gguf(path, folder, tokenizer=tokenizer)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny", family="llama")


def check_same(found: Held, expected: Held) -> None:
    for text in TEXTS:
        for special in (False, True):
            assert found.encode(text, special=special) == expected.encode(text, special=special), (text, special)
    assert found.token_bytes == expected.token_bytes[: len(found.token_bytes)]
    assert found.special_ids == expected.special_ids
    assert found.hf.chat_template == expected.hf.chat_template


@pytest.mark.parametrize(
    ("name", "pre"), [("gpt2", "gpt-2"), ("qwen3", "qwen2"), ("mistral-v1", None)], ids=lambda value: value or "spm"
)
def test_real_tokenizers(shared_data, name, pre, tiny, tmp_path):
    original = shared_data / "tokenizers" / name
    values = sentencepiece(original) if pre is None else byte_level(original, pre=pre)
    table = {"token_embd.weight": np.zeros((len(values["tokens"]), 32), np.float32)}
    path = write_gguf(tmp_path / "model.gguf", tiny, tokenizer=values, tensors=table)
    check_same(read_tokenizer(read_header(path)), Held.load(original))


#: How models' own tokenizer.json files split a text: the name of it in GGUF files -> normalizer and pre-tokenizers.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "llama-bpe": [
        pre_tokenizers.Split(Regex(_LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "qwen2": [
        pre_tokenizers.Split(Regex(_LLAMA3.replace("{1,3}", "")), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
}


@pytest.mark.parametrize("pre", SPLITS)
def test_every_way_to_split(pre, tiny, tmp_path):
    backend = Tokenizer(BPE(ignore_merges=pre == "llama-bpe"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    # Learned without a split, so that tokens would reach over every border.
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(TEXTS * 3, BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False))
    backend.pre_tokenizer = pre_tokenizers.Sequence(SPLITS[pre])
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.add_special_tokens([AddedToken(name, special=True) for name in ("<|endoftext|>", "<|im_end|>")])
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    folder = tmp_path / "made"
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    values = byte_level(folder, pre=pre)
    found = of_file(tmp_path / "model.gguf", wide_enough(tiny, len(values["tokens"]), tmp_path), values)
    check_same(found, Held.load(folder))
    assert len({tuple(found.encode(text)) for text in TEXTS}) == len(TEXTS)


def wide_enough(tiny, count, tmp_path):
    return tiny_checkpoint(tmp_path / "wide", family="llama", vocab_size=count)


def test_the_ways_to_split_differ():
    """Otherwise the test above would not tell one from another."""
    found = {name: steps[0].pre_tokenize_str("I'D pay 1234\n\n now") for name, steps in SPLITS.items()}
    assert len({str(words) for words in found.values()}) == len(SPLITS)


SPM = ["<unk>", "<s>", "</s>", "<0x0A>", "<0xC3>", "<0xA9>", "▁", "a", "b", "▁a", "ab", "▁ab", "<|end|>", "  ", "c"]


def spm(tiny, tmp_path, **changes):
    kinds = [2, CONTROL, CONTROL, 6, 6, 6, *[NORMAL] * 6, CONTROL, 4, NORMAL]
    scores = [0.0] * 6 + [-20.0, -21.0, -22.0, -2.0, -1.0, -3.0, 0.0, 0.0, -23.0]
    values = {"model": "llama", "tokens": SPM, "token_type": kinds, "scores": scores}
    values |= {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    return of_file(tmp_path / "model.gguf", wide_enough(tiny, len(SPM), tmp_path), values | changes)


def test_sentencepiece_merges_by_score_and_falls_back_to_bytes(tiny, tmp_path):
    found = spm(tiny, tmp_path)

    def pieces(text):
        return [SPM[i] for i in found.encode(text)]

    assert pieces("ab") == ["▁ab"]
    assert pieces("aab") == ["▁a", "ab"]
    assert pieces("é\nc") == ["▁", "<0xC3>", "<0xA9>", "<0x0A>", "c"]
    assert pieces("a  b") == ["▁a", "  ", "▁", "b"]  # what the user defined is found first, and a text begins after it
    assert found.encode("ab", special=True) == [1, SPM.index("▁ab")]
    assert found.token_bytes[3:6] == (b"\n", b"\xc3", b"\xa9") and found.token_bytes[9] == b" a"
    assert found.eos_ids == (2, SPM.index("<|end|>"))


def test_sentencepiece_without_a_space_before_a_text(tiny, tmp_path):
    found = spm(tiny, tmp_path, add_space_prefix=False, add_bos_token=False, add_eos_token=True)
    assert [SPM[i] for i in found.encode("ab ab", special=True)] == ["ab", "▁ab", "</s>"]


def test_ends_and_begins(tiny, tmp_path):
    values = byte_level(tiny, pre="gpt-2")
    assert of_file(tmp_path / "a.gguf", tiny, values).eos_ids == (256, 258)
    assert of_file(tmp_path / "b.gguf", tiny, values | {"eot_token_id": 7}).eos_ids == (7, 256, 258)
    with_bos = of_file(tmp_path / "c.gguf", tiny, values | {"pre": "llama-bpe", "bos_token_id": 256})
    assert with_bos.encode("a", special=True) == [256, 97] == [256, *with_bos.encode("a")]


def test_templates_by_name(tiny, tmp_path):
    named = {"tokenizer.chat_template.tool_use": "tools", "tokenizer.chat_template": "plain"}
    path = write_gguf(tmp_path / "model.gguf", tiny, tokenizer=byte_level(tiny, pre="gpt-2"), fields=named)
    assert read_tokenizer(read_header(path)).hf.chat_template == {"default": "plain", "tool_use": "tools"}


def test_a_whole_lab_of_a_gguf_file(tiny, tmp_path):
    """The same conversation, the same answer and the same chat template; and saved, the same again."""
    path = write_gguf(tmp_path / "model.gguf", tiny, tokenizer=byte_level(tiny, pre="gpt-2"))
    asked = {"max_tokens": 8, "temperature": 1.0, "seed": 3, "logprobs": True}
    labs = [llmlab.load(where, max_context=128, slots=1, quiet=True) for where in (tiny, path)]
    first, second = (lab.chat("Hé 12?", **asked) for lab in labs)
    assert first.text == second.text and list(first.prompt_ids) == list(second.prompt_ids)
    assert list(first.logprobs_frame()["logprob"]) == list(second.logprobs_frame()["logprob"])
    labs[1].save_model(tmp_path / "saved")
    for lab in labs:
        lab.close()
    saved = LocalBackend.load(tmp_path / "saved", slots=1, max_context=128)
    assert saved.tokenizer.hf.chat_template == TEMPLATE and saved.tokenizer.encode("Hé 12?") == list(
        labs[0].backend.tokenizer.encode("Hé 12?")
    )
    saved.close()
