"""What kind of text a token is, for statistics by kind."""

from __future__ import annotations

__all__ = ["TOKEN_CLASSES", "token_class"]

#: The kinds, in the order in which they are tested.
TOKEN_CLASSES = ("control", "bytes", "white space", "number", "word", "letters", "punctuation", "mixed")


def token_class(data: bytes | None) -> str:
    """The kind of a token.

    - control: has no bytes, such as an end token
    - bytes: is not UTF-8 by itself
    - white space
    - number: digits, with or without white space around them
    - word: letters after white space, so the beginning of a word in most tokenizers
    - letters: letters without white space before them, so most often a part of a word
    - punctuation: neither letters nor digits
    - mixed: anything else

    Args:
        data: the token's bytes; None for a control token.
    """
    if data is None:
        return "control"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "bytes"
    inside = text.strip()
    if not inside:
        return "white space"
    if inside.isdigit():
        return "number"
    if inside.isalpha():
        return "word" if text[0].isspace() else "letters"
    return "mixed" if any(character.isalnum() for character in inside) else "punctuation"
