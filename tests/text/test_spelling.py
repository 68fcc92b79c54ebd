from __future__ import annotations

import pytest

from llmlab.text.spelling import completed_characters, label, pieces, speed, token_text


@pytest.mark.parametrize(
    ("raw", "want"),
    [
        (b" the", "␣the"),
        (b"\n", "⏎"),
        (b" ", "␣"),
        (b"\r\n", "\\r⏎"),
        (b"\t", "⇥"),
        (b"\xe2\x9c", "<E2><9C>"),
        (b"<E2>", "\\x3cE2>"),
        (b"\\n", "\\\\n"),
        ("␣".encode(), "\\u2423"),
        ("中é".encode(), "\\u4e2dé"),
        ("🦊".encode(), "\\U0001f98a"),
        ("\u200d".encode(), "\\u200d"),
        ("\u0301".encode(), "\\u0301"),
        (b"", '""'),
        (b"a" * 40, "a" * 17 + "…"),
        (b"\xff" * 9, "<FF>" * 4 + "…"),
    ],
)
def test_a_label_is_one_unambiguous_line(raw: bytes, want: str) -> None:
    latin = frozenset(range(0x20, 0x250)) | {ord(c) for c in "␣⏎⇥…"}
    assert label(raw, glyphs=latin) == want


def test_labels_of_different_bytes_differ() -> None:
    tokens = [bytes([b]) for b in range(256)] + [b"<%02X>" % b for b in range(256)] + [b"\\n", b"\\x0a", "␣".encode()]
    labels = [label(raw) for raw in tokens]
    assert len(set(labels)) == len(tokens)
    assert all(text.isprintable() for text in labels)


def test_a_font_without_the_signs_gets_escapes() -> None:
    assert label(b" a\n", glyphs=frozenset(range(0x20, 0x7F))) == "\\x20a\\x0a"


def test_control_tokens_go_by_name() -> None:
    assert label(None, name="<|im_end|>") == "<|im_end|>"
    assert label(None, name="<|a_very_long_control_token|>", limit=10) == "<|a_very_…"
    assert token_text(None, token_id=9, names={9: "<|im_end|>"}) == "<|im_end|>"
    assert token_text(None, token_id=8, names={}) == "<id 8>"


@pytest.mark.parametrize(
    ("raw", "want"),
    [
        (b" the", [(" the", "text")]),
        (b"  the", [("␣", "mark"), ("␣", "mark"), ("the", "text")]),
        (b"a b", [("a b", "text")]),
        (b"a ", [("a", "text"), ("␣", "mark")]),
        (b"\n\n", [("⏎", "break"), ("⏎", "break")]),
        (b" \n", [("␣", "mark"), ("⏎", "break")]),
        (b"x\xe2\x9cy", [("x", "text"), ("<E2>", "mark"), ("<9C>", "mark"), ("y", "text")]),
        ("\u00a0".encode(), [("\\xa0", "mark")]),
        ("e\u0301".encode(), [("e\u0301", "text")]),
        ("\u0301e".encode(), [("\\u0301", "mark"), ("e", "text")]),
        (b"", []),
    ],
)
def test_pieces_mark_only_what_cannot_be_seen(raw: bytes, want: list[tuple[str, str]]) -> None:
    assert [tuple(piece) for piece in pieces(raw)] == want


def test_the_token_that_completes_a_character_names_it() -> None:
    fox, hanzi = "🦊".encode(), "中".encode()
    tokens = [
        b"a",
        fox[:2],
        fox[2:],
        fox[:1],
        fox[1:2],
        fox[2:3],
        fox[3:] + b"!",
        hanzi,
        b"\xff",
        hanzi[:2],
        None,
        hanzi[2:],
    ]
    assert list(completed_characters(tokens)) == ["", "", "🦊", "", "", "", "🦊", "", "", "", "", ""]


@pytest.mark.parametrize(
    ("tokens", "seconds", "want"),
    [(2, 8.0, "0.25"), (11, 2.0, "5.5"), (22, 0.5, "44"), (5_000, 2.0, "2,500"), (1, 300.0, "0.0033")],
)
def test_a_speed_is_never_said_to_be_none(tokens: int, seconds: float, want: str) -> None:
    assert speed(tokens, seconds) == f"{want} tokens/s"
