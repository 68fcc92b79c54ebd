"""Checks of the arguments of the lab's own methods; the fields of a request are checked by the request itself.

Each check returns the value in a standard form (a NumPy integer as a Python one, an iterator as a list), or raises a
`RequestError` that names the argument, the value and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from llmlab.errors import RequestError, short
from llmlab.protocol.checks import FieldError, check_integer, check_number
from llmlab.sampling.orders import is_stage, order_key

__all__ = [
    "OrderLike",
    "PlaceError",
    "check_lab",
    "choice_at",
    "file_path",
    "flag",
    "listed",
    "most",
    "number",
    "one_of",
    "order_name",
    "order_or_several",
    "orders_of",
    "place",
    "whole",
]

#: An order of the sampler's stages: its name, or a list of stages, their names and names of orders.
OrderLike: TypeAlias = str | Sequence[Any]

_LEAST, _MOST = -(2**63), 2**63 - 1


class PlaceError(RequestError, IndexError):
    """A position or a choice does not exist; also an `IndexError`, as a list would raise."""


def whole(name: str, value: Any, *, least: int = _LEAST, most: int | None = None) -> int:
    """An integer in [least, most]; not a bool, nor a float that is whole, which only the API's JSON may have."""
    if isinstance(value, float | np.floating):
        raise RequestError(f"{name} must be an integer, got {short(value)}", param=name)
    try:
        return check_integer(value, least, _MOST if least == _LEAST and most is None else most)
    except FieldError as bad:
        raise RequestError(f"{name} {bad}", param=name) from None


def most(top: Any) -> int | None:
    """How many of the most likely tokens; None for the whole vocabulary."""
    try:
        return None if top is None else whole("top", top, least=1)
    except RequestError as bad:
        raise RequestError(f"{bad.message}; None is the whole vocabulary", param="top") from None


def number(name: str, value: Any, low: float, high: float) -> float:
    """A number in [low, high]."""
    try:
        return check_number(value, low, high)
    except FieldError as bad:
        raise RequestError(f"{name} {bad}", param=name) from None


def file_path(value: Any, *, name: str = "path") -> Path:
    """The path of a file, with ~ expanded; not a number, and not bytes."""
    try:
        return Path(value).expanduser()
    except TypeError:
        raise RequestError(f"{name} must be the path of a file, got {short(value)}", param=name) from None


def flag(name: str, value: Any) -> bool:
    """True or False; other truthy values are refused."""
    if not isinstance(value, bool):
        raise RequestError(f"{name} must be True or False, got {short(value)}", param=name)
    return value


def one_of(name: str, value: Any, known: Iterable[str]) -> str:
    """One of some names."""
    names = list(known)
    if not isinstance(value, str) or value not in names:
        raise RequestError(f"{name} must be one of {', '.join(names)}, got {short(value)}", param=name)
    return value


def order_name(value: Any) -> str:
    """The key of an order of the sampler's stages, which is its name or a list of stages.

    A user's stages in it are known from then on, by their names and their fields.
    """
    return order_key(value)


def orders_of(name: str, value: Any) -> list[str]:
    """The keys of several orders, from a list of orders or a single one; a list of stages is one order."""
    found = order_or_several(name, value)
    return [found] if isinstance(found, str) else found


def order_or_several(name: str, value: Any) -> str | list[str]:
    """The key of one order, or the keys of a list of orders; a list of stages is one order."""
    if isinstance(value, str):
        return order_name(value)
    items = listed(name, value, of="orders")
    several = all(isinstance(item, list | str) and not is_stage(item) for item in items)
    return [order_name(item) for item in items] if several else order_name(items)


def place(position: Any, *, among: Sized, choice: int, after_last: bool = False) -> int:
    """Returns a position as an index from 0; a negative one counts from the end.

    Args:
        position: an integer.
        among: the tokens.
        choice: the choice that they belong to, for the error.
        after_last: whether the position after the last token is allowed.
    """
    T = len(among)
    at = whole("position", position)
    if not -T <= at < T + after_last:
        last = f"0..{T} (the last is the one after them)" if after_last else f"0..{T - 1}"
        there = f"{last}, or -1..-{T} from the end" if T else "0 alone" if after_last else "none"
        raise PlaceError(
            f"position {at} is outside the {T} tokens of choice {choice}; there is {there}", param="position"
        )
    return at + T if at < 0 else at


def choice_at(choice: Any, *, among: Sized) -> int:
    """The index of one of a result's choices, from 0."""
    at = whole("choice", choice)
    if not 0 <= at < len(among):
        n = len(among)
        there = f"; there is {'0 alone' if n == 1 else f'0..{n - 1}'}" if n else ""
        raise PlaceError(
            f"choice {at} is outside the {n} choice{'' if n == 1 else 's'} of this result{there}", param="choice"
        )
    return at


def listed(name: str, value: Any, *, of: str = "values") -> list[Any]:
    """Several values as a list, from a list, an array of one axis, a column, a range or any iterator."""
    single = isinstance(value, str | bytes | Mapping) or getattr(value, "ndim", 1) == 0
    if single or not isinstance(value, Iterable):
        raise RequestError(f"{name} must be a list of {of}, got {short(value)}", param=name)
    return list(value)


def check_lab(lab: Any) -> None:
    """A lab to tie something to, or None.

    Raises:
        RequestError: it is something else.
    """
    if lab is not None and not hasattr(lab, "backend"):
        raise RequestError(f"lab must be a Lab, such as llmlab.load gives, got {short(lab)}", param="lab")
