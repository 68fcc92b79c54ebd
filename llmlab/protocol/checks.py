"""Checks of the values of request fields: one function per kind of value, which raises `FieldError` for a bad one.

A check returns the value in the form that the request keeps: NumPy scalars as Python numbers, lists as tuples, the keys
of `logit_bias` as integers. `check_of` finds the check of a field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from llmlab.errors import RequestError, cut, short
from llmlab.sampling.fields import Field

#: How deeply lists and objects may be nested.
_DEEPEST = 100


class FieldError(ValueError):
    """A value inside a field is wrong; `path` is where in the field, to be added to its name."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


def _unboxed(value: Any) -> Any:
    """A NumPy or JAX scalar as the Python number it holds; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def check_number(value: Any, low: float, high: float, *, above: bool = False) -> float:
    """A number in [low, high], or in (low, high] where `above`; not a bool, not NaN, not a string of digits."""
    value = _unboxed(value)
    wanted = f"must be above {low:g} and at most {high:g}" if above else f"must be between {low:g} and {high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(f"must be a number, got {short(value)}")
    if not (low < value if above else low <= value) or not value <= high:  # NaN fails both
        raise FieldError(f"{wanted}, got {short(value)}")
    return float(value)


def check_integer(value: Any, low: int, high: int | None) -> int:
    """An integer in [low, high], without an upper bound where `high` is None; not a bool.

    A float without a fraction counts: JSON has one kind of number, and many programs write 12 as 12.0.
    """
    value = _unboxed(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise FieldError(f"must be an integer, got {short(value)}")
    if high is None and value < low:
        raise FieldError(f"must be at least {low}, got {short(value)}")
    if high is not None and not low <= value <= high:
        bounds = "a signed 64-bit integer" if high == 2**63 - 1 else f"between {low} and {high}"
        raise FieldError(f"must be {bounds}, got {short(value)}")
    return value


def check_flag(value: Any) -> bool:
    """True or False; other truthy values are refused."""
    value = _unboxed(value)
    if not isinstance(value, bool):
        raise FieldError(f"must be true or false, got {short(value)}")
    return value


def check_text(value: Any, path: str = "") -> str:
    """A string that UTF-8 can encode; JSON allows half of a surrogate pair, which no tokenizer reads."""
    if not isinstance(value, str):
        raise FieldError(f"must be a string, got {short(value)}", path=path)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise FieldError(f"has half of a surrogate pair at character {error.start}", path=path) from None
    return value


def check_mapping(value: Any, path: str = "") -> dict[str, Any]:
    """An object, as a new dict with the same values."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise FieldError(f"must be an object with string keys, got {short(value)}", path=path)
    return {check_text(key, path): inner for key, inner in value.items()}


def check_json(value: Any, path: str = "", *, depth: int = 0) -> Any:
    """A JSON value, copied into new lists and dicts, so that nobody can change a request from outside."""
    value = _unboxed(value)
    if depth > _DEEPEST:
        raise FieldError(f"is nested more than {_DEEPEST} deep", path=path)
    if isinstance(value, str):
        return check_text(value, path)
    if isinstance(value, float) and not math.isfinite(value):
        raise FieldError(f"must be a finite number, got {short(value)}", path=path)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        inside = check_mapping(value, path)
        return {key: check_json(inner, f"{path}.{key}", depth=depth + 1) for key, inner in inside.items()}
    if isinstance(value, list | tuple):
        return [check_json(inner, f"{path}[{at}]", depth=depth + 1) for at, inner in enumerate(value)]
    raise FieldError(f"must be something that JSON can hold, got {short(value)}", path=path)


def check_object(value: Any, path: str = "") -> dict[str, Any]:
    """An object of JSON values."""
    inside: dict[str, Any] = check_json(check_mapping(value, path), path)
    return inside


def check_integer_or_off(value: Any, low: int, high: int, *, off: tuple[int, ...], default: int) -> int:
    """An integer in [low, high]; each value in `off` comes out as `default`."""
    try:
        number: int | None = check_integer(value, min(low, *off), high)
    except FieldError:
        number = None
    if number is not None and number in off:
        return default
    if number is None or number < low:
        others = ", ".join(map(str, off))
        raise FieldError(
            f"must be an integer between {low} and {high} (or {others} or null for off), got {short(value)}"
        )
    return number


