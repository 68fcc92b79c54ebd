"""Where the tokens of a prompt stand in its text, for tokenizers that add, split and spell in different ways."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llmlab.protocol.completion import Header
from llmlab.protocol.completions_request import CompletionsRequest
from llmlab.protocol.legacy_logprobs import Writer, echo_of
from llmlab.protocol.request import PromptRequest
from llmlab.text.tokenizer import Tokenizer
from tests.completions import make_tokens

TEXTS = ["Hello world", " Hello", "é🦊 ok", "日本語 text\n\n", "a  b\tc", "x"]


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "mistral-v1"])
@pytest.mark.parametrize("text", TEXTS)
def test_each_token_stands_at_its_offset(shared_data, name, text):
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / name)
    ids = tokenizer.encode(text, special=True)
    names = {i: tokenizer.name(i) for i, data in enumerate(tokenizer.token_bytes) if data is None}
    echo = echo_of(text, ids, tokenizer.token_bytes, names)
    assert echo.text == text and len(echo.tokens) == len(echo.offsets) == len(ids)
    assert echo.offsets == sorted(echo.offsets) and echo.offsets[0] == 0
    for token, offset in list(zip(echo.tokens, echo.offsets, strict=True))[2 if name == "mistral-v1" else 0 :]:
        if token.startswith("bytes:"):
            assert not text[offset].isascii()
        else:
            assert text[offset : offset + len(token)] == token
    of_ids = echo_of(ids, ids, tokenizer.token_bytes, names)
    assert of_ids.text.endswith(text) and of_ids.tokens == echo.tokens
    if name == "mistral-v1":  # what the tokenizer puts in front lies at the start
        assert of_ids.text == "<s> " + text and echo.tokens[0] == "<s>" and echo.offsets[:2] == [0, 0]
    else:
        assert of_ids.text == text


def test_pieces_of_a_character_have_names_of_their_own():
    table = [b"\xf0\x9f", b"\xa6\x8a", b"a", None]
    echo = echo_of([2, 0, 1, 3, 2], [2, 0, 1, 3, 2], table, {3: "<end>"})
    assert echo.text == "a🦊<end>a" and echo.tokens == ["a", "bytes:\\xf0\\x9f", "bytes:\\xa6\\x8a", "<end>", "a"]
    assert echo.offsets == [0, 1, 1, 2, 7]


def header(**fields) -> Header:
    return Header(
        id="chatcmpl-x", created=1, model="m", request=PromptRequest(prompt="a", logprobs=True, **fields), seed=0,
        prompt_ids=np.array([1], np.int32), system_fingerprint="", control_tokens={9: "<end>"},
    )  # fmt: skip


def made(data, ids, **changes):
    """Tokens with these bytes and ids; without alternatives, unless `changes` have some."""
    plain = make_tokens([0] * len(data), alternatives=0)
    return replace(plain, bytes=tuple(data), ids=np.array(ids, np.int32), **changes)


def test_what_lies_outside_the_text_takes_no_room_in_it():
    """A stop sequence that is left out, the end token, and reasoning that is returned apart."""
    found = made(
        [b"think", b" it", b"!", None],
        [1, 2, 3, 9],
        segment=("reasoning", "content", "content", "end"),
        lead=np.array([0, 1, 0, 0], np.int32),
        overhang=np.array([0, 0, 1, 0], np.int32),
    )
    apart = Writer(header(separate_reasoning=True), alternatives=0, start=10).write(found)
    assert apart["tokens"] == ["think", " it", "!", "<end>"] and apart["text_offset"] == [10, 10, 12, 12]
    assert Writer(header(), alternatives=0).write(found)["text_offset"] == [0, 5, 7, 7]


def test_tokens_that_look_alike_keep_the_likelier_logprob_and_unknown_ones_are_null():
    found = made(
        [b"a"],
        [1],
        logprob=np.array([-5.0], np.float32),
        top_ids=np.array([[4, 5, 6]], np.int32),
        top_bytes=((b"b", b"b", b"c"),),
        top_logprob=np.array([[-1.0, -2.0, -np.inf]], np.float32),
        top_sampling_logprob=np.zeros((1, 3), np.float32),
    )
    [top] = Writer(header(), alternatives=3).write(found)["top_logprobs"]
    assert top == {"b": -1.0, "c": -9999.0, "a": -5.0}
    unknown = made([b"a"], [1], logprob=np.array([np.nan], np.float32))
    written = Writer(header(), alternatives=0).write(unknown)
    assert written["token_logprobs"] == [None] and written["top_logprobs"] == [{}]


def test_a_request_holds_its_own_prompts_and_no_array_of_the_caller():
    prompt = [1, 2]
    request = CompletionsRequest.read({"prompt": [prompt, "a"]})
    prompt.append(3)
    assert [one.prompt for one in request.prompts] == [(1, 2), "a"]
