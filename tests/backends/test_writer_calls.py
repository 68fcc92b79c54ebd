"""Reasoning and tool calls as they are written: what the deltas say is what the whole says, token by token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.backends.local.choice_writer import ChoiceWriter, call_id
from llmlab.text.call_families import GLM, HERMES, MISTRAL
from llmlab.text.formats import Format, ReasoningTags
from llmlab.text.segments import Segmenter
from llmlab.text.stops import StopMatcher
from tests.backends.test_writer import piece

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"s": {"type": "string"}}}}}]
QWEN = Format("hermes", ReasoningTags(lead="\n", tail="\n"), HERMES)
LIST = Format("mistral", None, MISTRAL)
PAIRS = Format("glm", ReasoningTags(separator="\n"), GLM)

#: Every byte, some words that lie across borders, control tokens without text, and an end.
WORDS = [
    "<think>",
    "</think>",
    "</think>\n\nHi",
    "<tool_call>",
    "</tool_call>",
    "x<tool",
    "_call>\n",
    "}\n</tool_call>a",
]
WORDS += ['{"name": "f"', ', "arguments": ', '{"s": "', "f\n<arg_key>s</arg_key>", "<arg_value>", "</arg_value>"]
TABLE = [*(bytes([b]) for b in range(256)), *(w.encode() for w in WORDS), None, None, None]
CONTROL, OTHER, END = len(TABLE) - 3, len(TABLE) - 2, len(TABLE) - 1


def encode(text):
    """The fewest tokens, from the left; the control tokens by their names."""
    named = {"[TOOL_CALLS]": CONTROL, "[X]": OTHER, "[END]": END} | {word: 256 + i for i, word in enumerate(WORDS)}
    ids = []
    while text:
        word = max((word for word in named if text.startswith(word)), key=len, default=None)
        ids += [named[word]] if word else text[0].encode()
        text = text[len(word or text[0]) :]
    return ids


def new_writer(format=QWEN, *, tools=TOOLS, stop=(), include=True, separate=False, parallel=True, prompt=b""):
    return ChoiceWriter(
        3,
        token_bytes=TABLE,
        segmenter=Segmenter(format, prompt=prompt, tools=tools, parallel=parallel),
        stops=StopMatcher(stop, include=include),
        end_ids=(END,),
        delimiters=format.controls({CONTROL: "[TOOL_CALLS]", OTHER: "[X]", END: "[END]"}),
        separate_reasoning=separate,
        parallel_tool_calls=parallel,
    )


def write(ids, *, cuts=(), finish=None, **options):
    writer = new_writer(**options)
    finish = finish or ("stop" if ids and ids[-1] == END else "length")
    borders = sorted({0, *(c for c in cuts if c < len(ids)), len(ids)})
    deltas = []
    for first, last in zip(borders, borders[1:], strict=False):
        deltas.append(writer.feed(piece(ids[first:last], finish if last == len(ids) else None)))
        if writer.finish:
            break
    return writer.choice(), deltas


def put_together(deltas):
    """What a reader of the stream has in the end."""
    calls = []
    for delta in deltas:
        for part in delta.calls:
            if part.id is not None:
                assert part.index == len(calls) and part.name is not None
                calls.append([part.id, part.name, ""])
            calls[part.index][2] += part.arguments
    tokens = [
        entry
        for delta in deltas
        for entry in zip(
            delta.tokens.ids.tolist(),
            delta.tokens.segment,
            delta.tokens.lead.tolist(),
            delta.tokens.overhang.tolist(),
            strict=True,
        )
    ]
    return "".join(delta.text for delta in deltas), "".join(delta.reasoning for delta in deltas), calls, tokens


def whole(choice, *, separate):
    tokens = choice.tokens
    return (
        choice.text,
        (choice.reasoning or "") if separate else "",
        [[call.id, call.name, call.arguments] for call in choice.tool_calls],
        list(zip(tokens.ids.tolist(), tokens.segment, tokens.lead.tolist(), tokens.overhang.tolist(), strict=True)),
    )


def listed(choice, kinds):
    """The bytes that the logprobs of these segments hold."""
    tokens = choice.tokens
    return b"".join(
        data[lead : len(data) - over]
        for data, kind, lead, over in zip(tokens.bytes, tokens.segment, tokens.lead, tokens.overhang, strict=True)
        if data is not None and kind in kinds
    )


CALL = '<tool_call>\n{"name": "f", "arguments": {"s": "a"}}\n</tool_call>'


def test_text_reasoning_and_calls():
    choice, deltas = write(encode("<think>\nhm\n</think>\n\nHi x" + CALL + "a[END]"), separate=True)
    assert (choice.index, choice.text, choice.reasoning, choice.finish_reason) == (3, "Hi xa", "hm", "tool_calls")
    assert [(call.id, call.name, call.arguments) for call in choice.tool_calls] == [("call_0", "f", '{"s": "a"}')]
    assert put_together(deltas) == whole(choice, separate=True)
    assert choice.tokens.segment[-1] == "end"


def test_a_token_across_a_border_is_listed_with_the_content_that_it_has():
    ids = encode("<think>a</think>\n\nHix<tool_call>\n" + CALL[12:-12] + "}\n</tool_call>a")
    for separate, lead in ((True, 10), (False, 0)):
        choice, _ = write(ids, separate=separate)
        tokens = choice.tokens
        at = ids.index(256 + WORDS.index("</think>\n\nHi"))
        assert (tokens.segment[at], tokens.lead[at], tokens.overhang[at]) == ("content", lead, 0)
        at = ids.index(256 + WORDS.index("x<tool"))
        assert (tokens.segment[at], tokens.lead[at], tokens.overhang[at]) == ("content", 0, 5)
        at = ids.index(256 + WORDS.index("}\n</tool_call>a"))
        assert (tokens.segment[at], tokens.lead[at], tokens.overhang[at]) == ("content", 14, 0)
        assert choice.text == ("Hixa" if separate else "<think>a</think>\n\nHixa")


@pytest.mark.parametrize(
    ("text", "reason", "arguments"),
    [
        (CALL + "[END]", "tool_calls", ['{"s": "a"}']),
        (CALL, "length", ['{"s": "a"}']),
        (CALL[:-12] + "[END]", "tool_calls", ['{"s": "a"}']),
        (CALL[:-17], "length", ['{"s": "']),
        (CALL[:-17] + "[END]", "stop", ['{"s": "']),
        (CALL + CALL[:-17] + "[END]", "tool_calls", ['{"s": "a"}', '{"s": "']),
        (CALL[:20], "length", []),
        ("Hi[END]", "stop", []),
        ("[END]", "stop", []),
    ],
)
def test_why_it_ended(text, reason, arguments):
    choice, deltas = write(encode(text))
    assert choice.finish_reason == deltas[-1].finish_reason == reason
    assert [call.arguments for call in choice.tool_calls] == arguments


def test_one_call_at_most():
    ids = encode("a" + CALL + "\n" + CALL + "[END]")
    for cuts in ((), range(len(ids))):
        choice, deltas = write(ids, parallel=False, cuts=cuts)
        assert (choice.text, choice.finish_reason, len(choice.tool_calls)) == ("a", "tool_calls", 1)
        assert put_together(deltas) == whole(choice, separate=False)
        assert choice.tokens.ids.tolist() == encode("a" + CALL)
    choice, _ = write(encode("<tool_call>" + CALL[12:-14] + "}\n</tool_call>a"), parallel=False)
    assert (choice.text, choice.tokens.segment[-1], choice.tokens.overhang[-1]) == ("", "tool_call", 1)


def test_stops_are_not_looked_for_in_reasoning_nor_in_calls():
    ids = encode("<think>stop</think>" + CALL.replace('"a"', '"stop"') + "sto" + CALL + "p it[END]")
    choice, _ = write(ids, stop=["stop", "f"])
    assert (choice.text, choice.finish_reason) == ("<think>stop</think>stop", "stop")
    assert len(choice.tool_calls) == 2
    choice, _ = write(ids, stop=["stop"], include=False, separate=True)
    assert (choice.text, choice.reasoning, listed(choice, ("content",))) == ("", "stop", b"")


def test_a_stop_in_what_may_yet_become_a_delimiter():
    for cuts in ((), range(9)):
        choice, deltas = write(encode("a<tax"), stop=["<t"], cuts=cuts)
        assert (choice.text, choice.finish_reason, len(choice.tokens)) == ("a<t", "stop", 3)
        assert put_together(deltas) == whole(choice, separate=False)
    choice, _ = write(encode("a" + CALL), stop=["<t"])
    assert (choice.text, len(choice.tool_calls)) == ("a", 1)


def test_tokens_wait_until_it_is_known_what_they_belong_to():
    ids = encode("a<tool b")
    _, deltas = write(ids, cuts=range(len(ids)))
    assert [delta.text for delta in deltas] == ["a", "", "", "", "", "", "<tool ", "b"]
    assert [len(delta.tokens) for delta in deltas] == [1, 0, 0, 0, 0, 0, 6, 1]


def test_a_control_token_is_a_delimiter_without_text():
    choice, deltas = write(encode('Hi[TOOL_CALLS][{"name": "f", "arguments": {}}][END]'), format=LIST)
    assert (choice.text, choice.finish_reason) == ("Hi", "tool_calls")
    assert choice.tokens.segment[2] == "tool_call" and choice.tokens.bytes[2] is None
    # Where there is no call it is content, and still without text.
    choice, _ = write(encode("Hi[TOOL_CALLS]x[X]y"), format=LIST)
    assert choice.text == "Hixy" and set(choice.tokens.segment) == {"content"}
    choice, _ = write(encode("Hi[TOOL_CALLS]x"), format=LIST, tools=[])
    assert choice.text == "Hix"


def test_a_control_token_without_text_belongs_to_what_it_follows():
    for cuts in ((), (1,), range(9)):
        choice, _ = write(encode("[X]<think>a[X]</think>b[X]"), cuts=cuts)
        assert [segment[0] for segment in choice.tokens.segment] == list("crrrrcc")


def test_without_tools_nothing_is_a_call():
    choice, _ = write(encode(CALL + "[END]"), tools=[])
    assert (choice.text, choice.finish_reason, choice.tool_calls) == (CALL, "stop", ())


def test_reasoning_that_the_prompt_has_opened():
    choice, _ = write(encode("hm</think>ok"), prompt=b"<think>", separate=True)
    assert (choice.reasoning, choice.text) == ("hm", "ok")
    assert write(encode("ok"), prompt=b"<think></think>", separate=True)[0].reasoning is None
    assert write([], prompt=b"<think>")[0].reasoning == ""


def test_a_character_cut_by_the_end_of_the_reasoning():
    half = list("😀".encode()[:2])
    choice, deltas = write([*half, *encode("</think>ok")], prompt=b"<think>", separate=True, cuts=range(9))
    assert (choice.reasoning, choice.text) == ("�", "ok")
    assert put_together(deltas) == whole(choice, separate=True)


def test_the_ids_of_calls():
    prompt = np.arange(5, dtype=np.int32)
    ids = {call_id(n, seed=s, choice=c, prompt=prompt) for n in (0, 1) for s in (7, 8) for c in (0, 1)}
    assert len(ids) == 8 and all(len(i) == 29 and i.startswith("call_") for i in ids)
    assert call_id(0, seed=7, choice=0, prompt=prompt) in ids
    assert call_id(0, seed=7, choice=0, prompt=prompt[:4]) not in ids
    short = call_id(0, seed=7, choice=0, prompt=prompt, length=9)
    assert len(short) == 9 and short.isalnum()


fragments = st.sampled_from(
    [*WORDS, *'{}",:\n <f', "[TOOL_CALLS]", "[X]", CALL, "é", "😀", "stop", "arguments", '[{"name": "f"']
).map(encode)
some_bytes = st.lists(st.integers(0, 255), max_size=2)


@settings(max_examples=250)
@given(
    format=st.sampled_from([QWEN, LIST, PAIRS, Format()]),
    parts=st.lists(fragments | some_bytes, max_size=14),
    ended=st.booleans(),
    stop=st.lists(st.sampled_from(["stop", "}", "é", "�", "<t", "a"]), max_size=2),
    include=st.booleans(),
    separate=st.booleans(),
    parallel=st.booleans(),
    thinking=st.booleans(),
    cuts=st.lists(st.integers(1, 60), max_size=8),
)
def test_the_deltas_are_the_whole(format, parts, ended, stop, include, separate, parallel, thinking, cuts):
    ids = [token for part in parts for token in part] + [END] * ended
    options = {"format": format, "stop": stop, "include": include, "separate": separate, "parallel": parallel}
    options["prompt"] = b"<think>" if thinking else b""
    choice, _ = write(ids, **options)
    for some in (cuts, range(len(ids))):
        again, deltas = write(ids, cuts=some, **options)
        assert whole(again, separate=separate) == whole(choice, separate=separate)
        assert (again.finish_reason, again.reasoning) == (choice.finish_reason, choice.reasoning)
        assert put_together(deltas) == whole(choice, separate=separate)
    assert choice.tokens.ids.tolist() == ids[: len(choice.tokens)]
    # The bytes that the logprobs list, less what lies outside, are the text.
    kinds = ("content",) if separate else ("content", "reasoning")
    assert listed(choice, kinds).decode("utf-8", "replace") == choice.text
    assert all(call.name == "f" for call in choice.tool_calls)
