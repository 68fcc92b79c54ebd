"""The grammar of a function's arguments that are written as tags around names and values, as GLM-4.5 does.

A string value is written without quotes and escapes, every other value as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llmlab.grammar.containers import count_keywords, property_counts
from llmlab.grammar.document import Document
from llmlab.grammar.objects import object_properties
from llmlab.grammar.parts import Choice, JSONAt, Optional, Part, Raw, Series, Text
from llmlab.grammar.patterns import whole_match
from llmlab.grammar.scalars import FORMAT_PATTERNS, merged_string
from llmlab.grammar.subschema import Alternative, Subschema
from llmlab.grammar.values import allowed_types, allowed_values
from llmlab.grammar.vocabulary import GrammarError

__all__ = ["string_patterns", "tagged_arguments"]


def tagged_arguments(
    schema: Any, *, tags: tuple[str, str, str], is_text: Callable[[str], bool], without: tuple[str, ...]
) -> Part:
    """The arguments of a function whose parameters have this schema, in the schema's order.

    Args:
        schema: the JSON schema of the parameters, an object.
        tags: the texts before a name, between a name and its value, and after the value.
        is_text: whether the value of the parameter with this name is a string that is written without quotes.
        without: texts that must not occur in such a string.

    Raises:
        GrammarError: a keyword or a combination that cannot be enforced in this syntax.
    """
    document = Document(schema)
    objects = [one for one in document.alternatives([document.root]) if "object" in allowed_types(one)]
    if not objects:
        raise GrammarError("the parameters of a function must be an object", path="#")
    return Choice([_object(document, alternative, tags, is_text, without) for alternative in objects])


def _object(
    document: Document,
    alternative: Alternative,
    tags: tuple[str, str, str],
    is_text: Callable[[str], bool],
    without: tuple[str, ...],
) -> Part:
    """All arguments, under one alternative of the parameters' schema."""
    path = alternative[0].path if alternative else "#"
    properties = object_properties(document, alternative, path)._replace(patterns={}, additional=None)
    unenforced = count_keywords(properties, *property_counts(alternative), path)
    if unenforced or allowed_values(alternative) is not None:
        named = " and ".join(unenforced) or "enum"
        raise GrammarError(f"{named} cannot be enforced for this model, which writes arguments one by one", path=path)
    before, between, after = tags
    parts: list[Part] = []
    for name, subschemas in properties.named.items():
        if any(subschema.schema is False for subschema in subschemas):
            if name in properties.required:
                raise GrammarError(f"the required property {name!r} cannot be valid", path=path)
            continue
        if is_text(name):
            value = _text(document, subschemas, after, without)
        else:
            value = Series((JSONAt(document, subschemas), Text(after)))
        argument = Series((Text(f"{before}{name}{between}"), value))
        parts.append(argument if name in properties.required else Optional(argument))
    return Series(parts)


def _text(document: Document, subschemas: list[Subschema], after: str, without: tuple[str, ...]) -> Part:
    """A string without quotes, and the tag after it."""
    end = after.rstrip()
    options: list[Part] = []
    for alternative in document.alternatives(subschemas):
        values = allowed_values(alternative)
        if values is not None:
            fitting = [value for value in values if isinstance(value, str)]
            if any(word in value for value in fitting for word in (end, *without)):
                raise GrammarError("a value contains the tags of this model's tool calls", path=alternative[0].path)
            options += [Text(value + after) for value in fitting]
        elif "string" in allowed_types(alternative):
            options.append(Series((Raw(end, without, tuple(_patterns(alternative))), Text(after[len(end) :]))))
    if not options:
        raise GrammarError("nothing is valid under this schema", path=subschemas[0].path if subschemas else "#")
    return Choice(options)


def _patterns(alternative: Alternative) -> Iterator[str]:
    """Regular expressions without anchors, each of which the whole string must match."""
    if alternative:
        path = alternative[0].path
        yield from string_patterns(merged_string([subschema.schema for subschema in alternative], path), path)


def string_patterns(made: dict[str, Any], path: str) -> Iterator[str]:
    """Regular expressions without anchors for a string without quotes, each of which must match all of it.

    Args:
        made: what is asked of the string, from `merged_string`.
        path: the place in the schema.

    Raises:
        GrammarError: a format that only a JSON string can be checked for.
    """
    from llguidance import regex_to_lark

    if "minLength" in made or "maxLength" in made:
        yield f"(?s:.{{{made.get('minLength', 0)},{made.get('maxLength', '')}}})"
    for condition in [made, *made.get("allOf", ())]:
        if "pattern" in condition:
            yield regex_to_lark(whole_match(condition["pattern"], path), "dw")
        if "format" in condition:
            raise GrammarError(
                f"the format {condition['format']!r} cannot be enforced for this model, which writes strings without "
                f"quotes; {', '.join(sorted(FORMAT_PATTERNS))} can",
                path=path,
            )
