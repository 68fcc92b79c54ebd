"""gpt-oss' messages with headers: reasoning, content and calls, in whatever pieces and however a prompt ends.

Expected values are those of the format's published description and of transformers' parser of answers.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_parsing import parse_response

from llmlab.text.formats import detect
from llmlab.text.segments import Segmenter, divided, prompt_tail, reasoning_closed, reasoning_open
from tests.text.outputs import TOOLS, pieces, read

TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if false %}{{ '<|start|>assistant<|channel|>analysis<|message|>' }}{{ m.thinking }}"
    "{{ ' to=functions.' + name + '<|channel|>commentary json<|message|>' }}<|call|>{% endif %}<|start|>assistant"
)
HARMONY = detect(TEMPLATE)
TURN = b"<|start|>user<|message|>Hi<|end|><|start|>assistant"

OSLO, TIME = ("get_weather", '{"city": "Oslo"}'), ("get_time", "{}")
THINK, NEXT, FINAL = "<|channel|>analysis<|message|>", "<|end|><|start|>assistant", "<|channel|>final<|message|>"
CALL = "<|channel|>commentary to=functions."
JSON = " <|constrain|>json<|message|>"


def test_the_format_of_the_template():
    assert HARMONY.name == "harmony" and HARMONY.channels and HARMONY.calls and HARMONY.begin == b"<|start|>"
    assert (HARMONY.reasoning.open, HARMONY.reasoning.close) == (THINK, "<|end|>")
    # A template of such messages that shows neither reasoning nor calls.
    plain = detect("{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}")
    assert plain.reasoning == HARMONY.reasoning and plain.channels == HARMONY.channels and plain.calls is None
    # Phi has some of these tokens and none of these messages.
    assert detect("<|user|>{{ m }}<|end|>", tokens={"<|end|>", "<|user|>"}).channels is None


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (f"{THINK}hm{NEXT}{FINAL}Hello", ("hm", "Hello", [])),
        (f"{FINAL}Hello<|return|>", ("", "Hello", [])),
        (f"{THINK}hm{NEXT}{CALL}get_weather{JSON}{OSLO[1]}<|call|>", ("hm", "", [OSLO])),
        # The token that ends a call ends the generation, so it may be missing.
        (f"{CALL}get_weather{JSON}{OSLO[1]}", ("", "", [OSLO])),
        # The recipient in the role, as the template writes it; other formats of the arguments; other channels.
        (f"{THINK}hm{NEXT} to=functions.get_time<|channel|>commentary json<|message|>{{}}<|call|>", ("hm", "", [TIME])),
        (f"{CALL}get_time<|message|>{{}}<|call|>", ("", "", [TIME])),
        (f"<|channel|>analysis to=functions.get_weather code<|message|>{OSLO[1]}<|call|>", ("", "", [OSLO])),
        (f"<|channel|>commentary to=get_time{JSON}{{}}<|call|>", ("", "", [TIME])),
        # What the user is told before a call is content. More than one message of reasoning.
        (f"<|channel|>commentary<|message|>I look.{NEXT}{CALL}get_time{JSON}{{}}<|call|>", ("", "I look.", [TIME])),
        (f"{THINK}a{NEXT}{THINK}b{NEXT}{FINAL}c", ("ab", "c", [])),
        (f"{THINK}a{NEXT}<|channel|>commentary<|message|>b{NEXT}{THINK}c{NEXT}{CALL}get_time{JSON}{{}}",
         ("ac", "b", [TIME])),
        # Several calls, where the token after a call does not end the generation.
        (f"{CALL}get_time{JSON}{{}}{NEXT}{CALL}get_weather{JSON}{OSLO[1]}<|end|>", ("", "", [TIME, OSLO])),
        (f"{CALL}get_time{JSON}{{}}<|call|><|start|>functions.get_time<|message|>", ("", "", [TIME])),
        # Arguments that are no JSON, or missing.
        (f"{CALL}get_weather{JSON}Oslo<|call|>", ("", "", [("get_weather", "Oslo")])),
        (f"{CALL}get_time{JSON}<|call|>", ("", "", [TIME])),
        (f'{CALL}get_weather{JSON}{{"city": "<|end|>"}}', ("", "", [("get_weather", '{"city": "<|end|>"}')])),
        # What is not known is text, with its header.
        (f"{CALL}rm{JSON}{{}}<|call|>", ("", f"{CALL}rm{JSON}{{}}", [])),
        (f"{THINK}hm{NEXT}{CALL}rm{JSON}{{}}", ("hm", f"<|start|>assistant{CALL}rm{JSON}{{}}", [])),
        ("<|channel|>other<|message|>x", ("", "<|channel|>other<|message|>x", [])),
        # What is no header, or the end of none.
        ("Hello", ("", "Hello", [])),
        ("to be or not", ("", "to be or not", [])),
        (f"{THINK}a <|end|> b <|start|>c{NEXT}{FINAL}d", ("a <|end|> b <|start|>c", "d", [])),
        ("<|channel|>" + "x" * 500, ("", "<|channel|>" + "x" * 500, [])),
        # Cut short: in a header, in the reasoning, in arguments.
        ("", ("", "", [])),
        ("<|channel|>ana", ("", "", [])),
        (f"{THINK}hm", ("hm", "", [])),
        (f"{THINK}hm<|end|>", ("hm", "", [])),
        (f"{THINK}hm<|end|><|start|>assistant<|chan", ("hm", "", [])),
        (f"{THINK}hm{NEXT}{CALL}get_wea", ("hm", "", [])),
        (f"{CALL}get_weather{JSON}", ("", "", [("get_weather", "", "cut")])),
        (f'{CALL}get_weather{JSON}{{"ci', ("", "", [("get_weather", '{"ci', "cut")])),
    ],
)  # fmt: skip
def test_messages(text, want):
    assert read(HARMONY, text, prompt=TURN) == want


def test_without_tools_a_call_is_text():
    text = f"{CALL}get_time{JSON}{{}}<|call|>"
    assert read(HARMONY, text, prompt=TURN, tools=[]) == ("", f"{CALL}get_time{JSON}{{}}", [])


def test_one_call_ends_the_generation():
    text = f"{CALL}get_time{JSON}{{}}{NEXT}{CALL}get_time{JSON}{{}}"
    segmenter = Segmenter(HARMONY, prompt=TURN, tools=TOOLS, parallel=False)
    assert [span.name for span in segmenter.feed(text.encode()) if span.name] == ["get_time"] and segmenter.done
    segmenter = Segmenter(HARMONY, prompt=TURN, tools=TOOLS)
    segmenter.feed(f"{CALL}get_time{JSON}{{}}<|call|>".encode())
    assert segmenter.done  # whatever ends the generation: the tool's turn is next


@pytest.mark.parametrize(
    ("prompt", "text", "want", "opened", "closed"),
    [
        ("", f"{THINK}a{NEXT}{FINAL}b", ("a", "b", []), False, False),
        (THINK, f"a{NEXT}{FINAL}b", ("a", "b", []), True, False),
        (THINK + "a", f"b{NEXT}{FINAL}c", ("b", "c", []), True, False),
        (FINAL + "Once", " upon", ("", " upon", []), False, True),
        (THINK + "a<|end|>", f"<|start|>assistant{FINAL}b", ("", "b", []), False, False),
        ("<|channel|>", f"analysis<|message|>a{NEXT}{FINAL}b", ("a", "b", []), False, False),
        ("<|channel|>final", "<|message|>b", ("", "b", []), False, False),
    ],
)
def test_what_a_prompt_leaves_open(prompt, text, want, opened, closed):
    whole = TURN + prompt.encode()
    assert (reasoning_open(HARMONY, whole), reasoning_closed(HARMONY, whole)) == (opened, closed)
    assert Segmenter(HARMONY, prompt=whole).reasoning is opened
    assert read(HARMONY, text, prompt=whole) == want
    # An earlier turn says nothing.
    earlier = f"<|start|>assistant{THINK}a".encode() + b"<|end|>" + TURN
    assert not reasoning_open(HARMONY, earlier)


def test_headers_belong_to_what_they_open_or_separate():
    segmenter = Segmenter(HARMONY, prompt=TURN, tools=TOOLS)
    spans = segmenter.feed(f"{THINK}a{NEXT}{FINAL}b".encode()) + segmenter.flush()
    merged = "".join("rct"[["reasoning", "content", "tool_call"].index(s.segment)] + "-+"[s.tag] for s in spans)
    assert merged == "r+r-r+r+c-"
    segmenter = Segmenter(HARMONY, prompt=TURN)
    assert [(s.segment, s.tag) for s in segmenter.feed(f"{FINAL}b".encode())] == [("content", True), ("content", False)]


def test_only_what_may_be_a_header_is_held_back():
    segmenter = Segmenter(HARMONY, prompt=TURN)
    parts = [THINK, "a", "<", "b", "<|end|>", " c", "<|end|>", "<|start|>assistant", FINAL, "d"]
    out = [b"".join(s.data for s in segmenter.feed(part.encode() if isinstance(part, str) else part)) for part in parts]
    assert out == [
        *(THINK.encode(), b"a", b"", b"<b", b"", b"<|end|> c", b"", b""),
        (NEXT + FINAL).encode(),
        b"d",
    ]


def test_a_text_with_reasoning_is_divided():
    assert divided(HARMONY, f"{THINK}å{NEXT}{FINAL}b") == ("å", "b")
    assert divided(HARMONY, "Hello") == ("", "Hello")


def test_the_tail_of_a_prompt_begins_at_the_last_message():
    table = (b"a", b"<|start|>", b"assistant", b"<|message|>")
    assert (
        prompt_tail([0, 1, 2, 3, 0, 1, 2], token_bytes=table, controls={}, begin=b"<|start|>") == b"<|start|>assistant"
    )


SHIPPED = {
    "start_anchor": "<|start|>assistant",
    "fields": {
        "reasoning_content": {"open": THINK, "close": "<|end|>"},
        "tool_calls": {
            "open_pattern": r"<\|channel\|>commentary to=functions\.(?P<name>\w+).*?<\|message\|>",
            "close": "<|call|>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"open": FINAL, "close": ["<|return|>"]},
    },
}


@pytest.mark.parametrize(
    "text",
    [
        f"{THINK}hm{NEXT}{FINAL}Hello<|return|>",
        f"{THINK}hm{NEXT}{CALL}get_weather{JSON}{OSLO[1]}<|call|>",
        f'{CALL}get_weather{JSON}{{"city": "Ås \\"x\\"", "days": [1, null]}}<|call|>',
    ],
)
def test_transformers_reads_the_same(text):
    found = parse_response(text, SHIPPED, prefix="")
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in found.get("tool_calls", [])]
    reasoning, content, read_calls = read(HARMONY, text, prompt=TURN)
    assert (reasoning, content) == (found.get("reasoning_content", ""), found.get("content", ""))
    assert [(name, json.loads(arguments)) for name, arguments in read_calls] == calls
    assert detect(TEMPLATE, response_template=SHIPPED) == HARMONY  # its expression stands for many texts


FRAGMENTS = [
    *("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|constrain|>", "<|return|>", "<|sta", "rt|>"),
    *("assistant", "analysis", "final", "commentary", " to=", "functions.", "get_time", "json", " ", "\n", "{}", '{"a'),
    *("é", "x", THINK, NEXT, FINAL, f"{CALL}get_time{JSON}", "{", '": 1}'),
]


@settings(max_examples=400)
@given(data=st.data())
def test_any_order(data):
    text = b"".join(
        data.draw(st.lists(st.sampled_from(FRAGMENTS).map(str.encode) | st.binary(max_size=2), max_size=20))
    )
    prompt = TURN + data.draw(st.sampled_from([b"", THINK.encode(), FINAL.encode(), b"<|channel|>", b"<|channel|>ana"]))
    options = {"prompt": prompt, "parallel": data.draw(st.booleans()), "tools": data.draw(st.sampled_from([TOOLS, []]))}
    whole = pieces(HARMONY, [text], **options)
    assert pieces(HARMONY, [text[at : at + 1] for at in range(len(text))], **options) == whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    borders = [0, *cuts, len(text)]
    parts = [text[first:last] for first, last in zip(borders, borders[1:], strict=False)]
    assert pieces(HARMONY, parts, **options) == whole
