"""A function's arguments as pairs of tags: strings as they are, every other value as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llmlab.grammar.compose import Choice, Optional, Part, Place, Raw, Series, Text
from llmlab.grammar.disjoint import allowed_values, types
from llmlab.grammar.objects import count_keywords, counts, properties
from llmlab.grammar.places import Alternative, Document, Site
from llmlab.grammar.scalars import PATTERNS, string
from llmlab.grammar.vocabulary import GrammarError

__all__ = ["pairs"]


def pairs(schema: Any, *, tags: tuple[str, str, str], is_text: Callable[[str], bool], without: tuple[str, ...]) -> Part:
    """The arguments of a function whose parameters have this schema, in the schema's order.

    Args:
        schema: of the parameters, an object's.
        tags: what comes before a name, between name and value, and after the value.
        is_text: whether a value stands there as it is, by the parameter's name.
        without: what must not stand in a text.

    Raises:
        GrammarError: what cannot be enforced.
    """
    document = Document(schema)
    ways = [way for way in document.alternatives([document.root]) if "object" in types(way)]
    if not ways:
        raise GrammarError("the parameters of a function are an object", path="#")
    return Choice([_object(document, way, tags, is_text, without) for way in ways])


def _object(
    document: Document,
    way: Alternative,
    tags: tuple[str, str, str],
    is_text: Callable[[str], bool],
    without: tuple[str, ...],
) -> Part:
    path = way[0].path if way else "#"
    found = properties(way)._replace(patterns={}, others=None)
    left = count_keywords(found, *counts(way), path)
    if left or allowed_values(way) is not None:
        named = " and ".join(left) or "enum"
        raise GrammarError(f"{named} cannot be enforced for this model, which writes arguments one by one", path=path)
    before, between, after = tags
    parts: list[Part] = []
    for name, sites in found.named.items():
        value = (
            _text(document, sites, after, without) if is_text(name) else Series((Place(document, sites), Text(after)))
        )
        pair = Series((Text(f"{before}{name}{between}"), value))
        parts.append(pair if name in found.required else Optional(pair))
    return Series(parts)


def _text(document: Document, sites: list[Site], after: str, without: tuple[str, ...]) -> Part:
    """A string as it is, with what follows it."""
    end = after.rstrip()
    options: list[Part] = []
    for way in document.alternatives(sites):
        values = allowed_values(way)
        if values is not None:
            fitting = [value for value in values if isinstance(value, str)]
            if any(word in value for value in fitting for word in (end, *without)):
                raise GrammarError("a value holds the tags of this model's tool calls", path=way[0].path)
            options += [Text(value + after) for value in fitting]
        elif "string" in types(way):
            options.append(Series((Raw(end, without, tuple(_patterns(way))), Text(after[len(end) :]))))
    if not options:
        raise GrammarError("nothing is valid under this schema", path=sites[0].path if sites else "#")
    return Choice(options)


def _patterns(way: Alternative) -> Iterator[str]:
    from llguidance import regex_to_lark

    if not way:
        return
    path = way[0].path
    made = string([site.schema for site in way], path)
    if "minLength" in made or "maxLength" in made:
        yield f"(?s:.{{{made.get('minLength', 0)},{made.get('maxLength', '')}}})"
    for condition in [made, *made.get("allOf", ())]:
        if "pattern" in condition:
            yield regex_to_lark(whole_match(condition["pattern"], path), "dw")
        if "format" in condition:
            raise GrammarError(
                f"the format {condition['format']!r} cannot be enforced for this model, which writes strings without "
                f"quotes; {', '.join(sorted(PATTERNS))} can",
                path=path,
            )


def whole_match(pattern: str, path: str) -> str:
    """A pattern that matches somewhere in a text, as one without anchors that matches the whole text.

    Raises:
        GrammarError: an anchor anywhere but at an end of the pattern or of one of its outermost alternatives.
    """
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
    made = []
    for begin, end in branches:
        branch = pattern[begin:end]
        first, last = branch.startswith("^"), branch.endswith("$") and not branch.endswith("\\$")
        inner = branch[first : len(branch) - last]
        made.append(f"{'' if first else '(?s:.*)'}(?:{inner}){'' if last else '(?s:.*)'}")
    return "|".join(made) if len(made) == 1 else f"(?:{'|'.join(made)})"


def _ends(pattern: str, at: int) -> bool:
    return pattern[at + 1 : at + 2] in ("", "|")
