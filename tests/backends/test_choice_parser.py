"""Choices as endpoints send them, in all dialects of the API."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from llmlab.backends.remote.choice_parser import ChoiceParser
from llmlab.backends.remote.logprobs import TokenTexts
from llmlab.protocol.completion import Choice
from tests.backends.endpoint import entry, piece


def read(*pieces: dict[str, Any], whole: bool = False) -> tuple[ChoiceParser, Choice, TokenTexts]:
    answer, texts = ChoiceParser(0), TokenTexts()
    for each in pieces:
        answer.feed(each, texts=TokenTexts(), whole=whole)
    return answer, answer.choice(texts), texts


def call(name: str | None = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    function = {k: v for k, v in {"name": name, "arguments": arguments}.items() if v is not None}
    return {"type": "function", "function": function, **more}


def calls(*pieces: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(made.id, made.name, made.arguments) for made in read(*pieces)[1].tool_calls]


def test_calls_by_index():
    made = calls(
        piece(tool_calls=[call("add", "", index=0, id="a"), call("sub", "", index=1, id="b")]),
        piece(tool_calls=[call(None, "{1", index=0), call(None, "{2", index=1)]),
        piece(tool_calls=[call(None, "}", index=1)]),
        piece(tool_calls=[call(None, "}", index=0)]),
    )
    assert made == [("a", "add", "{1}"), ("b", "sub", "{2}")]


def test_calls_without_an_index():
    """Gemini's: each call whole, in chunks of its own or in one, with an empty id."""
    one, two = call("add", '{"a": 1}', id=""), call("add", '{"a": 2}', id="")
    assert calls(piece(tool_calls=[one]), piece(tool_calls=[two])) == calls(piece(tool_calls=[one, two]))
    assert calls(piece(tool_calls=[one, two])) == [("", "add", '{"a": 1}'), ("", "add", '{"a": 2}')]
    # Pieces of one call that have nothing but arguments go to the last one.
    rest = call(None, "!", index=None)
    assert calls(piece(tool_calls=[one]), piece(tool_calls=[rest])) == [("", "add", '{"a": 1}!')]
    # Its own id, said again, makes no new one.
    again = [call("add", "{", id="x"), call("add", "}", id="x")]
    assert calls(*(piece(tool_calls=[each]) for each in again)) == [("x", "add", "{}")]


def test_calls_that_all_say_index_0():
    first, second = call("add", "{}", index=0, id="a"), call("sub", "{}", index=0, id="b")
    more = call(None, "!", index=0, id="b")
    assert calls(*(piece(tool_calls=[each]) for each in (first, second, more))) == [
        ("a", "add", "{}"),
        ("b", "sub", "{}!"),
    ]

    # What follows without an id belongs to the call that the index stood for last.
    last = call(None, "?", index=0)
    assert calls(*(piece(tool_calls=[each]) for each in (first, second, last)))[1] == ("b", "sub", "{}?")


@pytest.mark.parametrize("index", [1, 10**9, -1, "0"])
def test_calls_are_numbered_as_they_come(index):
    one, rest, two = call("add", "{", index=index, id="a"), call(None, "}", index=index), call("sub", "{}", index=7)
    assert calls(*(piece(tool_calls=[each]) for each in (one, two, rest))) == [("a", "add", "{}"), ("", "sub", "{}")]


def test_arguments_that_are_an_object():
    assert calls(piece(tool_calls=[call("add", {"a": "é"}, index=0, id="a")])) == [("a", "add", '{"a": "é"}')]


def test_a_call_is_named_once():
    """Clients join what chunks bring: a name that came twice would be twice as long."""
    answer = ChoiceParser(0)
    pieces = [call(None, None, index=0, id="a"), call("add", "", index=0, id="a"), call("add", "{}", index=0, id="a")]
    deltas = [answer.feed(piece(tool_calls=[each]), texts=TokenTexts()).calls[0] for each in pieces]
    assert [(delta.id, delta.name, delta.arguments) for delta in deltas] == [
        (None, None, ""),
        ("a", "add", ""),
        (None, None, "{}"),
    ]


@pytest.mark.parametrize(
    ("content", "text", "reasoning"),
    [
        (None, "", None),
        ("Hi", "Hi", None),
        ([{"type": "text", "text": "H"}, {"type": "text", "text": "i"}], "Hi", None),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, "Hi"], "Hi", "hm"),
    ],
)
def test_content_in_its_shapes(content, text, reasoning):
    said = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    _, choice, _ = read(said, whole=True)
    assert (choice.text, choice.reasoning, choice.finish_reason) == (text, reasoning, "stop")


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"reasoning_content": "", "reasoning": "hm"},
        {"reasoning_content": "hm", "reasoning": "hm"},
        {"reasoning_content": "hm", "reasoning": {"effort": "low"}},
    ],
)
def test_reasoning_by_its_names(delta):
    assert read(piece(**delta))[1].reasoning == "hm"


