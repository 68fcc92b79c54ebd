"""The host's part of a step with grammars: a mask for each row that has one, and who cannot go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt32

from llmlab.grammar.matcher import Matcher, fill_masks


class Held(NamedTuple):
    """A row that a grammar holds: its slot, its matcher, and whether it may draw an end token now."""

    slot: int
    matcher: Matcher
    may_end: bool


class Masks(NamedTuple):
    """The packed masks of W slots, which slots they count for, and the rows that draw no more."""

    mask: UInt32[np.ndarray, "W M"]
    masked: Bool[np.ndarray, " W"]
    ended: list[int]  #: slots of complete rows that nothing may follow but an end that they may not draw
    failed: dict[int, str]  #: why the row in this slot cannot go on


def masks_of(rows: Sequence[Held], *, width: int, words: int) -> Masks:
    """Look at every row's grammar, all of them at once."""
    mask = np.zeros((width, words), np.uint32)
    masked = np.zeros(width, bool)
    failed = {row.slot: error for row in rows if (error := row.matcher.error)}
    sound = [row for row in rows if row.slot not in failed]
    found = np.zeros((len(sound), words), np.uint32)
    fill_masks([row.matcher for row in sound], found)
    ended = []
    for row, allowed in zip(sound, found, strict=True):
        drawable = allowed if row.may_end else allowed & ~row.matcher.vocabulary.end_mask
        if error := row.matcher.error:
            failed[row.slot] = error
        elif drawable.any():
            mask[row.slot], masked[row.slot] = drawable, True
        elif row.matcher.complete:
            ended.append(row.slot)
        else:
            failed[row.slot] = "no token of the vocabulary can come next"
    return Masks(mask, masked, ended, failed)
