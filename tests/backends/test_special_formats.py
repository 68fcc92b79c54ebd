"""gpt-oss' messages and Gemma 4's calls through a whole backend, where their delimiters are special tokens."""

from __future__ import annotations

import json

import pytest

from llmlab.backends.local.backend import LocalBackend
from llmlab.protocol.request import ChatRequest
from llmlab.testing import tiny_checkpoint
from tests.text.outputs import TOOLS

NAMES = {
    "harmony": ["<|return|>", "<|call|>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|constrain|>"],
    "gemma": ["<turn|>", "<|turn>", "<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", '<|"|>'],
}
#: How many of the names end a generation.
ENDS = {"harmony": 2, "gemma": 1}
TEMPLATES = {
    "harmony": (
        "{% for m in messages %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endfor %}"
        "{{ tools | length if tools else '' }}{% if false %}functions.<|channel|><|call|>{{ messages[0].thinking }}"
        "{% endif %}{{ '<|start|>assistant' }}"
    ),
    "gemma": (
        "{% for m in messages %}{{ '<|turn>' + m.role + '\\n' + m.content + '<turn|>' }}{% endfor %}"
        "{{ tools | length if tools else '' }}{% if false %}{{ '<|channel>thought\\n' + x + '\\n<channel|>' }}"
        "<|tool_call>call:{{ '<|\"|>' }}{% endif %}{{ '<|turn>model\\n' }}"
    ),
}


def checkpoint(folder, name):
    """A tiny checkpoint whose tokenizer has a family's special tokens."""
    tiny_checkpoint(folder, template=TEMPLATES[name], vocab_size=280)
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text())
    first = max(token["id"] for token in stored["added_tokens"]) + 1
    like = stored["added_tokens"][0]
    ids = {text: first + at for at, text in enumerate(NAMES[name])}
    stored["added_tokens"] += [{**like, "id": at, "content": text, "special": True} for text, at in ids.items()]
    path.write_text(json.dumps(stored))
    ends = list(ids.values())[: ENDS[name]]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return folder


@pytest.fixture(scope="module", params=NAMES)
def backend(request, tmp_path_factory):
    folder = checkpoint(tmp_path_factory.mktemp("special") / request.param, request.param)
    made = LocalBackend.load(folder, slots=8)
    assert made.template.format.name == request.param
    yield made
    made.close()


def ask(backend, **fields):
    return backend.stream(ChatRequest.build("x", **{"max_tokens": 250, **fields}))


def test_required_calls(backend):
    """Random weights under the grammar: what is generated is read back as calls that are valid."""
    bias = dict.fromkeys(map(str, b'"}]'), 6.0)
    streams = [
        ask(backend, tools=TOOLS, tool_choice="required", separate_reasoning=True, seed=seed, logit_bias=bias)
        for seed in range(6)
    ]
    ended = 0
    for stream in streams:
        (choice,) = stream.result().choices
        assert choice.finish_reason in ("tool_calls", "length")
        if choice.finish_reason == "tool_calls":
            ended += 1
            assert not choice.text and choice.tool_calls
            for call in choice.tool_calls:
                assert call.name in ("get_weather", "get_time") and isinstance(json.loads(call.arguments), dict)
    print(f"{backend.template.format.name}: {ended} of {len(streams)} made calls")
    assert ended >= 2


def test_a_response_format(backend):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    ended = 0
    for seed in range(4):
        (choice,) = ask(backend, response_format=form, separate_reasoning=True, seed=seed).result().choices
        if choice.finish_reason == "stop":
            ended += 1
            assert json.loads(choice.text).keys() == {"a"}
    assert ended >= 1
