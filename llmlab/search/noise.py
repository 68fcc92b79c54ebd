"""The random numbers of a search: fixed by its seed and by what they are for, whatever else is searched beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["generator"]


def generator(seed: int, *what: int, path: Sequence[int] = ()) -> np.random.Generator:
    """Returns the random numbers that belong to a seed, to some integers from 0 on, and to a path of tokens."""
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    # The counts come first: a SeedSequence takes zeros at the end for nothing.
    entropy = [len(what), len(path), low, high, *what, *path]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
