"""The values that a slider steps through, and the number that a text stands for.

A slider cannot hold a value that lies between two of its steps. So a control's value is a number of its own, and its
slider only points at the nearest of these values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

from llmlab.playground.controls import Control

#: The steps of a logarithmic slider in each power of ten: about equal ratios, rounded to numbers that people use.
_DECADE = tuple(map(Decimal, ("1", "1.2", "1.5", "2", "2.5", "3", "4", "5", "6", "8")))


def notches(control: Control) -> tuple[float, ...]:
    """Returns the values that the slider of a "number" or "count" steps through, in rising order.

    They are spelled in decimals: 0.9 is one of them, 0.9000000000000001 is not. On a logarithmic slider `step` is the
    least positive value; zero comes before it if the control's range starts there.
    """
    low, high, step = (Decimal(str(number)) for number in (control.low, control.high, control.step))
    if control.scale == "linear":
        found = {low + step * at for at in range(int((high - low) / step) + 1)}
    else:
        powers = range(step.adjusted(), high.adjusted() + 1)
        found = {mantissa.scaleb(power) for power in powers for mantissa in _DECADE}
        found = {value for value in found if max(low, step) <= value}
    kept = {value for value in found | {low, high} if low <= value <= high}
    if control.kind == "count":
        return tuple(sorted({int(value) for value in kept if value == int(value)}))
    return tuple(sorted(map(float, kept)))


def nearest(values: Sequence[float], number: float) -> int:
    """The index of the value that is nearest to `number`; the lower one of two that are equally near."""
    return min(range(len(values)), key=lambda at: abs(values[at] - number))


def parsed(text: str) -> float | str:
    """The number that a text stands for, to the last digit; a text that stands for none is returned as it is."""
    spelled = text.strip().replace("−", "-")
    try:
        return int(spelled)
    except ValueError:
        pass
    try:
        number = float(spelled)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
