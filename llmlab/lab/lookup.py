"""Which token is meant: by its id, by its text, by its bytes, or by a control token's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from llmlab.errors import RequestError

__all__ = ["Token", "spelled", "token_id"]

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
