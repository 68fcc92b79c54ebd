"""`/tokenize`, `/detokenize`, `/apply_template`: the same texts and ids as the tokenizer and the chat template give."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmlab.serve.handler import Handler
from llmlab.serve.routes.tokens import APPLY_TEMPLATE, DETOKENIZE, TOKENIZE
from tests.serve.bodies import error_of, http
from tests.serve.puppet import Puppet
from tests.serve.test_openapi import valid

TEXT = "Once upon a time 🦊 <|im_end|>\n"
ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name an animal."}]
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}


def post(server: Any, path: str, **fields: Any) -> Any:
    data, headers = json.dumps(fields).encode(), {"content-type": "application/json"}
    return http.post(f"{server.url}{path}", content=data, headers=headers, timeout=60, verify=False)


@pytest.fixture(scope="module")
def document(server):
    return http.get(server.url + "/openapi.json").json()


@pytest.fixture(scope="module")
def hf(demo):
    """The tokenizer as transformers reads it from the folder, without this package."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo.backend.tokenizer.folder)


def test_a_text(server, document, hf):
    for special in (None, True, False):
        answer = post(server, "/tokenize", prompt=TEXT, add_special_tokens=special, return_token_strs=True).json()
        assert answer["tokens"] == hf.encode(TEXT, add_special_tokens=special is not False)
        assert answer["count"] == len(answer["tokens"]) and answer["max_model_len"] == 512
        valid(document, "Tokenized", answer)
    strings = answer["token_strs"]
    assert strings[0] == "Once" and "<|im_end|>" in strings and "bytes:\\xf0" in strings
    assert post(server, "/tokenize", prompt=TEXT).json()["token_strs"] is None
    assert post(server, "/tokenize", prompt="").json()["count"] == len(hf.encode(""))
    back = post(server, "/detokenize", tokens=answer["tokens"])
    assert back.json() == {"prompt": TEXT} and post(server, "/detokenize", tokens=[]).json() == {"prompt": ""}
    valid(document, "Rendered", back.json())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"add_generation_prompt": False},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "none"},
        {"enable_thinking": True},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"messages": [*ASK, {"role": "assistant", "content": "A f"}], "continue_final_message": True},
    ],
)
def test_a_conversation(server, hf, fields):
    asked = {"messages": ASK, **fields}
    tools = None if "tool_choice" in fields else fields.get("tools")
    switches = {"enable_thinking": True} if "enable_thinking" in fields else fields.get("chat_template_kwargs", {})
    continued = fields.get("continue_final_message", False)
    text = hf.apply_chat_template(
        asked["messages"],
        tools=tools,
        tokenize=False,
        add_generation_prompt=fields.get("add_generation_prompt", not continued),
        continue_final_message=continued,
        **switches,
    )
    assert post(server, "/apply_template", **asked).json() == {"prompt": text}
    answer = post(server, "/tokenize", **asked).json()
    assert answer["tokens"] == hf.encode(text, add_special_tokens=False)


def test_the_tokens_of_a_chat_are_those_that_answer_it(server, demo):
    """Whatever a chat request holds: its body can be sent as it is."""
    body = {"model": "demo", "messages": ASK, "temperature": 0.3, "max_tokens": 4, "seed": 1}
    rendered = demo.backend.render(demo.request(ASK)).tolist()
    assert post(server, "/tokenize", **body).json()["tokens"] == rendered
    answered = http.post(f"{server.url}/v1/chat/completions", json=body, timeout=60, verify=False).json()
    assert answered["usage"]["prompt_tokens"] == len(rendered)


@pytest.mark.parametrize(
    ("path", "fields", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": 5}, 400, "prompt"),
        ("/tokenize", {"prompt": "\ud800"}, 400, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": ASK}, 400, "messages"),
        ("/tokenize", {"prompt": "a", "temperature": 1}, 400, "temperature"),
        ("/tokenize", {"prompt": "a", "add_generation_prompt": True}, 400, "add_generation_prompt"),
        ("/tokenize", {"prompt": "a", "promt": 1}, 400, "promt"),
        ("/tokenize", {"prompt": "a", "model": "other"}, 404, "model"),
        ("/tokenize", {"messages": ASK, "model": "other"}, 404, "model"),
        ("/tokenize", {"messages": ASK, "temperature": 5}, 400, "temperature"),
        ("/tokenize", {"messages": [{"role": "robot", "content": ""}]}, 400, "messages"),
        ("/tokenize", {"messages": ASK, "return_token_strs": 1}, 400, "return_token_strs"),
        ("/detokenize", {}, 400, "tokens"),
        ("/detokenize", {"tokens": "a"}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
        ("/detokenize", {"tokens": [10**9]}, 400, "tokens"),
        ("/detokenize", {"tokens": [1], "model": "other"}, 404, "model"),
        ("/detokenize", {"tokens": [1], "skip": True}, 400, "skip"),
        ("/apply_template", {}, 400, "messages"),
        ("/apply_template", {"messages": ASK, "chat_template_kwargs": {"mood": 1}}, 400, "chat_template_kwargs"),
        ("/apply_template", {"messages": ASK, "prompt": "a"}, 400, "prompt"),
        (
            "/apply_template",
            {"messages": ASK[:1] + [{"role": "assistant", "content": "a"}], "continue_final_message": True,
             "add_generation_prompt": True},
            400,
            "add_generation_prompt",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(server, path, fields, status, param):
    refused = post(server, path, **fields)
    assert refused.status_code == status and error_of(refused)["param"] == param


def test_null_is_not_given(server):
    plain = post(server, "/tokenize", prompt="a").json()
    nulls = dict.fromkeys(("messages", "model", "add_special_tokens", "return_token_strs", "tools"))
    assert post(server, "/tokenize", prompt="a", **nulls).json() == plain
    assert post(server, "/tokenize", prompt=None, messages=ASK).json()["count"] > 1


def test_they_take_no_place_among_the_answers(running):
    """A full queue of answers refuses no text, and an endpoint elsewhere has no tokenizer here."""
    puppet = Puppet(slots=1)
    for route in (TOKENIZE, DETOKENIZE, APPLY_TEMPLATE):
        reply = Handler(puppet, route).start(json.dumps(route.example).encode())
        assert reply.status == 400 and b"tokenizer is not known" in b"".join(reply.parts)


def test_through_the_client_in_this_process(demo):
    with demo.client() as client:
        root = {"cast_to": object, "body": {"prompt": TEXT}}
        assert client.post("http://llmlab.invalid/tokenize", **root)["tokens"] == demo.backend.encode(
            TEXT, special=True
        )
