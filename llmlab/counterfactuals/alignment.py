"""Two runs' tokens side by side: where they first differ, and which tokens correspond to each other."""

from __future__ import annotations

from difflib import SequenceMatcher

from llmlab.protocol.completion import TokenBytes, Tokens

__all__ = ["aligned", "first_difference"]


def first_difference(before: Tokens, after: Tokens) -> int | None:
    """The first position at which two runs differ; None where they are the same.

    Where one run is the beginning of the other, they differ at its length.
    """
    ours, theirs = _keys(before), _keys(after)
    for at, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return at
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


def aligned(before: Tokens, after: Tokens) -> list[tuple[str, int | None, int | None]]:
    """Aligns two runs' tokens: one (change, position before, position after) per pair of tokens.

    `change` is same, replaced, removed or added; a position is None where that run has no corresponding token.
    """
    rows: list[tuple[str, int | None, int | None]] = []
    matcher = SequenceMatcher(None, _keys(before), _keys(after), autojunk=False)
    for kind, i, j, k, m in matcher.get_opcodes():
        for step in range(max(j - i, m - k)):
            ours = i + step if i + step < j else None
            theirs = k + step if k + step < m else None
            change = "same" if kind == "equal" else "replaced"
            change = "removed" if theirs is None else "added" if ours is None else change
            rows.append((change, ours, theirs))
    return rows


def _keys(tokens: Tokens) -> list[tuple[int, TokenBytes]]:
    return list(zip(tokens.ids.tolist(), tokens.bytes, strict=True))
