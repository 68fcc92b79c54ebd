"""From tokens to text: bytes that add up, stops that cut where they should, whatever the pieces are."""

from codecs import getincrementaldecoder

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab.backends.local.choice_writer import ChoiceWriter
from llmlab.engine.scheduler import Piece
from llmlab.sampling.logprobs import TokenStatistics
from llmlab.text.formats import Format, ReasoningTags
from llmlab.text.segments import Segmenter
from llmlab.text.stops import StopMatcher

#: A small vocabulary: single bytes of emoji and CJK among whole words, delimiters, and an end.
VOCAB = [
    b"a",
    b"b",
    b"ab",
    b"ba",
    b" stop",
    b"st",
    b"op",
    *(bytes([b]) for b in "é中😀".encode()),
    b"<think>",
    b"</think>",
]
OPEN, CLOSE = VOCAB.index(b"<think>"), VOCAB.index(b"</think>")
END = len(VOCAB)
BYTES = (*VOCAB, None)
THINKING = Format(name="think", reasoning=ReasoningTags())

texts = st.lists(st.integers(0, OPEN - 1), max_size=24)
stops = st.lists(st.sampled_from(["ab", "ba", "stop", "aba", "é", "a😀", "b"]), max_size=4)


def piece(ids, finish):
    count = len(ids)
    figure = np.arange(count, dtype=np.float32)
    tops = np.zeros((count, 2), np.int32)
    figures = TokenStatistics(
        figure,
        figure,
        tops[:, 0],
        figure,
        figure,
        figure,
        tops[:, 0],
        tops,
        tops.astype(np.float32),
        tops.astype(np.float32),
    )
    return Piece(0, np.array(ids, np.int32), figures, finish)


def new_writer(stop=(), include=True, prompt=b"", least=0):
    return ChoiceWriter(
        0,
        token_bytes=BYTES,
        segmenter=Segmenter(THINKING, prompt=prompt),
        stops=StopMatcher(stop, include=include),
        end_ids=(END,),
        min_tokens=least,
    )


def write(ids, *, stop=(), include=True, cuts=(), finish="length", prompt=b"", least=0):
    writer = new_writer(stop, include, prompt, least)
    borders = sorted({0, *(c for c in cuts if c < len(ids)), len(ids)})
    deltas = []
    for first, last in zip(borders, borders[1:], strict=False):
        deltas.append(writer.feed(piece(ids[first:last], finish if last == len(ids) else None)))
        if writer.finish:
            break
    return writer.choice(), deltas


def joined(tokens):
    """The content as the logprobs tell it."""
    parts = [
        data[lead : len(data) - over]
        for data, lead, over in zip(tokens.bytes, tokens.lead.tolist(), tokens.overhang.tolist(), strict=True)
        if data is not None
    ]
    return b"".join(parts).decode("utf-8", "replace")


@given(texts, stops, st.booleans(), st.lists(st.integers(1, 23), max_size=5))
def test_bytes_add_up_and_pieces_do_not_matter(ids, stop, include, cuts):
    whole, _ = write(ids, stop=stop, include=include)
    assert joined(whole.tokens) == whole.text
    cut, deltas = write(ids, stop=stop, include=include, cuts=cuts)
    assert cut.text == whole.text == "".join(delta.text for delta in deltas)
    assert cut.tokens.ids.tolist() == whole.tokens.ids.tolist()
    assert cut.tokens.overhang.tolist() == whole.tokens.overhang.tolist()
    assert cut.finish_reason == whole.finish_reason


@given(texts, stops, st.booleans())
def test_the_stop_whose_end_comes_first_wins(ids, stop, include):
    choice, _ = write(ids, stop=stop, include=include)
    text = b"".join(VOCAB[i] for i in ids).decode("utf-8", "replace")
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    if ends:
        end, begin = min(ends)
        assert choice.text == text[: end if include else begin]
        assert choice.finish_reason == "stop"
    else:
        assert choice.text == text
        assert ids == [] or choice.finish_reason == "length"


def test_a_stop_is_not_looked_for_in_the_reasoning():
    ids = [OPEN, 0, 1, CLOSE, 2, 0]  # <think>ab</think>aba
    choice, _ = write(ids, stop=["ab"])
    assert choice.text == "<think>ab</think>ab"
    assert choice.tokens.segment == ("reasoning",) * 4 + ("content",)
    assert choice.finish_reason == "stop"


