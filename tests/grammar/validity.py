"""Whether a text is JSON and valid under a schema, according to the jsonschema library.

Formats for which jsonschema needs another package are checked with the standard library.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from jsonschema import FormatChecker
from jsonschema.validators import Draft202012Validator, validator_for

FORMATS = FormatChecker()


def _string_format(name: str, check: Callable[[str], Any]) -> None:
    """Let the format mean this check of strings; a value of another type has every format."""
    FORMATS.checks(name, ValueError)(lambda value: not isinstance(value, str) or bool(check(value)))


_string_format("date", lambda value: datetime.date.fromisoformat(value) and len(value) == 10)
_string_format("time", lambda value: datetime.time.fromisoformat(value).tzinfo is not None)
_string_format("date-time", lambda value: datetime.datetime.fromisoformat(value).tzinfo is not None)
_string_format("uri", lambda value: bool(urlsplit(value).scheme) and value.isascii() and " " not in value)
_string_format("hostname", lambda value: all(re.fullmatch("[A-Za-z0-9-]{1,63}", part) for part in value.split(".")))
_string_format("duration", lambda value: re.fullmatch(r"P(?!$)(\d+[YMWD])*(T(\d+[HMS])+)?", value) is not None)


def problem(text: str, schema: Any) -> str | None:
    """What is wrong with a text; None if nothing is."""
    try:
        # Decimals, because 0.07 is no multiple of 0.01 to a float.
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except ValueError as error:
        return f"not JSON: {error}"
    exact = json.loads(json.dumps(schema), parse_float=Decimal)
    validator = validator_for(exact, default=Draft202012Validator)(exact, format_checker=FORMATS)
    errors = [error.message for error in validator.iter_errors(value)]
    return errors[0] if errors else None


def _finite(text: str) -> Decimal:
    if float(text) in (float("inf"), float("-inf")):
        raise ValueError(f"{text} overflows")
    return Decimal(text)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
