"""What a slider steps through, and what a typed text stands for."""

from __future__ import annotations

from itertools import pairwise

import pytest

from llmlab.playground.controls import CONTROLS
from llmlab.playground.notches import nearest, notches, parsed

SLIDERS = {control.name: control for control in CONTROLS if control.kind in ("number", "count")}


@pytest.mark.parametrize("name", SLIDERS)
def test_a_slider_has_both_ends_and_the_default_and_rises(name: str) -> None:
    control = SLIDERS[name]
    found = notches(control)
    assert found[0] == control.low and found[-1] == control.high and control.default in found
    assert all(before < after for before, after in pairwise(found))
    assert {type(value) for value in found} == {int if control.kind == "count" else float}


@pytest.mark.parametrize("name", SLIDERS)
def test_no_step_has_more_digits_than_a_person_would_write(name: str) -> None:
    assert all(len(repr(value)) <= 6 for value in notches(SLIDERS[name])), "0.9000000000000001 is none"


def test_linear_steps_are_as_wide_as_the_control_says() -> None:
    assert notches(SLIDERS["temperature"]) == tuple(round(0.05 * at, 2) for at in range(41))
    assert notches(SLIDERS["top_p"]) == tuple(at / 100 for at in range(1, 101))


@pytest.mark.parametrize(("name", "least", "most"), [("top_k", 1, 128), ("min_p", 0.001, 1)])
def test_logarithmic_steps_have_like_ratios(name: str, least: float, most: float) -> None:
    found = notches(SLIDERS[name])
    assert found[:2] == (0, least) and found[-1] == most
    assert all(after / before <= 2 for before, after in pairwise(found[1:]))
    at = found.index(10 * least)
    ratios = [after / before for before, after in pairwise(found[at:])]
    assert min(ratios) > 1.05 and max(ratios) < 1.35
    assert 0.3 < (found.index(10 * least) - 1) / (len(found) - 2) < 0.6, "the small values have room"


def test_the_nearest_step() -> None:
    values = notches(SLIDERS["temperature"])
    assert [values[nearest(values, number)] for number in (0.33, 0.0, 1.99, 7, -1)] == [0.35, 0.0, 2.0, 2.0, 0.0]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0.995", 0.995),
        (" 1e-3 ", 0.001),
        ("0.1234567890123456", 0.1234567890123456),
        ("−1.5", -1.5),
        ("12", 12),
        ("9007199254740993", 9007199254740993),
        (".5", 0.5),
    ],
)
def test_a_text_stands_for_its_number_to_the_last_digit(text: str, number: float) -> None:
    found = parsed(text)
    assert found == number and type(found) is type(number)


@pytest.mark.parametrize("text", ["", "0,9", "nan", "inf", "one", "0x10"])
def test_what_is_no_finite_number_stays_a_text(text: str) -> None:
    assert parsed(text) == text
