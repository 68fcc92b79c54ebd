"""The tokens of a vocabulary as a reader writes them: from an id to bytes, a name and a label, and back to an id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from llmlab.errors import RequestError, short
from llmlab.text.spelling import label, name_of, token_text

__all__ = ["Token", "TokenNames"]

#: How a caller names a token: by its id, by its exact text or bytes, or by a control token's name.
Token: TypeAlias = int | np.integer[Any] | str | bytes


class TokenNames:
    """The tokens of one vocabulary: what each id is in bytes, what it is called, and which id a caller means.

    Ids beyond the tokenizer's are valid, because a model's logits may be padded: they have no bytes, and their name is
    `<id 151936>`.

    Args:
        token_bytes: the bytes of every token id that the tokenizer knows; None for control tokens.
        names: id -> name, of the tokens without bytes, such as `<|im_end|>`. Names may be missing.
        vocab_size: the number of valid ids; by default as many as `token_bytes` has.
    """

    def __init__(
        self, token_bytes: Sequence[bytes | None], names: Mapping[int, str], *, vocab_size: int | None = None
    ) -> None:
        self.token_bytes = token_bytes
        self.names = names
        self.vocab_size = len(token_bytes) if vocab_size is None else vocab_size

    def bytes_of(self, token_id: int) -> bytes | None:
        """The bytes of a token; None for a control token and for an id beyond the tokenizer's."""
        return self.token_bytes[token_id] if token_id < len(self.token_bytes) else None

    def name(self, token_id: int) -> str:
        """The name of a token without bytes, such as `<|im_end|>`; `<id 7>` where it has none."""
        return name_of(token_id, self.names)

    def text(self, token_id: int) -> str:
        """The token as the `token` column of a frame has it: its text in UTF-8, or the name of a control token."""
        return token_text(self.bytes_of(token_id), token_id=token_id, names=self.names)

    def label(self, token_id: int, *, limit: int = 18) -> str:
        """The token on one line, with visible white space, in at most `limit` characters."""
        return label(self.bytes_of(token_id), name=self.name(token_id), limit=limit)

    def columns(self, ids: Sequence[int]) -> dict[str, Sequence[Any]]:
        """The columns `token`, `token_id` and `bytes` of a frame, one row per id."""
        return {"token": [self.text(i) for i in ids], "token_id": ids, "bytes": [self.bytes_of(i) for i in ids]}

    def id_of(self, token: Token) -> int:
        """The id of the one token that is meant.

        Args:
            token: an id; the exact text or bytes of a whole token (a leading space counts); a control token's name.

        Raises:
            RequestError: there is no such token, or more than one.
        """
        if isinstance(token, int | np.integer) and not isinstance(token, bool):
            if not 0 <= token < self.vocab_size:
                raise RequestError(f"token {token} is not in the vocabulary (0..{self.vocab_size - 1})", param="token")
            return int(token)
        if isinstance(token, bool) or not isinstance(token, str | bytes):
            raise RequestError(f"token must be an id, a text or bytes, got {repr(token)[:60]}", param="token")
        raw = _as_bytes(token)
        found = [i for i, data in enumerate(self.token_bytes) if data is not None and data == raw]
        found += [i for i in self._named(token) if i not in found]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(map(str, found))
            raise RequestError(f"token {token!r} is the text of several tokens: give an id, {ids}", param="token")
        stripped = raw.strip()
        near = [i for i, data in enumerate(self.token_bytes) if data is not None and data.strip() == stripped != b""]
        hint = f"; there is {self.bytes_of(near[0])!r}, id {near[0]}" if near else "; give the id of one of its tokens"
        raise RequestError(f"token {token!r} is not a single token of this vocabulary{hint}", param="token")

    def spell(self, token: Token, encode: Callable[[str], Sequence[int]]) -> list[int]:
        """Token ids for a text: the single token that equals it if there is one, otherwise the tokenizer's encoding.

        Bytes that are not UTF-8 are spelled with the longest token that fits, then the longest after it, and so on.

        Args:
            token: an id, a text, bytes, or a control token's name.
            encode: the tokenizer's function from a text to token ids.

        Raises:
            RequestError: there is no such token, or the vocabulary cannot spell these bytes.
        """
        if isinstance(token, int | np.integer) and not isinstance(token, bool):
            if not 0 <= token < self.vocab_size:
                raise RequestError(
                    f"token id {token} is not in the vocabulary (0..{self.vocab_size - 1})", param="token"
                )
            return [int(token)]
        if not isinstance(token, str | bytes):
            raise RequestError(f"token must be an id, a text or bytes, got {short(token)}", param="token")
        if not token:
            raise RequestError("token is empty: leave it out to continue without another one", param="token")
        named = self._named(token)
        if named:
            return named[:1]
        raw = _as_bytes(token)
        encoded = encode(raw.decode()) if _is_text(raw) else []
        exact = bool(encoded) and b"".join(self.bytes_of(i) or b"" for i in encoded) == raw
        if exact and len(encoded) == 1:
            return [int(encoded[0])]
        single = [i for i, data in enumerate(self.token_bytes) if data == raw]
        if single:
            # Of several with the same bytes, the token that a merge made has a larger id than the byte itself.
            return single[-1:]
        return [int(i) for i in encoded] if exact else self._longest_first(raw)

    def _named(self, token: str | bytes) -> list[int]:
        """The ids of the control tokens with this name."""
        return [i for i, name in self.names.items() if name == token]

    def _longest_first(self, raw: bytes) -> list[int]:
        """The longest token that fits, then the longest after it, and so on."""
        ids = {data: i for i, data in reversed(list(enumerate(self.token_bytes))) if data}
        longest = max(map(len, ids), default=0)
        found, at = [], 0
        while at < len(raw):
            size = next((size for size in range(min(longest, len(raw) - at), 0, -1) if raw[at : at + size] in ids), 0)
            if not size:
                raise RequestError(
                    f"token {short(raw)} cannot be spelled: no token of this vocabulary begins with "
                    f"{raw[at : at + 1]!r}",
                    param="token",
                )
            found.append(ids[raw[at : at + size]])
            at += size
        return found


def _as_bytes(token: str | bytes) -> bytes:
    """The bytes of a token that is named by its text or its bytes.

    Raises:
        RequestError: the text cannot be encoded in UTF-8.
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


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
