"""Tool calls that a request requires, in every family's syntax: generated under the grammar, read by the segmenter."""

import json
from dataclasses import replace

import numpy as np
import pytest

from llmlab.backends.local.backend import LocalBackend
from llmlab.backends.local.request_grammar import request_grammar
from llmlab.errors import RequestError
from llmlab.grammar.vocabulary import Vocabulary
from llmlab.protocol.request import ChatRequest
from llmlab.testing import tiny_checkpoint
from llmlab.text import call_families as families
from llmlab.text.call_syntax import markers
from llmlab.text.channels import Channels
from llmlab.text.formats import Format, ReasoningTags
from llmlab.text.segments import Segmenter
from llmlab.text.template import ChatTemplate
from tests.grammar.schemas import BOOL, arr, between, closed, form, obj, text
from tests.grammar.validity import problem
from tests.grammar.walk import allowed, takes, vocabulary, walk

TOOLS = [
    {"type": "function", "function": {"name": name, **({"parameters": parameters} if parameters else {})}}
    for name, parameters in {
        "weather": obj("city", city=text(8), days=between(1, 9), unit={"enum": ["c", "f"]}, on=form("date")),
        "now": None,
        "set-flags_2": closed(deep=closed(flags=arr(BOOL, 0, 2), note=text(5))),
    }.items()
]
SYNTAXES = {
    "hermes": families.HERMES,
    "deepseek": families.DEEPSEEK,
    "glm": families.GLM,
    "llama": families.LLAMA,
    "mistral": families.MISTRAL,
    "mistral-args": families.MISTRAL_ARGS,
    "mistral-ids": families.call_syntax("[TOOL_CALLS][CALL_ID][ARGS]{% if call.id|length != 9 %}")[1],
    "deepseek-v3.1": families.DEEPSEEK_V31,
    "glm-4.7": families.GLM_TIGHT,
    "qwen-xml": families.QWEN_XML,
    "minimax": families.MINIMAX,
    "cohere": families.COHERE,
    "kimi": families.KIMI,
    "gemma": families.GEMMA,
    "function-gemma": families.FUNCTION_GEMMA,
    "gemma-code": families.GEMMA_CODE,
    "python": families.PYTHON,
    "olmo": families.OLMO,
    "phi": families.PHI,
    "phi-single": families.PHI_SINGLE,
    "granite": families.GRANITE,
}


TAGS = ReasoningTags()


def written_calls(format, written, *, prompt=b""):
    """The calls in a text, as names and arguments, and the content that is there beside them."""
    segmenter = Segmenter(format, prompt=prompt, tools=TOOLS)
    found, content, complete = [], b"", 0
    for span in segmenter.feed(written) + segmenter.flush():
        if span.segment == "content":
            content += span.data
        if span.name is not None:
            found.append([span.name, b""])
        if span.segment == "tool_call" and found:
            found[-1][1] += span.text
            complete += span.complete
    assert complete == len(found), written
    return [(name, json.loads(arguments)) for name, arguments in found], content


def assert_valid(name, arguments):
    tool = next(tool["function"] for tool in TOOLS if tool["function"]["name"] == name)
    schema = tool.get("parameters") or closed()
    assert problem(json.dumps(arguments), schema) is None, (name, arguments)


def request(**fields):
    return ChatRequest.build("x", **{"tools": TOOLS, "tool_choice": "required", "separate_reasoning": True} | fields)


@pytest.mark.parametrize("family", SYNTAXES)
@pytest.mark.parametrize("thinks", [False, True])
def test_what_is_written_for_a_family_is_read_back_as_calls(family, thinks):
    format = Format(family, TAGS if thinks else None, SYNTAXES[family])
    prompt = b"<think>\n" if thinks else b""
    compiled = request_grammar(request(), format=format, vocabulary=vocabulary(), prompt=prompt)
    # At random a thought would take forever; this one holds what must not be taken for a call.
    thought = b'hm {"name": "now", "arguments": {}}, </think\n</think>\n' if thinks else b""
    rng = np.random.default_rng(3)
    made = []
    for text_written in filter(None, (walk(compiled, rng, most=400, begin=thought) for _ in range(14))):
        calls, content = written_calls(format, text_written, prompt=prompt)
        assert calls and not content, text_written
        for name, arguments in calls:
            assert_valid(name, arguments)
        made.append(calls)
    names = {name for calls in made for name, _ in calls}
    print(f"{family}: {len(made)} of 14 ended; {sum(map(len, made))} calls")
    assert len(made) >= 6 and len(names) == 3
    assert SYNTAXES[family].between is not None or max(map(len, made)) == 1


