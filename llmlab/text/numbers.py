"""How numbers are written for a reader: a probability, and a count with its noun."""

from __future__ import annotations

import math


def probability(value: float, *, digits: int = 3) -> str:
    """A probability in at most `digits` decimals, such as "0.125".

    "0" stands for exactly zero alone: a value that would be rounded to zero is written as a power of ten ("5e-05"). A
    probability that is not known (NaN) is "–".
    """
    if math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    return f"{value:.{digits}f}" if value >= 0.5 * 10.0**-digits else f"{value:.0e}"


def count(number: int, noun: str) -> str:
    """A number with its noun, in the plural except for one: "1 token", "12,345 tokens"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
