"""Other ways on: a result continued from any of its positions, with any token in the place of the one drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.backends.given import Given
from llmlab.backends.protocol import Choice
from llmlab.errors import RequestError
from llmlab.fields import short
from llmlab.lab.arguments import place
from llmlab.lab.compare import changed_request, lab_of, replay_backend
from llmlab.lab.lookup import Token, spelled

if TYPE_CHECKING:
    from llmlab.lab.result import Result

__all__ = ["branch", "kept", "token_ids"]


def branch(
    result: Result,
    choice: Choice,
    position: int,
    token: Token | None,
    *,
    order: str | None,
    changes: Mapping[str, Any],
) -> Result:
    """See `Result.branch`."""
    lab = lab_of(result)
    backend = replay_backend(lab)
    before = kept(choice, position)
    forced = (
        []
        if token is None
        else token_ids(token, token_bytes=backend.token_bytes, names=result.names, encode=backend.encode)
    )
    made = np.concatenate([before, np.array(forced, np.int32)]).astype(np.int32)
    request = changed_request(result, {"n": None, **changes})
    indices = range(request.n) if changes.get("n") is not None else (choice.index,)
    given = [Given(index, made, drawn=min(len(forced), 1)) for index in indices]
    seed = result.seed if request.seed is None else request.seed
    source = backend.go_on(request, given, seed=seed, order=result.order if order is None else order)
    return lab.read(source, parent=result)


def kept(choice: Choice, position: int) -> np.ndarray:
    """The tokens of a choice before a position, which may be the one behind the last of them.

    Raises:
        IndexError: there is no such position.
        RequestError: it lies behind the end token; or the backend did not say which tokens it made.
    """
    tokens = choice.tokens
    at = place(position, among=tokens, choice=choice.index, behind=True)
    if at and tokens.segment[at - 1] == "end":
        raise RequestError(
            f"choice {choice.index} ended with the token at position {at - 1}: that one can be replaced, "
            "but nothing follows it",
            param="position",
        )
    if (tokens.ids[:at] < 0).any():
        raise RequestError("the endpoint did not say which tokens these are, so that nobody can go on behind them")
    return tokens.ids[:at]


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
