"""Sums with one right answer each, as a base model is asked for them: after three examples."""

from __future__ import annotations

import numpy as np

EXAMPLES = "12 + 7 = 19\n5 + 21 = 26\n14 + 9 = 23\n"


def sums(count: int, *, seed: int) -> tuple[list[str], list[str]]:
    """Prompts, and the right answers to them."""
    pairs = np.random.default_rng(seed).integers(2, 30, (count, 2)).tolist()
    return [f"{EXAMPLES}{a} + {b} =" for a, b in pairs], [str(a + b) for a, b in pairs]
