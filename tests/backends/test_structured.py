"""Answers that follow a schema, from the embedded model and from random weights, at the highest temperature."""

import pytest

from llmlab.backends.local.backend import LocalBackend
from llmlab.errors import RequestError
from llmlab.protocol.request import ChatRequest
from llmlab.testing import tiny_checkpoint
from tests.grammar.schemas import REFUSED, SCHEMAS, obj
from tests.grammar.validity import problem


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    backend = LocalBackend.load(tiny_checkpoint(tmp_path_factory.mktemp("structured") / "tiny"), slots=32)
    yield backend
    backend.close()


def ask(name, seed, **fields):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMAS[name], "strict": bool(seed % 2)}}
    given = {"temperature": 2.0, "max_tokens": 160, "separate_reasoning": True, "response_format": form} | fields
    return ChatRequest.build("Give me JSON.", seed=seed, **given)


def answer(backend, names, *, beside=(), **fields):
    """Every schema's answer, all at once beside other requests; how many ended with "stop"."""
    under_way = {name: backend.stream(ask(name, seed, **fields)) for seed, name in enumerate(names)}
    others = [backend.stream(request) for request in beside]
    stopped = 0
    for name, stream in under_way.items():
        (choice,) = stream.result().choices
        if choice.finish_reason == "stop":
            stopped += 1
            wrong = problem(choice.text, SCHEMAS[name])
            assert wrong is None, (name, choice.text, wrong)
        else:
            assert choice.finish_reason == "length", name
    return stopped, [stream.result() for stream in others]


def test_the_embedded_model_in_a_mixed_batch(demo):
    free = [ChatRequest.build("Tell me a story.", seed=seed, max_tokens=30) for seed in range(6)]
    stopped, _ = answer(demo.backend, SCHEMAS, beside=free)
    print(f"{stopped} of {len(SCHEMAS)} ended with stop, all of them valid")
    assert stopped > 0.8 * len(SCHEMAS)


def test_the_embedded_model_alone(demo):
    for name in ("person", "tree", "date-time", "pydantic", "anything", "cents"):
        stopped, _ = answer(demo.backend, [name])
        assert stopped == 1


def test_the_embedded_model_after_it_thought(demo):
    names = list(SCHEMAS)[::4]
    hurry = {demo.backend.tokenizer.id_of("</think>"): 6.0}  # at this temperature it would think forever
    stopped, _ = answer(demo.backend, names, enable_thinking=True, max_tokens=300, logit_bias=hurry)
    print(f"{stopped} of {len(names)} ended with stop")
    assert stopped > 0.8 * len(names)


def test_random_weights(random_weights):
    stopped, _ = answer(random_weights, SCHEMAS)
    print(f"{stopped} of {len(SCHEMAS)} ended with stop, all of them valid")
    assert stopped > 0.8 * len(SCHEMAS)


def test_random_weights_that_think(random_weights):
    tokenizer = random_weights.tokenizer
    bias = {tokenizer.id_of("<think>"): 8.0, tokenizer.id_of("</think>"): 12.0, **dict.fromkeys(b'"}]01', 3.0)}
    names = list(SCHEMAS)[1::3]
    stream = random_weights.stream(ask("boolean", 3, enable_thinking=True, logit_bias=bias))
    (choice,) = stream.result().choices
    assert choice.reasoning is not None and choice.text in ("true", "false")
    assert set(choice.tokens.segment) == {"reasoning", "content", "end"}
    stopped, _ = answer(random_weights, names, enable_thinking=True, logit_bias=bias)
    assert stopped > 0.8 * len(names)


def test_json_object(random_weights):
    for seed in range(4):
        request = ask(
            "any object", seed, response_format={"type": "json_object"}, logit_bias=dict.fromkeys(b'"}]', 6.0)
        )
        (choice,) = random_weights.stream(request).result().choices
        assert choice.finish_reason == "stop" and problem(choice.text, {"type": "object"}) is None


def test_what_is_cut_by_length_says_so(random_weights):
    (choice,) = random_weights.stream(ask("tree", 1, max_tokens=3)).result().choices
    assert choice.finish_reason == "length" and len(choice.tokens) == 3
    assert problem(choice.text, SCHEMAS["tree"]).startswith("not JSON")


def test_the_fields_that_would_break_a_grammar_do_not(random_weights):
    """Biases against all that is allowed, ends that may not come yet, ends that are ignored, penalties."""
    barred = dict.fromkeys(range(258), -100.0)
    for fields in (
        {"logit_bias": barred},
        {"min_tokens": 100},
        {"ignore_eos": True},
        {"temperature": 0.0, "logit_bias": barred},
        {"top_k": 1, "top_p": 0.01, "min_p": 1.0},
        {"repetition_penalty": 1e-6, "frequency_penalty": 2.0, "presence_penalty": -2.0},
    ):
        for name in ("shapes by kind", "sentiment", "percentage"):
            (choice,) = random_weights.stream(ask(name, 5, **fields)).result().choices
            assert choice.finish_reason == "stop", (name, fields)
            assert problem(choice.text, SCHEMAS[name]) is None, (name, fields, choice.text)


@pytest.mark.parametrize("name", ["uniqueItems", "not", "overlapping oneOf", "a reference to nowhere", "a look-ahead"])
def test_a_schema_that_cannot_be_enforced_is_refused_before_a_token(random_weights, name):
    schema, words = REFUSED[name]
    before = random_weights.engine.prefills
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(RequestError) as caught:
        random_weights.stream(ChatRequest.build("unheard of", response_format=form))
    assert caught.value.param == "response_format" and caught.value.status == 400
    assert words.removeprefix("#: ") in str(caught.value)
    tool = {"type": "function", "function": {"name": "f", "parameters": obj("a", a=schema)}}
    with pytest.raises(RequestError) as caught:
        random_weights.stream(ChatRequest.build("unheard of", tools=[tool], tool_choice="required"))
    assert caught.value.param in ("tools", "tool_choice")
    assert random_weights.engine.prefills == before