def check_integer_except(value: Any, low: int, high: int, *, refused: Mapping[int, str]) -> int:
    """An integer in [low, high] that is none of `refused`, whose texts say why not and what to do."""
    number = check_integer(value, low, high)
    if number in refused:
        raise FieldError(f"must not be {number}: {refused[number]}")
    return number


def check_choice(value: Any, choices: tuple[str, ...]) -> str:
    """One of some texts."""
    if not isinstance(value, str) or value not in choices:
        raise FieldError(f"must be {' or '.join(map(repr, choices))}, got {short(value)}")
    return value


def check_by_token(value: Any, low: float, high: float) -> dict[int, float]:
    """Token ids (integers, or strings of digits as JSON has them) and a number in [low, high] for each."""
    if not isinstance(value, Mapping):
        raise FieldError(f"must be an object of token ids and biases, got {short(value)}")
    biases: dict[int, float] = {}
    for key, bias in value.items():
        token = _unboxed(key)
        # Digits of other scripts are no JSON client's idea of a number.
        if isinstance(token, str) and token.isascii() and token.isdigit():
            token = int(token)
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise FieldError(f"has the key {short(key)}, which is not a token id (an integer, or a string of digits)")
        try:
            number = check_number(bias, low, high)
        except FieldError as bad:
            raise FieldError(str(bad), path=f"[{token}]") from None
        if token in biases:
            raise FieldError(f"names token {token} twice")
        biases[token] = number
    return biases


def check_stop(value: Any) -> str | tuple[str, ...]:
    """A string, or up to four as a tuple; none of them empty."""
    many = isinstance(value, list | tuple)
    stops = tuple(value) if many else (value,)
    if len(stops) > 4:
        raise FieldError(f"must be a string or up to 4 strings, got {len(stops)}")
    for index, stop in enumerate(stops):
        path = f"[{index}]" if many else ""
        if not isinstance(stop, str):
            raise FieldError(f"must be a string{'' if many else ' or up to 4 strings'}, got {short(stop)}", path=path)
        if not check_text(stop, path):
            raise FieldError("must not be an empty string", path=path)
    return stops if many else cast(str, value)


def check_prompt(value: Any) -> str | tuple[int, ...]:
    """A text, or token ids as a list or an array of one axis; not empty."""
    if isinstance(value, str) and value:
        return check_text(value)
    return check_token_ids(value, "a text or a list of token ids", "there would be nothing to continue")


def check_token_ids(
    value: Any, wanted: str = "a list of token ids", empty: str = "leave the field out", *, most: int | None = None
) -> tuple[int, ...]:
    """Token ids as a list or an array of one axis; not empty, and not more than `most`."""
    if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str | list | tuple) and not value:
        raise FieldError(f"must not be empty: {empty}")
    if not isinstance(value, list | tuple):
        raise FieldError(f"must be {wanted}, got {short(value)}")
    if most is not None and len(value) > most:
        raise FieldError(f"must hold at most {most} token ids, got {len(value)}")
    return tuple(_token_id(item, f"[{i}]") for i, item in enumerate(value))


def _token_id(value: Any, path: str) -> int:
    try:
        return check_integer(value, 0, None)
    except FieldError as bad:
        raise FieldError(str(bad), path=path) from None


def check_of(field: Field) -> Callable[[Any], Any]:
    """The check of a field's values."""
    low, high = cast(Any, field.low), cast(Any, field.high)
    match field.kind:
        case "number":
            return partial(check_number, low=low, high=high, above=field.above)
        case "integer" if field.off:
            return partial(check_integer_or_off, low=low, high=high, off=field.off, default=field.default)
        case "integer" if field.refused:
            return partial(check_integer_except, low=low, high=high, refused=field.refused)
        case "integer":
            return partial(check_integer, low=low, high=high)
        case "by_token":
            return partial(check_by_token, low=low, high=high)
        case "choice":
            return partial(check_choice, choices=field.choices)
        case "flag":
            return check_flag
        case "text":
            return check_text
        case "object":
            return check_object
        case "value":
            assert field.check is not None, f"{field.name} has no check"
            return field.check


def checked(field: Field, name: str, value: Any) -> Any:
    """The value of a field in its standard form.

    Raises:
        RequestError: it is wrong; the error names the field.
    """
    try:
        return check_of(field)(value)
    except FieldError as bad:
        raise RequestError(f"{name}{cut(bad.path)} {cut(str(bad))}", param=name) from None