def test_reasoning_that_is_always_empty_is_none():
    assert read(piece("Hi", reasoning_content=""), piece(finish="stop", reasoning_content=None))[1].reasoning is None


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("eos_token", "stop"),
        ("content_filter", "stop"),
        ("", "interrupted"),
        (None, "interrupted"),
    ],
)
def test_why_it_ended(said, shown):
    answer = ChoiceParser(0)
    delta = answer.feed(piece("Hi", finish=said), texts=TokenTexts())
    assert delta.finish_reason == (shown if said else None)
    assert answer.choice(TokenTexts()).finish_reason == shown


def test_what_the_tokens_of_a_chunk_belong_to():
    """vLLM lists all tokens in one list: what its chunk holds tells them apart."""
    said = [
        piece(reasoning="hm", logprobs={"content": [entry("hm", -1.0)]}),
        piece("Hi", logprobs={"content": [entry("Hi", -1.0)]}),
        piece(tool_calls=[call("add", "{}", index=0, id="a")], logprobs={"content": [entry("{}", -1.0)]}),
        piece(logprobs={"content": [entry("!", -1.0)]}),
        piece("", logprobs={"content": None, "refusal": [entry("no", -1.0)]}),
    ]
    _, choice, _ = read(*said)
    assert choice.tokens.segment == ("reasoning", "content", "tool_call", "content")


def test_alternatives_in_any_order():
    """vLLM has the sampled token first, whatever its rank."""
    said = {**entry("c", -3.0), "top_logprobs": [entry(x, v) for x, v in (("c", -3.0), ("a", -0.1), ("b", -2.0))]}
    tokens = read(piece("c", logprobs={"content": [said]}))[1].tokens
    assert tokens.top_bytes == ((b"a", b"b", b"c"),)
    np.testing.assert_allclose(tokens.top_logprob, [[-0.1, -2.0, -3.0]])
    np.testing.assert_allclose(tokens.margin, [-2.9])


def test_no_margin_without_another_token():
    alone = read(piece("a", logprobs={"content": [entry("a", -1.0), {"token": "a", "logprob": None, "bytes": [97]}]}))
    assert np.isnan(alone[1].tokens.margin).all()
    assert math.isnan(alone[1].tokens.logprob[1])
    # Two tokens that both read as U+FFFD need not be the same one.
    unclear = entry("\ufffd", -1.0, ("\ufffd", -2.0), ("x", -9.0), raw=False)
    assert np.isnan(read(piece("", logprobs={"content": [unclear]}))[1].tokens.margin[0])


def test_ids_where_they_are_said():
    """llama.cpp says them as `id`, llmlab as `token_id`."""
    said = {
        "token": "a",
        "id": 11,
        "bytes": [97],
        "logprob": -1.0,
        "top_logprobs": [{"token": "b", "id": 12, "bytes": [98], "logprob": -2.0}],
    }
    end = {"token": "<|im_end|>", "token_id": 2, "bytes": None, "logprob": -0.5}
    answer, choice, texts = read(piece("a", logprobs={"content": [said, end]}))
    assert choice.tokens.ids.tolist() == [11, 2] and choice.tokens.top_ids[0].tolist() == [12]
    assert choice.tokens.bytes == (b"a", None) and texts.by_id == {2: "<|im_end|>"}
    assert answer.is_exact


def test_one_entry_for_several_tokens():
    answer, choice, _ = read(piece("Hello you", logprobs={"content": [entry(" you", -1.0, raw=False)]}))
    assert not answer.is_exact
    assert choice.tokens.bytes == (None,)  # its text need not be its bytes


def test_same_texts_share_an_id_that_stands_for_them():
    said = [entry(x, -1.0, ("\ufffd", -2.0), raw=False) for x in ("\ufffd", "y", "\ufffd")]
    _, choice, texts = read(piece("", logprobs={"content": said}))
    a, b, c = choice.tokens.ids.tolist()
    assert a == c != b and max(a, b) < -1
    assert (texts.by_id[a], texts.by_id[b]) == ("\ufffd", "y")
    assert choice.tokens.top_ids[1].tolist() == [b, a]


def test_a_text_without_bytes_has_one_id_in_all_results():
    ids = []
    for others in ("", "xy"):
        said = [entry(x, -1.0, raw=False) for x in (*others, "\ufffd", "a")]
        ids.append(read(piece("", logprobs={"content": said}))[1].tokens.ids.tolist()[-2:])
    assert ids[0] == ids[1]


def test_two_halves_of_a_character_in_two_chunks():
    _, choice, _ = read(*(piece(x, logprobs={"content": [entry(x, -1.0, raw=False)]}) for x in ("\ud83d", "\ude00")))
    assert choice.text == "\U0001f600"


def test_a_piece_is_bytes_less_what_lies_outside():
    """A stop in the middle of a token, as llmlab writes it."""
    cut = {**entry("ab", -1.0), "overhang": 1, "token_id": 5}
    assert read(piece("a", logprobs={"content": [cut]}))[0].is_exact
