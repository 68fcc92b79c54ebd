"""Grammars for what vLLM calls structured outputs: a regular expression, a choice, a Lark grammar, or a JSON schema.

A caller that has a field such as `structured_outputs` uses this module like this:

    part = structured_part({"regex": "[0-9]{5}"})       # or choice=[...], grammar="start: ...", json={...}
    found = grammar(vocabulary, part, reasoning=before)  # llmlab.grammar.compose.grammar, as for any other part

- `structured_part(outputs)` takes the object as it comes and returns the part; `KINDS` are the keys that it knows.
- `regex_part`, `choice_part`, `lark_part` and `json_part` take one value each.

Whatever is wrong is a `GrammarError` that names the key (its `path`, such as "regex" or "json#/properties/a"), so that
a caller can write `f"structured_outputs.{error}"`, or `f"structured_outputs: {error}"` where `path` is empty. Errors
that only the vocabulary shows (a grammar that is too large for llguidance) are raised by `grammar`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from llmlab.errors import short
from llmlab.grammar.lark import checked_lark
from llmlab.grammar.parts import JSON, Choice, Lark, Literal, Part, Regex
from llmlab.grammar.patterns import to_rust, whole_match
from llmlab.grammar.vocabulary import GrammarError

__all__ = ["KINDS", "choice_part", "json_part", "lark_part", "regex_part", "structured_part"]

#: The longest regular expression and grammar, and the largest sum of the lengths of all choices, in characters.
LONGEST = 100_000


def structured_part(outputs: Mapping[str, Any]) -> Part:
    """The part for an object that has exactly one of the keys in `KINDS`; a key whose value is None counts as absent.

    Raises:
        GrammarError: no such key, more than one, a key that is not known, or a value that cannot be compiled.
    """
    given = {key: value for key, value in outputs.items() if value is not None}
    unknown = [key for key in given if key not in KINDS]
    if unknown:
        raise GrammarError(f"unknown key; write one of {', '.join(KINDS)}", path=str(unknown[0]))
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise GrammarError(f"give exactly one of {', '.join(KINDS)}; got {found}")
    ((key, value),) = given.items()
    return KINDS[key](value)


def regex_part(pattern: Any) -> Part:
    """The part for a text that as a whole matches a regular expression; anchors at its ends change nothing.

    Raises:
        GrammarError: not a regular expression, or one with a look-around, a back reference or an anchor inside.
    """
    from llguidance import regex_to_lark

    text = _text(pattern, "regex")
    try:
        # In the other order an anchor could be mistaken for a part of a class, which `to_rust` may rewrite.
        return Regex(regex_to_lark(whole_match(to_rust(text), "regex", search=False), "dw"), path="regex")
    except ValueError as error:
        if isinstance(error, GrammarError):
            raise
        raise GrammarError(f"{short(text)} is not a regular expression ({error})", path="regex") from None


def choice_part(choices: Any) -> Part:
    """The part for exactly one of several texts.

    Raises:
        GrammarError: not a list of texts, or an empty one.
    """
    if not isinstance(choices, list | tuple) or not choices:
        raise GrammarError(f"must be a list of at least one text, got {short(choices)}", path="choice")
    texts = [_text(choice, f"choice[{index}]") for index, choice in enumerate(choices)]
    if sum(map(len, texts)) > LONGEST:
        raise GrammarError(f"the choices have more than {LONGEST} characters together", path="choice")
    return Choice([Literal(text) for text in dict.fromkeys(texts)])


def lark_part(source: Any) -> Part:
    """The part for a text that follows a grammar in llguidance's dialect of Lark.

    Raises:
        GrammarError: not a grammar, or one that uses something that cannot be enforced here.
    """
    return Lark(checked_lark(_text(source, "grammar"), "grammar"), path="grammar")


def json_part(schema: Any) -> Part:
    """The part for JSON that is valid under a schema, which may be given as JSON text.

    Raises:
        GrammarError: not a schema, or one that cannot be enforced.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(_text(schema, "json"))
        except ValueError as error:
            raise GrammarError(f"the text is not JSON: {error}", path="json") from None
    return JSON(schema, path="json")


def _text(value: Any, path: str) -> str:
    """The value, if it is a text that can be generated."""
    if not isinstance(value, str):
        raise GrammarError(f"must be a text, got {short(value)}", path=path)
    if len(value) > LONGEST:
        raise GrammarError(f"has {len(value)} characters; at most {LONGEST} are supported", path=path)
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise GrammarError("holds half of a surrogate pair, which no text can hold", path=path)
    return value


#: What can be asked for, each with the function that makes its part.
KINDS: dict[str, Callable[[Any], Part]] = {
    "json": json_part,
    "regex": regex_part,
    "choice": choice_part,
    "grammar": lark_part,
}
