"""How numbers are written for a reader: a probability, a share in per cent, and a count with its noun."""

from __future__ import annotations

import math


def probability(value: float, *, digits: int = 3) -> str:
    """A probability in `digits` significant digits: "0.125", "0.00127", "5e-5"; from 0.1 on in `digits` decimals.

    Rare tokens keep their digits, so that two that differ read differently. A value below a power of ten of as many
    digits is written with an exponent. "0" stands for exactly zero alone, and "–" for a probability that is not known
    (NaN).
    """
    if math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    if value >= 10.0**-digits:
        return f"{value:.{max(digits, digits - 1 - math.floor(math.log10(value)))}f}"
    number, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number}e{int(exponent)}"


def share(value: float) -> str:
    """A share of a whole in per cent, with two decimals: "12.50%"; "0%" and "100%" are exactly nothing and all."""
    if value in (0, 1):
        return f"{value:.0%}"
    return "<0.01%" if value < 0.0001 else ">99.99%" if 0.9999 < value < 1 else f"{value:.2%}"


def count(number: int, noun: str) -> str:
    """A number with its noun, in the plural except for one: "1 token", "12,345 tokens"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
