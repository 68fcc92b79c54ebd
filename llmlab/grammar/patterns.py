r"""Regular expressions of JSON schemas, translated to the Rust syntax that llguidance reads.

Three differences are taken care of:

- Inside a character class, `[`, `&&`, `~~` and `--` are plain characters in JSON Schema and operators in Rust.
- Regular-expression engines disagree on whether `\W` matches é and whether `\D` matches ٣: neither is generated there.
- llguidance lets a class that contains every control character (such as `[^"\\]`) match quotation marks too. `\x01` is
  never generated in a string, so removing it from all classes avoids this and changes nothing else.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from llmlab.grammar.regular import ExpressionError, language
from llmlab.grammar.vocabulary import GrammarError

__all__ = ["WRITABLE", "admits_text", "enforced_pattern", "matches", "mentions_control", "to_rust", "whole_match"]

#: Strings that can be generated: of the control characters, only those for which JSON has a short escape.
WRITABLE = r"^[^\x00-\x07\x0b\x0e-\x1f]*$"

_TOKEN = re.compile(r"\\.|\[\^?|.", re.DOTALL)
#: Parts of an expression that may denote a control character or a range of them.
_CONTROL = re.compile(r"\\x[01]|\\u00[01]|\\u\{0*1?[0-9a-fA-F]\}|\\0|\\c|\\p|[\x00-\x1f]")
#: Characters that at least one engine takes for a word character, or for a digit.
_WIDE = {r"\w": r"\w\p{L}\p{M}\p{N}\p{Pc}", r"\d": r"\d\p{Nd}"}
_NEITHER = {name.upper(): f"[^{wide}]" for name, wide in _WIDE.items()}


def to_rust(pattern: str) -> str:
    """The expression in Rust's syntax. It matches nothing that the given expression does not match."""
    out: list[str] = []
    body: list[str] | None = None  # the tokens of the character class that is open, if one is
    opening = ""
    for token in _TOKEN.findall(pattern):
        if body is None:
            if token[0] == "[":
                body, opening = [], token
            else:
                out.append(_NEITHER.get(token, token))
        elif token != "]" or not body:
            body.append(_class_token(token, body, negated=opening == "[^"))
        else:
            out.append(_character_class(opening, "".join(body)))
            body = None
    return "".join(out) if body is None else pattern  # llguidance refuses a class without an end


def enforced_pattern(pattern: str) -> str:
    """The expression in Rust's syntax, without look-aheads: those are resolved where they can be."""
    if "(?=" in pattern or "(?!" in pattern:
        try:
            return language(pattern).expression()
        except ExpressionError:
            pass  # llguidance's own error names what is wrong
    return to_rust(pattern)


@lru_cache(maxsize=4096)
def matches(pattern: str, text: str) -> bool:
    """Whether an expression matches somewhere in a text, as llguidance reads it.

    Python's own `re` needs exponential time for an expression such as `^(a+)+$` and blocks all threads meanwhile.

    Raises:
        ValueError: the pattern is not a valid regular expression.
    """
    told = _refusal({"type": "string", "enum": [text], "pattern": enforced_pattern(pattern)})
    if told and not told.startswith("Unsatisfiable"):
        raise ValueError(told.splitlines()[-1].removeprefix("error: "))
    return not told


def admits_text(schema: dict[str, str], text: str) -> bool:
    """Whether llguidance accepts a text under a plain schema of a string."""
    return not _refusal({"type": "string", "enum": [text], **schema})


def _refusal(schema: dict[str, Any]) -> str:
    from llguidance import LLMatcher

    return LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema)).strip()


def mentions_control(pattern: str) -> bool:
    """Whether an expression mentions control characters, so that perhaps no string can be generated for it."""
    return _CONTROL.search(pattern) is not None


def whole_match(pattern: str, path: str, *, search: bool = True) -> str:
    """A pattern without anchors that matches a whole text exactly if `pattern` matches somewhere in it.

    Args:
        pattern: a regular expression.
        path: the JSON pointer of its schema, for the error.
        search: whether `pattern` may match a part of the text; False if it must match the whole text anyway.

    Raises:
        GrammarError: an anchor that is not at an end of the pattern or of one of its outermost alternatives.
    """
    # The bounds of the outermost alternatives; `inside` says whether `at` is in a character class.
    branches, start, depth, inside, at = [], 0, 0, False, 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += 1
        elif inside:
            inside = character != "]"
        elif character == "[":
            inside = True
            at += pattern[at + 1 : at + 2] == "^"
            at += pattern[at + 1 : at + 2] == "]"
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "|" and depth == 0:
            branches.append((start, at))
            start = at + 1
        elif character in "^$" and not (depth == 0 and (at == start if character == "^" else _ends(pattern, at))):
            raise GrammarError(f"pattern: {pattern!r} has an anchor inside, which cannot be enforced", path=path)
        at += 1
    branches.append((start, len(pattern)))
    made, rest = [], "(?s:.*)" if search else ""
    for begin, end in branches:
        branch = pattern[begin:end]
        first, last = branch.startswith("^"), branch.endswith("$") and not branch.endswith("\\$")
        inner = branch[first : len(branch) - last]
        made.append(f"{'' if first else rest}(?:{inner}){'' if last else rest}")
    return "|".join(made) if len(made) == 1 else f"(?:{'|'.join(made)})"


def _ends(pattern: str, at: int) -> bool:
    """Whether the character at this place is the last of an outermost alternative."""
    return pattern[at + 1 : at + 2] in ("", "|")


def _class_token(token: str, body: list[str], *, negated: bool) -> str:
    """A token of a character class in Rust's syntax; `body` holds the tokens before it."""
    if token in ("[", "[^", "]", "&", "~") or (token == "-" and body and body[-1] == "-"):
        return "".join(f"\\{character}" for character in token)
    return _WIDE.get(token, token) if negated else token


def _character_class(opening: str, body: str) -> str:
    r"""A whole character class, without `\x01`."""
    if opening == "[^":
        return rf"[^\x01{body}]"
    return rf"[{body}&&[^\x01]]" if mentions_control(body) else f"[{body}]"
