"""From tokens to text where a turn is several messages (gpt-oss): headers are no text, and tokens still add up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.backends.local.choice_writer import ChoiceWriter
from llmlab.text.call_families import HARMONY
from llmlab.text.channels import Channels
from llmlab.text.formats import Format, ReasoningTags
from llmlab.text.segments import Segmenter
from llmlab.text.stops import StopMatcher
from tests.backends.test_writer import joined, piece
from tests.text.outputs import TOOLS

FORMAT = Format("harmony", ReasoningTags("<|channel|>analysis<|message|>", "<|end|>"), HARMONY, Channels())
WORDS = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "assistant", "analysis", "final", "commentary"]
WORDS += [" to=functions.get_time", "json", "{}", "hm", "Hel", "lo", " ", "é", "<", "assist", "ant<|chan"]
#: Control tokens without text that the segmenter reads by their names.
HIDDEN = ["<|call|>", "<|constrain|>"]
BYTES = (*(word.encode() for word in WORDS), *[None] * (len(HIDDEN) + 1))
IDS = {word: at for at, word in enumerate((*WORDS, *HIDDEN))}
END = len(BYTES) - 1
DELIMITERS = {IDS[word]: word.encode() for word in HIDDEN}

THOUGHT = ["<|channel|>", "analysis", "<|message|>", "hm", "<|end|>", "<|start|>", "assistant"]
ANSWER = ["<|channel|>", "final", "<|message|>", "Hel", "lo"]
CALL = ["<|channel|>", "commentary", " to=functions.get_time", " ", "<|constrain|>", "json", "<|message|>", "{}"]


def write(words, *, separate, cuts=(), stop=(), include=True, finish="stop"):
    ids = [IDS[word] for word in words] + ([END] if finish == "stop" else [])
    writer = ChoiceWriter(
        0,
        token_bytes=BYTES,
        segmenter=Segmenter(FORMAT, prompt=b"<|start|>assistant", tools=TOOLS),
        stops=StopMatcher(stop, include=include),
        end_ids=(END,),
        delimiters=DELIMITERS,
        separate_reasoning=separate,
    )
    borders = sorted({0, *(cut for cut in cuts if cut < len(ids)), len(ids)})
    deltas = []
    for first, last in zip(borders, borders[1:], strict=False):
        deltas.append(writer.feed(piece(ids[first:last], finish if last == len(ids) else None)))
        if writer.finish:
            break
    return writer.choice(), deltas


def listed(choice, separate):
    """The content as its tokens tell it: the segments that it holds, less the bytes outside it."""
    segments = ("content",) if separate else ("content", "reasoning")
    tokens = choice.tokens
    parts = [
        data[lead : len(data) - over]
        for data, lead, over, segment in zip(
            tokens.bytes, tokens.lead.tolist(), tokens.overhang.tolist(), tokens.segment, strict=True
        )
        if segment in segments and data is not None
    ]
    return b"".join(parts).decode("utf-8", "replace")


def test_an_answer_after_reasoning():
    apart, _ = write(THOUGHT + ANSWER, separate=True)
    assert (apart.reasoning, apart.text, apart.finish_reason) == ("hm", "Hello", "stop")
    whole, _ = write(THOUGHT + ANSWER, separate=False)
    assert whole.text == "".join(THOUGHT + ANSWER) == joined(whole.tokens) and whole.reasoning == "hm"
    assert apart.tokens.segment == ("reasoning",) * 10 + ("content",) * 2 + ("end",)


@pytest.mark.parametrize("separate", [False, True])
def test_a_header_alone_is_no_text(separate):
    choice, _ = write(ANSWER, separate=separate)
    assert choice.text == "Hello" == listed(choice, separate) and choice.reasoning is None
    assert choice.tokens.segment == ("content",) * 5 + ("end",)
    assert choice.tokens.lead.tolist()[:3] == [len(word) for word in ANSWER[:3]]  # all of them lies outside the text


@pytest.mark.parametrize("last", [[], ["<|call|>"]])
def test_a_call(last):
    choice, _ = write(THOUGHT + CALL + last, separate=True)
    ((call),) = choice.tool_calls
    assert (call.name, call.arguments, choice.reasoning, choice.text) == ("get_time", "{}", "hm", "")
    assert choice.finish_reason == "tool_calls"


def test_what_follows_a_closed_call_is_not_read():
    choice, _ = write([*CALL, "<|call|>", "<|start|>", "hm", "hm"], separate=True, finish="length")
    assert choice.finish_reason == "tool_calls" and len(choice.tokens) == len(CALL) + 1


words = st.lists(st.sampled_from([*WORDS, *HIDDEN]), max_size=20)
turns = st.sampled_from([[], THOUGHT, ANSWER, CALL, THOUGHT + ANSWER, THOUGHT + CALL])


@settings(max_examples=250)
@given(turns, words, st.booleans(), st.booleans(), st.lists(st.sampled_from(["lo", "hm", "Hello", "é"]), max_size=2),
       st.lists(st.integers(1, 30), max_size=5))  # fmt: skip
def test_tokens_add_up_and_pieces_do_not_matter(turn, more, separate, include, stop, cuts):
    options = {"separate": separate, "stop": stop, "include": include, "finish": "length"}
    whole, _ = write([*turn, *more], **options)
    assert listed(whole, separate) == whole.text
    cut, deltas = write([*turn, *more], **options, cuts=cuts)
    assert cut.text == whole.text == "".join(delta.text for delta in deltas)
    assert (cut.reasoning, cut.finish_reason) == (whole.reasoning, whole.finish_reason)
    assert cut.tokens.segment == whole.tokens.segment
    for name in ("ids", "lead", "overhang"):
        assert getattr(cut.tokens, name).tolist() == getattr(whole.tokens, name).tolist()