def test_a_stop_does_not_reach_back_into_the_reasoning():
    choice, _ = write([OPEN, 0, CLOSE, 1], stop=["</think>b", "b"], finish="length")
    assert choice.text == "<think>a</think>b"
    assert choice.finish_reason == "stop"


def test_a_stop_at_the_last_token_allowed_is_a_stop():
    assert write([0, 5, 6], stop=["stop"], finish="length")[0].finish_reason == "stop"


def test_the_last_token_stays_whole_and_says_how_much_lies_beyond():
    choice, _ = write([0, 4], stop=["st"])
    assert choice.text == "a st"
    assert choice.tokens.bytes[-1] == b" stop"
    assert choice.tokens.overhang.tolist() == [0, 2]


def test_a_stop_that_is_left_out_may_reach_back_over_tokens():
    choice, deltas = write([0, 5, 6], stop=["astop"], include=False, cuts=(1, 2))
    assert choice.text == "" and [delta.text for delta in deltas] == ["", "", ""]
    assert choice.tokens.overhang.tolist() == [1, 2, 2]


def test_what_follows_a_stop_within_a_piece_is_dropped():
    choice, deltas = write([0, 1, 0, 0, 0], stop=["b"])
    assert choice.tokens.ids.tolist() == [0, 1]
    assert len(deltas[0].tokens) == 2 and len(choice.tokens.logprob) == 2


def test_the_end_token_is_listed_and_has_no_text():
    choice, _ = write([0, END], finish="stop")
    assert choice.text == "a"
    assert choice.tokens.segment == ("content", "end")
    assert choice.tokens.bytes == (b"a", None)


@pytest.mark.parametrize("character", ["é", "中", "😀"])
def test_a_character_cut_by_the_length(character):
    ids = [VOCAB.index(bytes([b])) for b in character.encode()[:-1]]
    choice, deltas = write(ids)
    assert choice.text == "�" == joined(choice.tokens)
    assert "".join(delta.text for delta in deltas) == "�"


def test_an_unfinished_character_is_held_back():
    ids = [VOCAB.index(bytes([b])) for b in "😀".encode()]
    _, deltas = write(ids, cuts=(1, 2, 3))
    assert [delta.text for delta in deltas] == ["", "", "", "😀"]


def test_an_interrupted_choice_keeps_what_it_has():
    writer = new_writer(["abc"], include=False)
    writer.feed(piece([0, 2], None))
    writer.interrupt()
    choice = writer.choice()
    assert (choice.text, choice.finish_reason, len(choice.tokens)) == ("aab", "interrupted", 2)


def test_nothing_made_is_an_empty_choice():
    choice, _ = write([])
    assert choice.text == "" and len(choice.tokens) == 0 and choice.tokens.top_ids.shape[0] == 0


@given(texts, stops, st.integers(0, 12), st.lists(st.integers(1, 24)), st.booleans())
def test_no_stop_counts_before_min_tokens(ids, stop, least, cuts, include):
    """The first stop that ends late enough is the one, however the pieces lie."""
    choice, _ = write(ids, stop=stop, include=include, least=least)
    again, _ = write(ids, stop=stop, include=include, least=least, cuts=cuts)
    assert (again.text, again.finish_reason, len(again.tokens)) == (
        choice.text,
        choice.finish_reason,
        len(choice.tokens),
    )
    whole, _ = write(ids)
    assert whole.text.startswith(choice.text)
    early = len(getincrementaldecoder("utf-8")("replace").decode(b"".join(BYTES[i] for i in ids[: max(0, least - 1)])))
    ends = [at + len(word) for word in stop for at in range(len(whole.text)) if whole.text.startswith(word, at)]
    late = min((end for end in ends if end > early), default=None)
    if include:
        assert choice.text == (whole.text if late is None else whole.text[:late])
    assert (choice.finish_reason == "stop") == (late is not None)


@pytest.mark.parametrize("least", [1, 2, 3, 7])
def test_the_first_stop_at_min_tokens_or_later(least):
    choice, _ = write([0] * 9, stop=["a"], least=least)
    assert choice.text == "a" * least and len(choice.tokens) == least and choice.finish_reason == "stop"