@pytest.mark.parametrize("family", SYNTAXES)
def test_one_call_of_one_function(family):
    format = Format(family, TAGS, SYNTAXES[family])
    choice = {"type": "function", "function": {"name": "now"}}
    compiled = request_grammar(
        request(tool_choice=choice, parallel_tool_calls=False), format=format, vocabulary=vocabulary(), prompt=b""
    )
    rng = np.random.default_rng(4)
    for _ in range(5):
        text_written = walk(compiled, rng, begin=b"<think>hm</think>\n")
        assert text_written is not None
        assert written_calls(format, text_written) == ([("now", {})], b"")


@pytest.mark.parametrize("family", ["deepseek", "mistral", "llama", "mistral-ids", "deepseek-v3.1", "cohere", "kimi"])
def test_delimiters_that_are_control_tokens(family):
    syntax = SYNTAXES[family]
    names = sorted({mark.decode() for part in syntax.texts() for mark in markers(part) if len(mark) > 8})
    tokens = [*(bytes([i]) for i in range(256)), *[None] * (len(names) + 1)]
    controls = {name: 257 + i for i, name in enumerate(names)}
    words = Vocabulary(tokens, size=300, ends=(256,), controls=controls)
    compiled = request_grammar(request(), format=Format(family, None, syntax), vocabulary=words, prompt=b"")
    spelled = {token: name.encode() for name, token in controls.items()}
    rng, ended, used = np.random.default_rng(5), 0, set()
    for _ in range(12):
        matcher, out = compiled.matcher(), b""
        for _ in range(600):
            choices = allowed(matcher)
            weight = np.where(np.isin(choices, [*b'"}]', *range(256, 300)]), 8.0, 1.0)
            token = int(rng.choice(choices, p=weight / weight.sum()))
            if token == 256:
                ended += 1
                calls, content = written_calls(Format(family, None, syntax), out)
                assert calls and not content
                for name, arguments in calls:
                    assert_valid(name, arguments)
                break
            used |= {token} - set(range(256))
            out += spelled.get(token) or bytes([token])
            matcher.advance(token)
    assert ended >= 5 and used == set(spelled)


def test_where_the_reasoning_stands():
    format = Format("hermes", TAGS, families.HERMES)
    form = {"response_format": {"type": "json_object"}, "tools": None, "tool_choice": None}

    def of(prompt):
        return request_grammar(request(**form), format=format, vocabulary=vocabulary(), prompt=prompt)

    fresh, opened, closed_already = of(b"assistant\n"), of(b"assistant\n<think>\n"), of(b"<think>\n\n</think>\n\n")
    assert takes(fresh, "{}") and takes(fresh, "<think>hm</think>\n\n{}")
    assert not takes(opened, "{}") and takes(opened, "hm\n</think>\n\n{}")
    assert takes(closed_already, "{}") and not takes(closed_already, "<think>hm</think>{}")


def test_where_messages_stand():
    """gpt-oss: reasoning, an answer and a call are messages, and each but the first begins with a text of its own."""
    tags = ReasoningTags("<|channel|>analysis<|message|>", "<|stop|>")
    format = Format("harmony", tags, families.HARMONY, Channels(end="<|stop|>"))
    turn = b"<|start|>assistant"
    thought, start = "<|channel|>analysis<|message|>hm<|stop|>", "<|start|>assistant"
    answer, call = (
        "<|channel|>final<|message|>{}",
        "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}",
    )

    def of(prompt, **fields):
        return request_grammar(request(**fields), format=format, vocabulary=vocabulary(), prompt=prompt)

    form = {"response_format": {"type": "json_object"}, "tools": None, "tool_choice": None}
    asked = [(of(turn, **form), answer), (of(turn, parallel_tool_calls=False), call + "<|call|>")]
    for compiled, message in asked:
        assert takes(compiled, message) and takes(compiled, thought + start + message)
        assert not takes(compiled, thought + message) and not takes(compiled, start + message)
        assert not takes(compiled, thought + start + thought + start + message)
    assert not takes(asked[0][0], "{}") and not takes(asked[1][0], answer)
    opened = of(turn + tags.open.encode(), **form)
    assert takes(opened, "hm<|stop|>" + start + answer) and not takes(opened, answer)
    # A message of content that the prompt has begun has its header already.
    begun = of(turn + b"<|channel|>final<|message|>", **form)
    assert takes(begun, "{}") and not takes(begun, answer)


def test_the_text_of_an_end_token_is_no_part_of_a_call():
    syntax = replace(families.HARMONY, close="<|end|>")  # the token that ends a generation in this vocabulary
    compiled = request_grammar(request(), format=Format("x", None, syntax), vocabulary=vocabulary(), prompt=b"")
    assert takes(compiled, "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}")


