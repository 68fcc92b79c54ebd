"""Parses a request's body into fields, or raises one clear error.

It refuses what Python's JSON reader accepts and no request should hold: duplicate keys, NaN and infinities, numbers
with thousands of digits. The values of fields are checked by the request itself, as in Python. Where the body as a
whole is wrong, the error's `param` is "body".
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from llmlab.errors import RequestError, short

#: The most bytes of a body.
MAX_BYTES = 8 * 2**20

#: The most characters of a field's name, since an error repeats the name.
MAX_NAME = 100

#: The `param` of an error about the body as a whole.
WHOLE = "body"


def check_headers(*, content_type: str | None, content_encoding: str | None) -> None:
    """Refuses a body whose headers do not say plain JSON.

    A web page can make a browser send requests to a server on loopback, but not with this content type.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        got = f"got {short(content_type)}" if content_type else "got none"
        raise RequestError(f"the Content-Type must be application/json, {got}", param=WHOLE)
    if (content_encoding or "identity").strip().lower() != "identity":
        raise RequestError(
            f"the body must not be compressed, got the Content-Encoding {short(content_encoding)}", param=WHOLE
        )


def parse(data: bytes) -> dict[str, Any]:
    """Returns the fields of a request.

    Raises:
        RequestError: the body is not JSON, not an object, or has an object with a duplicate key.
    """
    twice: list[_Twice] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice.append(_Twice(pairs))
            return twice[-1]
        return found

    try:
        fields = json.loads(data.decode("utf-8"), object_pairs_hook=build, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8: {error.reason} at byte {error.start}", param=WHOLE) from None
    except RecursionError:
        raise RequestError("the body is nested too deep", param=WHOLE) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise RequestError(f"the body is not JSON: {error.msg} at {where}", param=WHOLE) from None
    except ValueError as error:  # a number with more digits than Python reads, or NaN
        raise RequestError(f"the body is not JSON: {str(error).partition(';')[0]}", param=WHOLE) from None
    if not isinstance(fields, dict):
        raise RequestError(f"the body must be a JSON object, got {_KINDS[type(fields)]}", param=WHOLE)
    for name in fields:
        if len(name) > MAX_NAME:
            raise RequestError(f"unknown field: its name has {len(name)} characters", param=WHOLE)
    if twice:
        raise _ambiguous(fields, twice[0])
    return fields


_KINDS = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "a boolean", type(None): "null"}


class _Twice(dict[str, Any]):
    """An object with a duplicate key; JSON readers differ in which of the two values they take."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)


def _ambiguous(fields: dict[str, Any], bad: _Twice) -> RequestError:
    if bad is fields:
        return RequestError(f"{short(bad.key)} stands twice in the body", param=bad.key[:MAX_NAME])
    name = next((name for name, value in fields.items() if _holds(value, bad)), WHOLE)
    return RequestError(f"{name} has the key {short(bad.key)} twice in one object", param=name)


def _holds(value: Any, wanted: _Twice) -> bool:
    """Whether `wanted` lies anywhere in `value`. Not recursive, because the depth is not checked yet."""
    left = [value]
    while left:
        inner = left.pop()
        if inner is wanted:
            return True
        left.extend(inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else ())
    return False


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")
