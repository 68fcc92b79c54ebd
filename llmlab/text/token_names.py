"""Which token is meant: by its id, by its text, by its bytes, or by a control token's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from llmlab.errors import RequestError, short

__all__ = ["Token", "spelled", "token_id", "token_ids"]

#: How a token can be named.
Token: TypeAlias = int | np.integer[Any] | str | bytes


def token_id(token: Token, *, token_bytes: Sequence[bytes | None], names: Mapping[int, str], vocab_size: int) -> int:
    """The id of the one token that is meant.

    Args:
        token: an id; the exact text or bytes of a whole token (a leading space counts); a control token's name.
        token_bytes: the bytes of every token id, None for control tokens.
        names: of control tokens, by id.
        vocab_size: ids are below it.

    Raises:
        RequestError: there is no such token, or more than one.
    """
    if isinstance(token, int | np.integer) and not isinstance(token, bool):
        if not 0 <= token < vocab_size:
            raise RequestError(f"token {token} is not in the vocabulary (0..{vocab_size - 1})", param="token")
        return int(token)
    if isinstance(token, bool) or not isinstance(token, str | bytes):
        raise RequestError(f"token must be an id, a text or bytes, got {_short(token)}", param="token")
    raw = spelled(token)
    found = [i for i, data in enumerate(token_bytes) if data == raw and data is not None]
    found += [i for i, name in names.items() if name == token and i not in found]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(map(str, found))
        raise RequestError(f"token {token!r} is the text of several tokens: give an id, {ids}", param="token")
    near = [i for i, data in enumerate(token_bytes) if data is not None and data.strip() == raw.strip() != b""]
    hint = f"; there is {token_bytes[near[0]]!r}, id {near[0]}" if near else "; give the id of one of its tokens"
    raise RequestError(f"token {token!r} is not a single token of this vocabulary{hint}", param="token")


def spelled(token: str | bytes) -> bytes:
    """The bytes of a token that is named by its text or its bytes.

    Raises:
        RequestError: the text is none that UTF-8 can hold.
    """
    if isinstance(token, bytes):
        return token
    try:
        return token.encode()
    except UnicodeEncodeError:
        raise RequestError(
            f"token {token!r} has half of a surrogate pair; a token's bytes are given as bytes, such as b'\\xff'",
            param="token",
        ) from None


def _short(value: Any) -> str:
    return repr(value)[:60]


def token_ids(
    token: Token,
    *,
    token_bytes: Sequence[bytes | None],
    names: Mapping[int, str],
    encode: Any,
) -> list[int]:
    """The tokens that spell something: the one that does, where there is one, else as few as the tokenizer takes.

    Args:
        token: an id, a text, bytes, or a control token's name.
        token_bytes: the bytes of every token id, None for control tokens.
        names: of control tokens, by id.
        encode: the tokenizer's, from a text to token ids.

    Raises:
        RequestError: there is no such token, and no tokens that spell it.
    """
    if isinstance(token, int | np.integer) and not isinstance(token, bool):
        if not 0 <= token < len(token_bytes):
            raise RequestError(f"token id {token} is not in the vocabulary (0..{len(token_bytes) - 1})", param="token")
        return [int(token)]
    if not isinstance(token, str | bytes):
        raise RequestError(f"token must be an id, a text or bytes, got {short(token)}", param="token")
    if not token:
        raise RequestError("token is empty: leave it out to go on without another one", param="token")
    named = [i for i, name in names.items() if name == token]
    if named:
        return named[:1]
    raw = spelled(token)
    encoded = encode(raw.decode()) if _is_text(raw) else []
    spells = bool(encoded) and b"".join(token_bytes[i] or b"" for i in encoded) == raw
    if spells and len(encoded) == 1:
        return [int(encoded[0])]
    whole = [i for i, data in enumerate(token_bytes) if data == raw]
    if whole:
        # Where several are spelled alike, the one that another token's merge made comes after the byte itself.
        return whole[-1:]
    return [int(i) for i in encoded] if spells else _spelled(raw, token_bytes)


def _spelled(raw: bytes, token_bytes: Sequence[bytes | None]) -> list[int]:
    """The longest token that fits, then the longest behind it, and so on."""
    table = {data: i for i, data in reversed(list(enumerate(token_bytes))) if data}
    longest = max(map(len, table), default=0)
    found, at = [], 0
    while at < len(raw):
        size = next((size for size in range(min(longest, len(raw) - at), 0, -1) if raw[at : at + size] in table), 0)
        if not size:
            raise RequestError(
                f"token {short(raw)} cannot be spelled: no token of this vocabulary begins with {raw[at : at + 1]!r}",
                param="token",
            )
        found.append(table[raw[at : at + size]])
        at += size
    return found


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
