"""Several prompts at once, a system message beside them, and the tokens of a text."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from llmlab.errors import RequestError
from llmlab.lab.lab import Lab
from llmlab.protocol.request import ChatRequest, PromptRequest
from llmlab.results.result import Result
from llmlab.results.token_list import TokenList
from tests.backends.endpoint import Endpoint, entry, refusal, spoken

CAT, DOG = "Name a cat.", "Name a dog."
FIELDS = {"temperature": 1.1, "max_tokens": 6}


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def far() -> Lab:
    return Lab(Endpoint(lambda body: spoken(entry(body["messages"][-1]["content"], -0.3))).backend())


@pytest.mark.parametrize(
    "prompts",
    [
        [CAT, DOG],
        (CAT, DOG),
        [said(CAT), said(DOG)],
        [CAT, said(DOG)],
        [ChatRequest.build(CAT), DOG],
    ],
    ids=["texts", "tuple", "conversations", "both", "request"],
)
def test_each_prompt_of_a_list_is_answered_as_it_would_be_alone(demo: Lab, prompts) -> None:
    found = demo.chat(prompts, seed=7, n=2, **FIELDS)
    assert isinstance(found, list) and all(isinstance(one, Result) for one in found)
    for text, one in zip((CAT, DOG), found, strict=True):
        assert one.request.messages == tuple(said(text))
        assert one.texts == demo.chat(text, seed=one.seed, n=2, **FIELDS).texts
        assert one.lab is demo
    assert found[0].seed == 7 != found[1].seed, "prompts have different noise"
    assert demo.chat([CAT, DOG, CAT], seed=7, **FIELDS)[1].seed == found[1].seed


def test_a_list_of_messages_is_one_conversation(demo: Lab) -> None:
    talk = [*said(CAT), {"role": "assistant", "content": "Tom."}, *said(DOG)]
    assert isinstance(demo.chat(talk, seed=1, **FIELDS), Result)
    assert isinstance(demo.chat([talk], seed=1, **FIELDS), list), "a list of one conversation is a list"
    with pytest.raises(RequestError, match="messages mixes prompts and single messages"):
        demo.chat([CAT, *said(DOG)])
    with pytest.raises(RequestError, match="at least one message"):
        demo.chat([])
    with pytest.raises(RequestError, match="temperature"):
        demo.chat([CAT, DOG], temperature=[0, 1])
    with pytest.raises(RequestError, match=r"lab\.stream gives"):
        demo.chat([CAT, DOG], stream=True)
    with pytest.raises(RequestError, match="order must be one of"):
        demo.chat([CAT, DOG], order="mine")


def test_requests_keep_their_seeds_unless_one_is_given(demo: Lab) -> None:
    requests = [demo.request(CAT, seed=3, **FIELDS), demo.request(DOG, seed=3, **FIELDS), demo.request(CAT, **FIELDS)]
    assert [one.seed for one in demo.chat(requests)[:2]] == [3, 3]
    given = [one.seed for one in demo.chat(requests, seed=4)]
    assert given[0] == 4 and len(set(given)) == 3


def test_they_are_a_sweep_over_prompts_too(demo: Lab) -> None:
    found = demo.chat([CAT, DOG], seed=5, **FIELDS)
    assert demo.last is found[-1] or demo.last_sweep.results[-1].text == found[-1].text
    assert demo.last_sweep.frame()["text"].tolist() == [one.text for one in found]
    assert [one.text for one in demo.sweep([CAT, DOG], n=1, seed=5, **FIELDS).results] == [one.text for one in found]


def test_what_cannot_be_asked_is_an_error_and_the_rest_is_kept(demo: Lab) -> None:
    with pytest.raises(RequestError, match="leaves no room"):
        demo.chat([CAT, "word " * 2000], seed=5, **FIELDS)
    assert len(demo.last_sweep.grid.cells) == 2 and not demo.last_sweep.is_complete


def test_raw_prompts(demo: Lab) -> None:
    texts = demo.complete(["Once upon", "The cat"], seed=2, **FIELDS)
    ids = demo.complete([demo.tokenize(text) for text in ("Once upon", "The cat")], seed=2, **FIELDS)
    assert [one.text for one in texts] == [one.text for one in ids]
    assert texts[0].text == demo.complete("Once upon", seed=2, **FIELDS).text
    one = demo.complete([5, 6, 7], seed=2, **FIELDS)
    assert isinstance(one, Result) and isinstance(one.request, PromptRequest)


def test_an_endpoint_answers_lists_as_well(far: Lab) -> None:
    assert [one.text for one in far.chat([CAT, DOG])] == [CAT, DOG]
    assert far.chat(CAT, system="Be brief.").request.messages[0] == {"role": "system", "content": "Be brief."}
    broken = Lab(Endpoint(lambda body: refusal("temperature must be 1", param="temperature")).backend())
    with pytest.raises(RequestError, match="temperature must be 1"):
        broken.chat([CAT, DOG])


def test_scores_of_several_prompts(demo: Lab) -> None:
    one_each = demo.score([CAT, DOG], ["Tom.", "Rex."])
    assert [r.text for r in one_each] == ["Tom.", "Rex."]
    for (prompt, text), found in zip(((CAT, "Tom."), (DOG, "Rex.")), one_each, strict=True):
        alone = demo.score(prompt, text)
        np.testing.assert_allclose(found[0].tokens.logprob, alone[0].tokens.logprob, atol=1e-5)
    assert [r.texts for r in demo.score([CAT, DOG], [["Tom.", "Ann."], "Rex."])] == [["Tom.", "Ann."], ["Rex."]]
    assert [r.texts for r in demo.score([CAT, DOG], "Max.")] == [["Max."], ["Max."]], "one text after every prompt"
    ids = demo.tokenize("Max.")
    assert [r.texts for r in demo.score([CAT, DOG], ids)] == [["Max."], ["Max."]]
    assert demo.score(CAT, ["Tom.", "Rex."]).texts == ["Tom.", "Rex."], "one prompt: two choices"
    with pytest.raises(RequestError, match="given has 3 items and there are 2 prompts"):
        demo.score([CAT, DOG], ["Tom.", "Rex.", "Max."])


def test_scores_of_several_results_and_raw_prompts(demo: Lab) -> None:
    results = demo.chat([CAT, DOG], seed=1, **FIELDS)
    for result, scored in zip(results, demo.score(results), strict=True):
        np.testing.assert_allclose(scored[0].tokens.logprob, result[0].tokens.logprob, atol=1e-4)
        assert scored.parent is result
    raw = demo.score(prompt=["Once upon a time", "The cat sat"])
    alone = demo.score(prompt="The cat sat")
    np.testing.assert_allclose(raw[1][0].tokens.logprob, alone[0].tokens.logprob, atol=1e-5)
    assert isinstance(alone, Result) and isinstance(demo.score(prompt=[5, 6, 7]), Result)
    with pytest.raises(RequestError, match="messages or a prompt, not both"):
        demo.score([CAT, DOG], "x", prompt=["a", "b"])


@pytest.mark.parametrize("ask", ["chat", "request", "next_token", "score", "stream", "playground"])
def test_a_system_message_beside_the_prompt(demo: Lab, ask: str) -> None:
    given = ("Tom.",) if ask == "score" else ()
    found = getattr(demo, ask)(CAT, *given, system="Be brief.", **({} if ask == "score" else {"max_tokens": 2}))
    request = {"request": lambda: found, "stream": lambda: found.result().request}.get(ask, lambda: found.request)()
    assert request.messages == ({"role": "system", "content": "Be brief."}, *said(CAT))
    if ask == "playground":
        found.close()


def test_a_system_message_of_a_sweep_a_rerun_and_a_request(demo: Lab) -> None:
    sweep = demo.sweep([CAT, DOG], system="Be brief.", n=1, seed=1, max_tokens=2)
    assert all(r.request.messages[0]["content"] == "Be brief." for r in sweep.results)
    result = demo.chat(CAT, system="Be brief.", seed=1, max_tokens=4)
    again = result.rerun(system="Shout.")
    assert again.request.messages == ({"role": "system", "content": "Shout."}, *said(CAT))
    assert demo.chat(result.request, system="Shout.").request.messages == again.request.messages
    assert result.rerun(messages=DOG, system="Go.").request.messages == (
        {"role": "system", "content": "Go."},
        *said(DOG),
    )


def test_a_system_message_that_cannot_be_one(demo: Lab) -> None:
    for role in ("system", "developer"):
        with pytest.raises(RequestError, match="give one of the two") as caught:
            demo.chat([{"role": role, "content": "a"}, *said(CAT)], system="b")
        assert caught.value.param == "system"
    for ask in (lambda: demo.complete("a", system="b"), lambda: demo.next_token(prompt="a", system="b")):
        with pytest.raises(RequestError, match="system belongs to a chat"):
            ask()
    with pytest.raises(RequestError, match="system must be a string, got 3"):
        demo.chat(CAT, system=3)
    with pytest.raises(RequestError, match="messages is missing"):
        demo.request(system="b")


def test_the_tokens_of_a_text(demo: Lab) -> None:
    found = demo.tokenize("Once upon a time.")
    assert isinstance(found, TokenList) and found == tuple(demo.tokenizer.encode("Once upon a time."))
    assert "".join(found.tokens) == "Once upon a time." and found.ids.dtype == np.int32
    frame = found.frame()
    assert list(frame.columns) == ["position", "token", "token_id", "bytes"] and len(frame) == len(found)
    assert frame["token"].tolist() == found.tokens
    assert repr(found).startswith(f"{len(found)} tokens: Once ␣upon")
    copy = pickle.loads(pickle.dumps(found))
    assert copy == found and copy.tokens == found.tokens
    assert repr(demo.tokenize("")) == "0 tokens"
    assert "… and " in repr(demo.tokenize("word " * 100))


def test_the_tokens_of_a_prompt(demo: Lab) -> None:
    result = demo.chat(CAT, system="Be brief.", seed=1, max_tokens=2)
    assert demo.tokenize(result.request).ids.tolist() == result.prompt_ids.tolist()
    assert demo.tokenize(list(result.request.messages)).ids.tolist() == result.prompt_ids.tolist()
    assert "<|im_start|>" in demo.tokenize(said(CAT)).tokens
    assert demo.tokenize(prompt="Once").ids.tolist() == demo.complete("Once", max_tokens=1).prompt_ids.tolist()
    with pytest.raises(RequestError, match="system: a text is tokenized by itself"):
        demo.tokenize("Hi", system="b")
    with pytest.raises(RequestError, match="text has half of a surrogate pair"):
        demo.tokenize("\ud800")


def test_the_tokenizer_is_the_one_of_transformers(demo: Lab, far: Lab) -> None:
    from transformers import PreTrainedTokenizerBase

    assert isinstance(demo.tokenizer, PreTrainedTokenizerBase)
    for ask in (lambda: far.tokenizer, lambda: far.tokenize("a")):
        with pytest.raises(RequestError, match=r"is an endpoint that does not .*; llmlab\.load a model"):
            ask()
