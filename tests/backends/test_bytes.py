"""For every answer the joined bytes of the listed tokens, without what lies outside the text, equal the content."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from llmlab.backends.local.backend import LocalBackend
from llmlab.protocol.request import ChatRequest
from llmlab.protocol.wire import chat_completion
from tests.backends.random_model import random_model
from tests.text import folders

#: Characters of one to four bytes; the bytes of the fox and of the Korean one also make halves of surrogate pairs.
SIGNS = ("a", "é", "한", "🦊")


@pytest.fixture(scope="module", params=["byte level", "sentencepiece"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("bytes")
    if request.param == "byte level":
        folders.byte_level_folder(folder)
    else:
        folders.sentencepiece_folder(folder, chat_template="{% for m in messages %}{{ m.content }} {% endfor %}")
    backend = random_model(folder)
    yield backend
    backend.close()


def spelled(backend: LocalBackend, text: str) -> list[int]:
    """A token for each byte of a text."""
    return [backend.token_bytes.index(bytes([value])) for value in text.encode()]


def ask(backend: LocalBackend, **fields: Any):
    fields = {"n": 8, "max_tokens": 40, "logprobs": True, "top_logprobs": 1, **fields}
    return chat_completion(backend.complete(ChatRequest.build("the cat 猫", **fields)))


def joined(entries: list[Any]) -> bytes:
    """What the entries say of the text; a token without text has nothing to add."""
    parts = ((bytes(entry.bytes or ()), entry.lead, entry.overhang) for entry in entries)
    return b"".join(data[lead : len(data) - overhang] for data, lead, overhang in parts)


def check(response: Any) -> str:
    for choice in response.choices:
        for entry in itertools.chain(choice.logprobs.content, *(e.top_logprobs for e in choice.logprobs.content)):
            named = entry.bytes is None and entry.token
            assert named or entry.token == bytes(entry.bytes).decode("utf-8", "replace")
        assert joined(choice.logprobs.content).decode("utf-8", "replace") == choice.message.content
    return "".join(choice.message.content for choice in response.choices)


@pytest.mark.parametrize("sign", SIGNS)
def test_characters_made_of_several_tokens(backend: LocalBackend, sign: str) -> None:
    # Nothing but the bytes of this character is drawn: by chance they make it, or one like it, every now and then.
    only = dict.fromkeys(spelled(backend, sign), 100.0)
    text = check(ask(backend, seed=1, temperature=2, logit_bias=only, max_tokens=120))
    size = len(sign.encode())
    assert any(len(char.encode()) == size and char != "\ufffd" for char in text)
    assert ("\ufffd" in text) is (size > 1)


def test_whatever_random_tokens_make(backend: LocalBackend) -> None:
    few = {token: 6.0 for sign in SIGNS for token in spelled(backend, sign)}
    for bias, stop, include in itertools.product(({}, few), ((), ("a",), ("é", "\ufffd", "中a")), (True, False)):
        text = check(ask(backend, seed=3, temperature=2, logit_bias=bias, stop=stop or None, include_stop=include))
        assert text or stop


def test_a_stop_cuts_a_token_in_two(backend: LocalBackend) -> None:
    at = backend.token_bytes.index(b" the")
    for include in (True, False):
        response = ask(backend, seed=1, logit_bias={at: 100}, stop="t", include_stop=include, max_tokens=3)
        assert check(response) == (" t" if include else " ") * 8
        assert [entry.overhang for entry in response.choices[0].logprobs.content] == [2 if include else 3]


def test_the_length_cuts_a_character_in_two(backend: LocalBackend) -> None:
    first, *_ = spelled(backend, "🦊")
    assert check(ask(backend, n=1, logit_bias={first: 100}, max_tokens=1)) == "\ufffd"
