"""Numbers for a reader: two that differ read differently, and nothing that is not zero is written as zero."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab.text.numbers import count, probability, share


@pytest.mark.parametrize(
    ("value", "digits", "written"),
    [
        (0.0, 3, "0"), (1.0, 3, "1.000"), (0.125, 3, "0.125"), (0.5, 2, "0.50"), (0.0127, 3, "0.0127"),
        (0.00127, 3, "0.00127"), (0.00145, 3, "0.00145"), (0.0127, 2, "0.013"), (0.001, 3, "0.00100"),
        (0.000127, 3, "1.27e-4"), (5e-5, 3, "5e-5"), (1.234e-12, 3, "1.23e-12"), (1e-40, 3, "1e-40"),
        (math.nan, 3, "–"), (0.0005, 3, "5e-4"), (0.00049, 3, "4.9e-4"), (0.0049, 2, "4.9e-3"), (0.125, 2, "0.12"),
    ],
)  # fmt: skip
def test_a_probability(value: float, digits: int, written: str) -> None:
    assert probability(value, digits=digits) == written


def test_a_probability_that_is_not_zero_never_reads_as_zero() -> None:
    for exponent in range(1, 300):
        assert float(probability(10.0**-exponent)) > 0


@given(st.floats(1e-30, 0.1))
def test_a_rare_token_keeps_its_digits(value: float) -> None:
    assert float(probability(value)) == pytest.approx(value, rel=0.005) and float(probability(value)) > 0
    assert probability(value) != probability(1.02 * value)


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.0, "0%"), (1.0, "100%"), (0.125, "12.50%"), (1e-9, "<0.01%"), (0.99999999, ">99.99%"), (0.0001, "0.01%")],
)
def test_a_share(value: float, written: str) -> None:
    assert share(value) == written


def test_a_count() -> None:
    assert [count(number, "token") for number in (0, 1, 12_345)] == ["0 tokens", "1 token", "12,345 tokens"]
