from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from llmlab.text.utf8 import TextAssembler

# Raw bytes hit every way of being wrong; text hits every way of being right; together they hit the borders.
chunks = st.lists(
    st.binary(max_size=5)
    | st.text(max_size=3).map(str.encode)
    | st.text(max_size=2).map(lambda t: t.encode("utf-8", "replace")[:-1]),
    max_size=8,
)


@given(pieces=chunks)
@example(pieces=[b"\xf0\x9f", b"", b"\x98\x80"])
@example(pieces=[b"\xed\xa0\x80", b"\xe2\x82", b"A\xe2"])
def test_the_pieces_join_to_the_whole(pieces):
    assembler = TextAssembler()
    out = "".join(assembler.feed(piece) for piece in pieces) + assembler.flush()
    assert out == b"".join(pieces).decode("utf-8", "replace")


@given(pieces=chunks)
@example(pieces=[b"\xf0\x9f\x98", b"\xf0\x9f\x98\x80"])
@example(pieces=[b"\xed\xa0\x80a"])
@example(pieces=[b"\xed\xa0", b"\xf0\x9f"])
@example(pieces=[b"a\xed", b"\xa0"])
def test_each_character_knows_its_bytes(pieces):
    assembler = TextAssembler()
    out = "".join(assembler.feed(piece) for piece in pieces) + assembler.flush()
    whole = b"".join(pieces)
    assert assembler.byte_length(len(out)) == len(whole)
    ends = [assembler.byte_length(n) for n in range(len(out) + 1)]
    assert ends == sorted(ends)
    for character, start, end in zip(out, ends[:-1], ends[1:], strict=True):
        assert whole[start:end].decode("utf-8", "replace") == character


def test_an_unfinished_character_waits():
    assembler = TextAssembler()
    first, rest = "猫".encode()[:1], "猫".encode()[1:]
    assert assembler.feed(b"a" + first) == "a"
    assert assembler.pending == 1
    assert assembler.feed(rest) == "猫"
    assert assembler.pending == 0
    assert assembler.flush() == ""


def test_an_abandoned_character_is_replaced_at_the_end():
    assembler = TextAssembler()
    assert assembler.feed("猫".encode()[:2]) == ""
    assert assembler.flush() == "\ufffd"
    assert assembler.byte_length(1) == 2
