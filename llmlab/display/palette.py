"""Colours that colour-blind readers can tell apart, and the colours of the token strip's steps of probability."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

# Okabe and Ito, "Color Universal Design" (2008), without its yellow, which is hard to see on white.
BLACK = "#000000"
ORANGE = "#e69f00"
SKY = "#56b4e9"
GREEN = "#009e73"
BLUE = "#0072b2"
VERMILION = "#d55e00"
PURPLE = "#cc79a7"
GREY = "#8c8c8c"


class Ink(NamedTuple):
    """A background and the text on it; their contrast is at least 4.5:1 (WCAG 2, AA)."""

    back: str
    text: str


#: Lower ends of the steps of probability, in falling order; the last step is what lies below the last of them.
STEPS = (0.9, 0.75, 0.5, 0.25, 0.1, 0.03, 0.01)
#: The line or weight of each step, so that the colour is not its only sign.
STEP_SIGNS = ("", "", "", "thin", "thin", "thick", "thick", "bold")

_DARK, _LIGHT = "#111111", "#ffffff"
#: One blue hue (252 degrees) in equal steps of OKLCH lightness: the less likely, the further from the background.
LIGHT_RAMP = (
    Ink("#f7fafe", _DARK),
    Ink("#d0e0f3", _DARK),
    Ink("#abc6e5", _DARK),
    Ink("#87add7", _DARK),
    Ink("#6393c8", _DARK),
    Ink("#3e79b9", _LIGHT),
    Ink("#0c5fa9", _LIGHT),
    Ink("#024884", _LIGHT),
)
DARK_RAMP = (
    Ink("#1b222b", _LIGHT),
    Ink("#2b3848", _LIGHT),
    Ink("#3c5067", _LIGHT),
    Ink("#4e6987", _LIGHT),
    Ink("#6083aa", _DARK),
    Ink("#739ecd", _DARK),
    Ink("#87b9f2", _DARK),
    Ink("#b0d5fe", _DARK),
)
LIGHT_PAGE, DARK_PAGE = Ink("#ffffff", "#1f2328"), Ink("#14171c", "#e6e6e6")
LIGHT_FAINT, DARK_FAINT = Ink("#ffffff", "#59636e"), Ink("#14171c", "#a0a8b2")
LIGHT_CONTROL, DARK_CONTROL = Ink("#e4e4e4", "#4a4a4a"), Ink("#3a3a3a", "#d0d0d0")
LIGHT_REMOVED, DARK_REMOVED = Ink("#fbe3d6", _DARK), Ink("#5a2b12", "#ffe6d8")
LIGHT_ADDED, DARK_ADDED = Ink("#d9ebf7", _DARK), Ink("#123f5e", "#dcefff")
LIGHT_PANEL, DARK_PANEL = Ink("#f6f8fa", "#1f2328"), Ink("#1f242c", "#e6e6e6")


def step(probability: float) -> int | None:
    """The step of a probability, 0 the most likely; None where the probability is not known (NaN)."""
    if math.isnan(probability):
        return None
    return next((at for at, lower in enumerate(STEPS) if probability >= lower), len(STEPS))


def step_names() -> tuple[str, ...]:
    """The names of the steps for a legend, the most likely first."""
    return (*(f"≥ {lower:g}" for lower in STEPS), f"< {STEPS[-1]:g}")


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two `#rrggbb` colours, 1 to 21, as WCAG 2 defines it."""
    lower, higher = sorted((_luminance(one), _luminance(other)))
    return (higher + 0.05) / (lower + 0.05)


def _luminance(colour: str) -> float:
    channels = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))
