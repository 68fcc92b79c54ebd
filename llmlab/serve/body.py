"""From the bytes of a request's body to the fields of a `ChatRequest`, or to one clear error.

What JSON's own reader lets through and no request should hold ends here: the same key twice, NaN and the infinities,
numbers without end. What a field may hold is checked by the request itself, the same from Python. Where the body as a
whole is to blame, the error's `param` is "body".
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from llmlab.errors import RequestError, short

#: Bytes that a request's body may have.
MAX_BYTES = 8 * 2**20

#: Characters that a field's name may have; it comes back in the error that names it.
MAX_NAME = 100

#: The `param` of an error that is about the body as a whole.
WHOLE = "body"


def check_headers(*, content_type: str | None, content_encoding: str | None) -> None:
    """Refuse a body that is not said to be plain JSON.

    A page on the web may send anybody's browser to a server on loopback, but not with this content type.
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
    """The fields of a request.

    Raises:
        RequestError: not JSON, not an object, or an object with a key that stands twice.
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
    except ValueError as error:  # a number of more digits than Python reads, or none at all
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
    """An object in which a key stood twice; readers differ in which of the two they take."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)


def _ambiguous(fields: dict[str, Any], bad: _Twice) -> RequestError:
    if bad is fields:
        return RequestError(f"{short(bad.key)} stands twice in the body", param=bad.key[:MAX_NAME])
    name = next((name for name, value in fields.items() if _holds(value, bad)), WHOLE)
    return RequestError(f"{name} has the key {short(bad.key)} twice in one object", param=name)


def _holds(value: Any, wanted: _Twice) -> bool:
    """Whether it lies somewhere in there; not recursive, since nobody has checked the depth yet."""
    left = [value]
    while left:
        inner = left.pop()
        if inner is wanted:
            return True
        left.extend(inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else ())
    return False


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")
