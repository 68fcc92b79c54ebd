"""Positions in an answer that are named by the text of the tokens there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from llmlab.errors import short
from llmlab.protocol.arguments import PlaceError
from llmlab.protocol.completion import Choice
from llmlab.text.spelling import name_of

__all__ = ["Position", "position_of"]

#: A position in an answer: a number, or the text of the tokens that begin there.
Position: TypeAlias = int | str | bytes

#: The most positions that an error lists.
_LISTED = 8


def position_of(position: Position, choice: Choice, *, names: Mapping[int, str]) -> int:
    """Returns the position that is meant. A number is returned as it is, whether or not the choice has it.

    A text, or bytes, means the position of the one token that is exactly this text (a leading space counts) or has it
    as its name, such as `<|im_end|>`; or that of the first of several tokens whose joined text it is.

    Args:
        position: the position.
        choice: the choice whose tokens are meant.
        names: token id -> name, of control tokens.

    Raises:
        PlaceError: the text is not in the choice at the borders of tokens, or more than once.
    """
    if not isinstance(position, str | bytes):
        return position
    raw = position if isinstance(position, bytes) else position.encode("utf-8", "surrogatepass")
    tokens = choice.tokens
    found = [
        at
        for at, (token, of) in enumerate(zip(tokens.ids.tolist(), tokens.bytes, strict=True))
        if (of is None and name_of(token, names) == position) or _begins(tokens.bytes, at, raw)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(map(str, found[:_LISTED])) + (" and more" if len(found) > _LISTED else "")
        raise PlaceError(
            f"position {short(position)} is {len(found)} times in choice {choice.index}: give one of {listed}",
            param="position",
        )
    stripped = raw.strip()
    near = [of for of in dict.fromkeys(tokens.bytes) if of is not None and of.strip() == stripped != b""]
    there = "" if not near else f"; there is {short(near[0].decode('utf-8', 'replace'))}"
    raise PlaceError(
        f"position {short(position)}: no token of choice {choice.index} is this text, nor do several together spell it"
        f"{there}",
        param="position",
    )


def _begins(of: tuple[bytes | None, ...], at: int, raw: bytes) -> bool:
    """Whether the tokens from a position on spell these bytes and end where they end."""
    left = raw
    while left and at < len(of):
        piece = of[at]
        if not piece or not left.startswith(piece):
            return False
        left, at = left[len(piece) :], at + 1
    return bool(raw) and not left
