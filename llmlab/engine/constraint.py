"""The host's part of a decoding step with grammars: a token mask per constrained row, and the rows that have to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt32

from llmlab.grammar.matcher import Matcher, fill_masks


class ConstrainedRow(NamedTuple):
    """A row with a grammar: its slot, its matcher, and packed bits [ceil(V / 32)] of the tokens it may not draw yet."""

    slot: int
    matcher: Matcher
    barred: UInt32[np.ndarray, " M"]


class Masks(NamedTuple):
    """Packed token masks of W slots, the slots that have one, and the rows that have to end."""

    mask: UInt32[np.ndarray, "W M"]
    masked: Bool[np.ndarray, " W"]
    ended: list[int]  #: slots whose grammar is complete and allows only an end token, which the row may not draw
    failed: dict[int, str]  #: slot -> why the row in it cannot go on


def masks_of(rows: Sequence[ConstrainedRow], *, width: int, words: int) -> Masks:
    """Computes the masks of all constrained rows, in parallel."""
    mask = np.zeros((width, words), np.uint32)
    masked = np.zeros(width, bool)
    failed = {row.slot: error for row in rows if (error := row.matcher.error)}
    sound = [row for row in rows if row.slot not in failed]
    found = np.zeros((len(sound), words), np.uint32)
    fill_masks([row.matcher for row in sound], found)
    ended = []
    for row, allowed in zip(sound, found, strict=True):
        drawable = allowed & ~row.barred
        if error := row.matcher.error:
            failed[row.slot] = error
        elif drawable.any():
            mask[row.slot], masked[row.slot] = drawable, True
        elif row.matcher.complete:
            ended.append(row.slot)
        else:
            failed[row.slot] = "no token of the vocabulary can come next"
    return Masks(mask, masked, ended, failed)
