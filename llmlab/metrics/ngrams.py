"""N-grams of a sequence, and the BLEU of a text against others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import TypeAlias

Grams: TypeAlias = "Counter[tuple[Hashable, ...]]"


def grams(sequence: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    """The n-grams of a sequence, in order."""
    return list(zip(*(sequence[at:] for at in range(n)), strict=False))


def matched_by_others(counts: Sequence[Grams]) -> list[int]:
    """The number of n-grams of each text that the others match: each as often as the text that has it most often.

    An n-gram is matched min(own count, largest count among the others) times. Where the text's own count is the
    largest of all, the largest among the others is the second largest of all; where it is not, its own count is at most
    the second largest. So it is min(own count, second largest count), and two passes over the texts are enough.
    """
    most: dict[tuple[Hashable, ...], int] = {}
    second: dict[tuple[Hashable, ...], int] = {}
    for own in counts:
        for gram, count in own.items():
            if gram not in most:
                most[gram] = count
            else:
                second[gram] = max(second.get(gram, 0), min(count, most[gram]))
                most[gram] = max(count, most[gram])
    return [sum(min(count, second[gram]) for gram, count in own.items() if gram in second) for own in counts]


def bleu(length: int, others: Sequence[int], matched: Sequence[int]) -> float:
    """The BLEU of a text with `length` words against texts of `others` words.

    Args:
        length: the number of words of the text.
        others: the number of words of each reference.
        matched: how many of its n-grams the references match, for each n from 1.
    """
    if not length:
        return float(not any(others))
    logs = []
    for n, found in enumerate(matched[:length]):
        extra = 1 if n else 0  # single words are not smoothed: texts without a common word have 0
        if found + extra == 0:
            return 0.0
        logs.append(math.log((found + extra) / (length - n + extra)))
    nearest = min((abs(other - length), other) for other in others)[1]
    return math.exp(min(0.0, 1.0 - nearest / length) + sum(logs) / len(logs))


# The jackknife asks for the same pairs once for each completion that it leaves out.
@lru_cache(maxsize=2**17)
def pair_bleu(text: str, other: str, order: int, split: Callable[[str], list[str]]) -> float:
    """The BLEU of one text against one other, with n-grams up to `order`."""
    (length, own), (words, others) = _counted(text, order, split), _counted(other, order, split)
    matched = [(one & two).total() for one, two in zip(own, others, strict=True)]
    return bleu(length, [words], matched)


@lru_cache(maxsize=2**12)
def _counted(text: str, order: int, split: Callable[[str], list[str]]) -> tuple[int, tuple[Grams, ...]]:
    words = split(text)
    return len(words), tuple(Counter(grams(words, n)) for n in range(1, order + 1))