def test_tools_that_may_be_called_beside_a_response_format():
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": obj("a", a=BOOL)}}
    format = Format("hermes", None, families.HERMES)
    compiled = request_grammar(
        request(tool_choice="auto", response_format=form), format=format, vocabulary=vocabulary(), prompt=b""
    )
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    assert takes(compiled, '{"a": true}') and takes(compiled, call) and takes(compiled, f"{call}\n{call}")
    assert not takes(compiled, '{"a": 1}') and not takes(compiled, '{"a": true}' + call)
    required = request_grammar(request(response_format=form), format=format, vocabulary=vocabulary(), prompt=b"")
    assert takes(required, call) and not takes(required, '{"a": true}')
    none = request_grammar(
        request(tool_choice="none", response_format=form), format=format, vocabulary=vocabulary(), prompt=b""
    )
    assert takes(none, '{"a": true}') and not takes(none, call)


def test_what_asks_for_nothing_is_free():
    for fields in ({"tool_choice": "auto"}, {"tool_choice": "none"}, {"tool_choice": None}):
        free = request(response_format={"type": "text"}, **fields)
        assert request_grammar(free, format=Format(), vocabulary=vocabulary(), prompt=b"") is None


def test_what_cannot_be_is_refused_by_name():
    def refused(field, words, *, syntax=families.HERMES, **fields):
        with pytest.raises(RequestError) as caught:
            request_grammar(request(**fields), format=Format("x", None, syntax), vocabulary=vocabulary(), prompt=b"")
        assert caught.value.param == field and words in str(caught.value), caught.value

    def tool(parameters):
        return [TOOLS[1], {"type": "function", "function": {"name": "f", "parameters": parameters}}]

    refused("tool_choice", "this model's template has none", syntax=None)
    for syntax in SYNTAXES.values():
        unique = obj(a=obj(b={"type": "array", "uniqueItems": True}))
        where = "tools[1].function.parameters#/properties/a/properties/b: uniqueItems can be enforced only"
        refused("tools", where, syntax=syntax, tools=tool(unique))
    begun = [{"role": "user", "content": "x"}, {"role": "assistant", "content": '{"a": '}]
    with pytest.raises(RequestError, match="begun already") as caught:
        form_only = ChatRequest(messages=begun, response_format={"type": "json_object"}, continue_final_message=True)
        request_grammar(form_only, format=Format(), vocabulary=vocabulary(), prompt=b"")
    assert caught.value.param == "continue_final_message"
    refused("tools", "'uri'", syntax=families.GLM, tools=tool(obj(u=form("uri"))))


class Family:
    """A tiny model with each family's template, and the same weights, so that they are compiled once."""

    def __init__(self, folder):
        self.plain = LocalBackend.load(tiny_checkpoint(folder), slots=16)

    def backend(self, syntax):
        written = "".join(syntax.texts()).replace("{%", "{").replace("\n", "\\n")
        source = (
            "{% for m in messages %}{{ m.content }}\n{% endfor %}{% if false %}{{ " + repr(written) + " }}{% endif %}"
        )
        source += f"{{# call.id|length != {syntax.id_length} #}}" if syntax.id_length else ""
        source += "{{ tools | length if tools else '' }}"
        template = ChatTemplate(self.plain.tokenizer, source)
        return LocalBackend("tiny", tokenizer=self.plain.tokenizer, template=template, engine=self.plain.engine)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    made = Family(tmp_path_factory.mktemp("families") / "tiny")
    yield made
    made.plain.close()


@pytest.mark.parametrize("name", SYNTAXES)
def test_random_weights_call(family, name):
    backend = family.backend(SYNTAXES[name])
    assert backend.template.format.calls == SYNTAXES[name]
    bias = {**dict.fromkeys(b'"}]<', 6.0), backend.tokenizer.id_of("</think>"): 12.0}
    streams = [
        backend.stream(request(seed=seed, max_tokens=250, logit_bias=bias, parallel_tool_calls=seed % 2 == 0))
        for seed in range(8)
    ]
    ended = 0
    for seed, stream in enumerate(streams):
        (choice,) = stream.result().choices
        if choice.finish_reason == "tool_calls":
            ended += 1
            assert not choice.text and (len(choice.tool_calls) == 1 or seed % 2 == 0)
            for call in choice.tool_calls:
                assert_valid(call.name, json.loads(call.arguments))
        else:
            assert choice.finish_reason == "length"
    print(f"{name}: {ended} of {len(streams)} made calls")
    assert ended >= 4
