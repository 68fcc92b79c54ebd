"""A request's other spellings say the same request: each is run, or read back, and compared with what it came from."""

from __future__ import annotations

import inspect
import json
import shlex
import subprocess
import sys
from html.parser import HTMLParser

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab.protocol.export import as_lab_call
from llmlab.protocol.fields import EXTENSIONS
from llmlab.protocol.request import ChatRequest, PromptRequest

#: The HTTP library that this version of `openai` runs on.
HTTP = sys.modules[openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]
NASTY = "it's \"$HOME\" `id` \\n \x00 \n\t'; rm -rf / #! é中🦊 {curly} %s \u2028"
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c", "type": "function", "function": {"name": "now", "arguments": "{}"}}
FULL = {
    "messages": [
        {"role": "system", "content": NASTY},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "noon", "tool_call_id": "c"},
    ],
    "temperature": 0.5, "top_k": 40, "seed": -(2**63), "logit_bias": {7: -100, 9: 1.5}, "stop": ["a", "\n"],
    "logprobs": True, "top_logprobs": 3, "tools": [TOOL], "enable_thinking": False, "include_stop": False,
    "chat_template_kwargs": {"deep": [{"a": [1, 2.5, None, True]}] * 9}, "max_tokens": 5, "metadata": {"a": "b"},
}  # fmt: skip


def sent_by(program, *, streamed):
    """Run a program that uses `openai`, with its transport replaced; the bodies that would have left."""
    seen = []

    def answer(request):
        seen.append((str(request.url), json.loads(request.content)))
        if streamed:
            return HTTP.Response(200, headers={"content-type": "text/event-stream"}, content=b"data: [DONE]\n\n")
        return HTTP.Response(200, json={"choices": []})

    class Client(openai.OpenAI):
        def __init__(self, **options):
            super().__init__(**options, http_client=HTTP.Client(transport=HTTP.MockTransport(answer)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai, "OpenAI", Client)
        exec(compile(program, "<snippet>", "exec"), {})
    return seen


@pytest.mark.parametrize("streamed", [False, True])
def test_the_openai_snippet_sends_this_request(streamed):
    request = ChatRequest(**FULL, stream=streamed or None)
    [(url, body)] = sent_by(request.to_openai(base_url="http://host:1/v1", model="m"), streamed=streamed)
    assert url == "http://host:1/v1/chat/completions"
    assert body.pop("model") == "m"
    assert body == request.to_dict() and ChatRequest(**body) == request


def test_the_fields_that_openai_does_not_know_are_listed():
    known = set(inspect.signature(openai.resources.chat.Completions.create).parameters)
    assert set(ChatRequest.model_fields) - known == EXTENSIONS


@given(text=st.text(), stop=st.text(min_size=1))
def test_a_curl_line_is_one_command_with_this_request(text, stop):
    request = ChatRequest.build(text, stop=stop, model="mine")
    words = shlex.split(request.to_curl(base_url="http://host/v1"))
    assert words[:3] == ["curl", "-sS", "http://host/v1/chat/completions"]
    assert words[3:7] == ["-H", "Content-Type: application/json", "-H", "Authorization: Bearer $LLMLAB_API_KEY"]
    assert words[7] == "-d" and len(words) == 9
    assert ChatRequest(**json.loads(words[8])) == request


def test_a_shell_hands_the_curl_line_on_unharmed():
    request = ChatRequest(**FULL, stream=True)
    shell = "curl() { printf '%s\\0' \"$@\"; }; "
    got = subprocess.run(
        ["/bin/sh", "-c", shell + request.to_curl()], capture_output=True, check=True, env={"LLMLAB_API_KEY": "k y"}
    )
    words = got.stdout.decode().split("\0")
    assert words[:2] == ["-sSN", "http://127.0.0.1:8000/v1/chat/completions"]
    assert words[5] == "Authorization: Bearer k y"
    assert json.loads(words[7]) == {"model": "demo", **request.to_dict()}


def test_json():
    request = ChatRequest(**FULL)
    assert ChatRequest(**json.loads(request.to_json())) == request
    assert "\n  " in request.to_json(indent=2) and "é中🦊" in request.to_json()
    prompt = PromptRequest.build([1, 2], min_p=0.5)
    assert PromptRequest(**json.loads(prompt.to_json())) == prompt
    assert list(json.loads(prompt.to_json()))[0] == "prompt"


class Text(HTMLParser):
    """What a reader sees, and which elements there are."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.rows, self.text = [], set(), [], ""
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        if tag in ("tr", "td"):
            self.rows.append([]) if tag == "tr" else self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "td" in self.open:
            self.rows[-1][-1] += data


def test_a_notebook_shows_what_was_given_beside_the_defaults():
    request = ChatRequest.build("a <script>alert(1)</script>", temperature=0.5, top_k=40, stop=["</td>"], user="u")
    page = Text(request._repr_html_())
    assert page.rows == [
        ["field", "value", "default"],
        ["stop", '["</td>"]', "null"],
        ["temperature", "0.5", "1.0"],
        ["top_k", "40", "0"],
        ["user", '"u"', "null · no effect on a local engine"],
    ]
    assert "user a <script>alert(1)</script>" in page.text and "script" not in page.tags
    assert f"{len(ChatRequest.model_fields) - 5} fields at their defaults" in page.text
    assert "top_p 1.0" in page.text and "temperature 1.0" not in page.text


def test_a_notebook_shows_every_kind_of_message_and_cuts_what_is_long():
    page = Text(ChatRequest(**FULL)._repr_html_())
    assert '"arguments": "{}"' in page.text and "tool noon" in page.text and "user hi" in page.text
    long = Text(ChatRequest.build("x" * 10_000)._repr_html_())
    assert len(long.text) < 5_000 and "(10,000 characters)" in long.text
    assert Text(PromptRequest.build("Once upon")._repr_html_()).rows[1] == ["prompt", '"Once upon"', "null"]


@pytest.mark.parametrize(
    "request_",
    [
        ChatRequest.build("hi"),
        ChatRequest.build(NASTY, seed=-1, logit_bias={7: -100}),
        ChatRequest.build([{"role": "user", "content": [{"type": "text", "text": "hi"}]}]),
        ChatRequest.build([{"role": "user", "content": "hi", "name": "somebody"}]),
        ChatRequest(**FULL),
        PromptRequest.build(NASTY, temperature=0.5),
        PromptRequest.build([1, 2, 3]),
    ],
    ids=lambda request: type(request).__name__,
)
def test_a_call_of_the_lab_makes_the_request(request_):
    made = []

    class Lab:
        def chat(self, messages, *, order="llmlab", **fields):
            made.append((ChatRequest.build(messages, **fields), order))

        def complete(self, prompt, *, order="llmlab", **fields):
            made.append((PromptRequest.build(prompt, **fields), order))

    for order in ("llmlab", "vllm"):
        source = as_lab_call(request_.to_dict(), order=order)
        assert ("order" in source) == (order == "vllm")
        exec(source, {"lab": Lab()})
        assert made.pop() == (request_, order)
