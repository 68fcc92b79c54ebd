"""What the programs are asked, and how they report: each case's outcome as JSON on the last line of the output.

It runs in the programs' own environment, and is imported by the tests as well, so it needs the standard library only.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

MODEL = "demo"
ANIMAL = "Name an animal."
STORY = "Tell me a short story."
WEATHER = "What is the weather in Oslo?"
PERSON = "Ada is 36 years old. Who is it?"
BEGINNING = "Once upon a time"
CITY_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather in a city.", "parameters": CITY_SCHEMA},
}

_CASES: dict[str, Callable[[], Any]] = {}


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    """Adds a case under the function's name; what it returns is JSON."""
    _CASES[function.__name__] = function
    return function


def url() -> str:
    """The address of the API."""
    return sys.argv[1]


def report() -> None:
    """Runs all cases and prints what each returned, or how it failed."""
    found = {}
    for name, function in _CASES.items():
        try:
            found[name] = {"said": function()}
        except Exception:
            found[name] = {"failed": traceback.format_exc()}
    print("\n" + json.dumps(found))
