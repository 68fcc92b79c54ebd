"""Two small tokenizers of our own, of the two kinds that real checkpoints have, in folders like theirs."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Raw

from llmlab.text.tokenizer import Tokenizer

CORPUS = ["the cat sat on the mat", "once upon a time there was a hat", "é è ü 猫 😀 x = 1; y = 2"] * 4

CHATML = (
    "{%- if tools %}{{- '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'nobody' %}{{ raise_exception('no such role here') }}{%- endif %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)


def _save(raw, folder, **config):
    folder.mkdir(parents=True, exist_ok=True)
    raw.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="session")
def byte_level_folder(tmp_path_factory):
    raw = Raw(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|im_start|>", "<|im_end|>"]),
    )
    raw.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("<think>", "</think>", "a tool 🔧")])
    return _save(
        raw, tmp_path_factory.mktemp("byte-level"), eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=CHATML
    )


@pytest.fixture(scope="session")
def sentencepiece_folder(tmp_path_factory):
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdehilmnoprstuwxy", "é", "th", "▁th", "▁the", "at", "▁c", "▁cat", "▁▁"]
    merges = [("t", "h"), ("▁", "th"), ("▁th", "e"), ("a", "t"), ("▁", "c"), ("▁c", "at"), ("▁", "▁")]
    raw = Raw(models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    raw.add_special_tokens(["<unk>", "<s>", "</s>"])
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _save(raw, tmp_path_factory.mktemp("sentencepiece"), bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="session")
def byte_level(byte_level_folder):
    return Tokenizer.load(byte_level_folder)


@pytest.fixture(scope="session")
def sentencepiece(sentencepiece_folder):
    return Tokenizer.load(sentencepiece_folder)
