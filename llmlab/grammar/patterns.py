r"""Regular expressions of JSON schemas as llguidance is to read them: in Rust's syntax, and without its surprises.

- Inside a class, `[`, `&&`, `~~` and `--` are characters like any other to JSON schema, and operators to Rust.
- Readers do not agree on whether é is matched by `\W`, and ٣ by `\D`: neither is written there.
- Of a class with every control character in it (`[^"\\]`), llguidance takes quotation marks to be a part. `\x01` is
  never written in a string, so that taking it out of all classes changes nothing else.
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["WRITABLE", "matches", "reaches_control", "rust"]

#: What a string can hold: of the control characters, those that JSON has a short escape for.
WRITABLE = r"^[^\x00-\x07\x0b\x0e-\x1f]*$"

_TOKEN = re.compile(r"\\.|\[\^?|.", re.DOTALL)
#: What may stand for a control character, or for a range of them.
_CONTROL = re.compile(r"\\x[01]|\\u00[01]|\\u\{0*1?[0-9a-fA-F]\}|\\0|\\c|\\p|[\x00-\x1f]")
#: What some reader or other takes for a word character, or for a digit.
_WIDE = {r"\w": r"\w\p{L}\p{M}\p{N}\p{Pc}", r"\d": r"\d\p{Nd}"}
_NEITHER = {name.upper(): f"[^{wide}]" for name, wide in _WIDE.items()}


def rust(pattern: str) -> str:
    """The expression in Rust's syntax; it matches nothing that the given one does not."""
    out: list[str] = []
    body: list[str] | None = None  # of the class that is open
    opening = ""
    for token in _TOKEN.findall(pattern):
        if body is None:
            if token[0] == "[":
                body, opening = [], token
            else:
                out.append(_NEITHER.get(token, token))
        elif token != "]" or not body:
            body.append(_inside(token, body, negated=opening == "[^"))
        else:
            out.append(_whole(opening, "".join(body)))
            body = None
    return "".join(out) if body is None else pattern  # a class without an end is llguidance's to refuse


@lru_cache(maxsize=4096)
def matches(pattern: str, text: str) -> bool:
    """Whether an expression matches somewhere in a text, as llguidance reads it.

    Python's own `re` can take forever over an expression such as `^(a+)+$`, and holds up everything else meanwhile.

    Raises:
        ValueError: it is no expression.
    """
    from llguidance import LLMatcher

    schema = {"type": "string", "enum": [text], "pattern": rust(pattern)}
    told = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema)).strip()
    if told and not told.startswith("Unsatisfiable"):
        raise ValueError(told.splitlines()[-1].removeprefix("error: "))
    return not told


def reaches_control(pattern: str) -> bool:
    """Whether an expression speaks of control characters, so that there may be no string for it."""
    return _CONTROL.search(pattern) is not None


def _inside(token: str, body: list[str], *, negated: bool) -> str:
    if token in ("[", "[^", "]", "&", "~") or (token == "-" and body and body[-1] == "-"):
        return "".join(f"\\{character}" for character in token)
    return _WIDE.get(token, token) if negated else token


def _whole(opening: str, body: str) -> str:
    if opening == "[^":
        return rf"[^\x01{body}]"
    return rf"[{body}&&[^\x01]]" if reaches_control(body) else f"[{body}]"
