"""How a token is written for a reader: in a frame, in a token strip, on an axis.

A token is a sequence of bytes: a word with a space before it, half of an emoji, a line break. A control token has no
bytes. Each function here returns readable text that tells these apart.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

#: Visible signs for white space.
_WHITE = {" ": "␣", "\t": "⇥", "\n": "⏎", "\r": "\\r"}
#: Characters that `label` uses as signs, and therefore writes as escapes where a token contains them.
_LABEL_SIGNS = frozenset("␣⇥⏎…")


class Piece(NamedTuple):
    """A part of a token's text: the text itself, or a mark for something that cannot be seen."""

    text: str
    kind: Literal["text", "mark", "break"]


def name_of(token_id: int, names: Mapping[int, str]) -> str:
    """The name of a token without bytes, from its tokenizer; `<id 7>` where it has none."""
    return names.get(token_id, f"<id {token_id}>")


def token_text(raw: bytes | None, *, token_id: int, names: Mapping[int, str]) -> str:
    """The text of the `token` column: the bytes read as UTF-8, with U+FFFD where they are not UTF-8 by themselves.

    Args:
        raw: the token's bytes; None for a control token, whose text is its name.
        token_id: the token's id.
        names: id -> name, of control tokens.
    """
    return name_of(token_id, names) if raw is None else raw.decode("utf-8", "replace")


def pieces(raw: bytes) -> list[Piece]:
    """The parts of a token's text for a token strip, where colours show where a token begins and ends.

    A single space before a word or between two words stays a space; any other space is marked. A line break is a mark
    with the kind "break". A byte that is not part of a whole character within the token is written `<E2>`.
    """
    text = _decoded(raw)
    out: list[Piece] = []
    for at, char in enumerate(text):
        if char == " " and not _space_shows(text, at):
            piece = Piece("␣", "mark")
        elif char == "\n":
            piece = Piece("⏎", "break")
        elif char in "\t\r":
            piece = Piece(_WHITE[char], "mark")
        elif _invisible(char) or (at == 0 and unicodedata.category(char).startswith("M")):
            piece = Piece(_escape(char), "mark")
        else:
            piece = Piece(char, "text")
        if out and piece.kind == "text" == out[-1].kind:
            out[-1] = Piece(out[-1].text + piece.text, "text")
        else:
            out.append(piece)
    return out


def label(raw: bytes | None, *, name: str = "", glyphs: frozenset[int] | None = None, limit: int = 18) -> str:
    """A token's text on one line, for an axis: spaces as `␣`, line breaks as `⏎`, bytes outside UTF-8 as `<E2>`.

    Args:
        raw: the bytes; None for a control token, whose label is its `name`.
        name: the control token's name.
        glyphs: the code points that the font can draw; a character outside is written as an escape such as `\\u4e2d`.
            None: every character can be drawn.
        limit: the most characters; a longer label is shortened and ends in `…`.
    """
    if raw is None:
        return _cut([name], limit)
    text = _decoded(raw)
    if not text:
        return '""'
    return _cut([_sign(char, at, text, glyphs) for at, char in enumerate(text)], limit)


def speed(tokens: int, seconds: float) -> str:
    """The speed of a generation in tokens per second, with at least two digits: on a CPU it may be below one."""
    rate = tokens / seconds
    return f"{rate:,.0f} tokens/s" if rate >= 10 else f"{rate:.2g} tokens/s"


def completed_characters(tokens: Iterable[bytes | None]) -> Iterator[str]:
    """For each token, the character that began in an earlier token and that this one completes; "" without one."""
    waiting = b""
    for raw in tokens:
        if raw is None:
            waiting = b""
            yield ""
            continue
        begun = bool(waiting)
        text = (waiting + raw).decode("utf-8", "surrogateescape")
        tail = _unfinished(waiting + raw)
        yield text[0] if begun and text and not _is_byte(text[0]) else ""
        waiting = tail


def _unfinished(raw: bytes) -> bytes:
    """The last bytes, if more may complete them: a lead byte with fewer continuation bytes than it announces."""
    for back in range(1, min(3, len(raw)) + 1):
        byte = raw[-back]
        if byte >= 0xC0:
            wanted = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return raw[-back:] if back < wanted else b""
        if byte < 0x80:
            return b""
    return b""


def _decoded(raw: bytes) -> str:
    # surrogateescape keeps each stray byte, as U+DC80 + byte - 0x80, where U+FFFD would stand for several.
    return raw.decode("utf-8", "surrogateescape")


def _is_byte(char: str) -> bool:
    return 0xDC80 <= ord(char) <= 0xDCFF


def _space_shows(text: str, at: int) -> bool:
    """Whether a reader sees this space: it is a single one, with something visible after it."""
    after = text[at + 1 : at + 2]
    return bool(after) and not after.isspace() and not text[:at].endswith(" ")


def _invisible(char: str) -> bool:
    category = unicodedata.category(char)
    return char != " " and (category.startswith("C") or category in ("Zs", "Zl", "Zp"))


def _escape(char: str) -> str:
    if _is_byte(char):
        return f"<{ord(char) - 0xDC00:02X}>"
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _sign(char: str, at: int, text: str, glyphs: frozenset[int] | None) -> str:
    if char == "\\":
        return "\\\\"
    sign = _WHITE.get(char)
    if sign is not None:
        return sign if glyphs is None or ord(sign[0]) in glyphs else _escape(char)
    # The text "<E2>" in a token must not look like the byte.
    looks_like_byte = char == "<" and text[at + 3 : at + 4] == ">" and text[at + 1 : at + 3].isalnum()
    if char in _LABEL_SIGNS or looks_like_byte or _invisible(char) or unicodedata.category(char).startswith("M"):
        return _escape(char)
    return char if glyphs is None or ord(char) in glyphs else _escape(char)


def _cut(signs: list[str], limit: int) -> str:
    """The signs joined, in at most `limit` characters: as many whole signs as fit before a `…`."""
    whole = "".join(signs)
    if len(whole) <= limit:
        return whole
    out = ""
    for sign in signs:
        if len(out) + len(sign) > limit - 1:
            break
        out += sign
    # A single long name has no sign that fits whole.
    return (out or whole[: limit - 1]) + "…"
