from __future__ import annotations

import math

import pytest

from llmlab.text.numbers import count, probability


@pytest.mark.parametrize(
    ("value", "digits", "written"),
    [
        (1.0, 3, "1.000"),
        (0.125, 3, "0.125"),
        (0.0005, 3, "0.001"),  # the smallest value that is not rounded to zero
        (0.00049, 3, "5e-04"),
        (1e-30, 3, "1e-30"),
        (0.0, 3, "0"),
        (math.nan, 3, "–"),
        (0.125, 2, "0.12"),
        (0.0049, 2, "5e-03"),
    ],
)
def test_a_probability(value: float, digits: int, written: str) -> None:
    assert probability(value, digits=digits) == written


def test_a_probability_that_is_not_zero_never_reads_as_zero() -> None:
    for exponent in range(1, 300):
        assert float(probability(10.0**-exponent)) > 0


def test_a_count_agrees_with_its_noun() -> None:
    assert count(1, "token") == "1 token"
    assert [count(n, "token") for n in (0, 2, 12_345)] == ["0 tokens", "2 tokens", "12,345 tokens"]
