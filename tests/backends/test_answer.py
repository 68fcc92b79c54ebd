"""What an endpoint asks of the engine: the tokens of any answer, and statistics where the request wants logprobs."""

import numpy as np
import pytest

from llmlab.backends.local.backend import LocalBackend
from llmlab.lab.client import client
from llmlab.protocol.completion import Tokens
from llmlab.protocol.request import ChatRequest
from llmlab.testing import tiny_checkpoint

NUMBERS = ("logprob", "sampling_logprob", "entropy", "sampling_entropy", "margin")


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    backend = LocalBackend.load(tiny_checkpoint(tmp_path_factory.mktemp("answer") / "tiny"), slots=4, max_context=256)
    yield backend
    backend.close()


@pytest.fixture
def asked(backend, monkeypatch):
    """Whether each row that is submitted asks for statistics."""
    found: list[bool] = []
    submit = backend.engine.submit

    def noted(rows, **options):
        found.extend(row.params.statistics for row in rows)
        return submit(rows, **options)

    monkeypatch.setattr(backend.engine, "submit", noted)
    return found


def test_without_logprobs_the_tokens_are_the_same_and_their_statistics_unknown(backend, asked):
    request = ChatRequest.build("Hello", n=3, seed=4, max_tokens=20, temperature=1.2, top_p=0.9, stop=["zz"])
    whole, answer = backend.complete(request), backend.answer(request).result()
    assert asked == [True] * 3 + [False] * 3
    for ours, theirs in zip(answer.choices, whole.choices, strict=True):
        assert (ours.text, ours.finish_reason) == (theirs.text, theirs.finish_reason)
        assert ours.tokens.ids.tolist() == theirs.tokens.ids.tolist()
        assert not any(np.isnan(getattr(theirs.tokens, name)).any() for name in NUMBERS)
        assert all(np.isnan(getattr(ours.tokens, name)).all() for name in NUMBERS)
        assert ours.tokens.top_ids.shape == (len(ours.tokens), 0)


def test_with_logprobs_everything_is_the_same(backend, asked):
    request = ChatRequest.build("Hello", seed=4, max_tokens=20, logprobs=True, top_logprobs=3, logprob_token_ids=[5])
    whole, answer = backend.complete(request).choices[0].tokens, backend.answer(request).result().choices[0].tokens
    assert asked == [True, True]
    for name in Tokens.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(answer, name), getattr(whole, name))


def test_a_client_asks_for_statistics_with_logprobs_alone(backend, asked):
    chat = client(backend).chat.completions
    fields = {"model": backend.name, "messages": [{"role": "user", "content": "Hi"}], "seed": 1, "max_tokens": 5}
    assert chat.create(**fields).choices[0].logprobs is None
    assert asked == [False]
    assert len(chat.create(**fields, logprobs=True).choices[0].logprobs.content) >= 1
    assert asked == [False, True]
    list(chat.create(**fields, stream=True))
    assert asked == [False, True, False]


def test_the_best_of_several_answers_are_chosen_by_their_logprobs(backend, asked):
    texts = client(backend).completions
    fields = {"model": backend.name, "prompt": "Once", "seed": 1, "max_tokens": 5, "temperature": 1.5}
    best = texts.create(**fields, best_of=4)
    assert asked == [True] * 4
    every = texts.create(**fields, n=4, logprobs=0)
    means = [np.mean(choice.logprobs.token_logprobs) for choice in every.choices]
    assert best.choices[0].text == every.choices[int(np.argmax(means))].text
