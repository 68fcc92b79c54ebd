"""Raw prompts, a last message that is continued, and what a base model says to a chat."""

from __future__ import annotations

import numpy as np
import pytest

from llmlab.errors import ContextLengthError, RequestError
from llmlab.lab.lab import Lab
from tests.backends.random_model import random_model
from tests.text import folders


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory):
    """A base model: a tokenizer that begins a text with <s>, and no chat template."""
    backend = random_model(folders.sentencepiece_folder(tmp_path_factory.mktemp("base")), slots=2, max_context=128)
    yield Lab(backend)
    backend.close()


def test_a_raw_prompt_is_encoded_as_a_text_of_its_own(base: Lab) -> None:
    result = base.complete("the cat", max_tokens=8, seed=1)
    tokenizer = base.backend.tokenizer
    assert result.data.prompt_ids.tolist() == [1, *tokenizer.encode("the cat")]
    assert len(result.choices[0].tokens) <= 8 and result is base.last
    assert result.usage.prompt_tokens == 1 + len(tokenizer.encode("the cat"))


def test_token_ids_are_taken_as_they_are(base: Lab) -> None:
    text = base.complete("the cat", max_tokens=8, seed=1, n=2)
    prompt = text.data.prompt_ids
    for ids in (prompt.tolist(), tuple(prompt.tolist()), prompt):
        assert base.complete(ids, max_tokens=8, seed=1, n=2).texts == text.texts
    assert base.complete(prompt[1:], max_tokens=8, seed=1, n=2).texts != text.texts
    with pytest.raises(RequestError, match=r"prompt: token id 100000 .* vocabulary") as caught:
        base.complete([1, 100_000])
    assert caught.value.param == "prompt"
    with pytest.raises(ContextLengthError) as full:
        base.complete("the cat " * 100)
    assert full.value.param == "prompt"


def test_everything_that_asks_takes_a_prompt(base: Lab) -> None:
    result = base.complete("the cat", max_tokens=6, seed=2, temperature=0.5)
    assert base.complete(result.request).text == result.text
    assert base.chat(base.request(prompt="the cat", max_tokens=6, seed=2, temperature=0.5)).text == result.text
    stream = base.stream(prompt="the cat", max_tokens=6, seed=2, temperature=0.5)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == result.text
    assert stream.result().request == result.request
    law = base.next_token(prompt="the cat", temperature=0.5).frame(top=None).set_index("token_id")
    first = result.logprobs_frame().iloc[0]
    np.testing.assert_allclose(law.loc[first["token_id"], "logprob"], first["logprob"], atol=1e-4)
    for both in (base.request, base.stream, base.next_token):
        with pytest.raises(RequestError, match="messages or a prompt, not both"):
            both("hello", prompt="the cat")
        with pytest.raises(RequestError, match="messages is missing"):
            both()


def test_a_chat_without_a_template_says_what_to_do(base: Lab) -> None:
    for ask in (base.chat, base.stream, base.next_token):
        with pytest.raises(RequestError, match=r"no chat template; use lab\.complete.*chat_template=") as caught:
            ask("hello")
        assert caught.value.param == "messages"
    with pytest.raises(RequestError, match="tools belongs to a chat"):
        base.complete("the cat", tools=[{"type": "function", "function": {"name": "f"}}])


def test_a_last_message_is_continued(demo: Lab) -> None:
    question = {"role": "user", "content": "Tell me a story."}
    fields = {"temperature": 0, "max_tokens": 12}
    whole = demo.chat([question], **fields)
    half = demo.backend.tokenizer.decode(whole.choices[0].tokens.ids[:6].tolist())
    begun = {"role": "assistant", "content": half}
    result = demo.chat([question, begun], continue_final_message=True, **fields)
    assert result.data.prompt_ids.tolist()[-6:] == whole.choices[0].tokens.ids[:6].tolist()
    assert half and result.text.startswith(whole.text.removeprefix(half))
    stream = demo.stream([question, begun], continue_final_message=True, **fields)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == result.text
