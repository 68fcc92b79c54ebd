"""Objects and arrays at which several schemas meet: what holds of each property and of each item."""

from __future__ import annotations

from typing import Any, NamedTuple

from llmlab.grammar.patterns import matches
from llmlab.grammar.places import Site
from llmlab.grammar.vocabulary import GrammarError


class Properties(NamedTuple):
    """An object: the schemas that hold for each name, each pattern, and any other name; `others` None: no others."""

    named: dict[str, list[Site]]
    patterns: dict[str, list[Site]]
    others: list[Site] | None
    required: list[str]


class Items(NamedTuple):
    """An array: the schemas of its first items, and of those that follow; `others` None: none follow."""

    first: list[list[Site]]
    others: list[Site] | None
    least: int
    most: int | None


def properties(schemas: list[Site]) -> Properties:
    """The objects of several plain schemas.

    An object that names its properties and says nothing of others has no others: everything valid under that reading
    is valid, and a model at a loss does not go on inventing names.
    """
    required = list(dict.fromkeys(name for site in schemas for name in site.schema.get("required", ())))
    names = dict.fromkeys(name for site in schemas for name in site.schema.get("properties", ()))
    closed = any("properties" in site.schema or "patternProperties" in site.schema for site in schemas)
    patterns = dict.fromkeys(pattern for site in schemas for pattern in site.schema.get("patternProperties", ()))
    named = {name: [found for site in schemas for found in _of_name(site, name)] for name in [*names, *required]}
    matching = {pattern: [found for site in schemas for found in _of_pattern(site, pattern)] for pattern in patterns}
    told = [site.at("additionalProperties") for site in schemas if "additionalProperties" in site.schema]
    others = None if closed and not told or any(site.schema is False for site in told) else told
    return Properties(named, matching, others, required)


def _of_name(site: Site, name: str) -> list[Site]:
    found = [site.at("properties", name)] if name in site.schema.get("properties", ()) else []
    found += [
        site.at("patternProperties", pattern)
        for pattern in site.schema.get("patternProperties", ())
        if _matches(pattern, name, site.path)
    ]
    if not found and "additionalProperties" in site.schema:
        found.append(site.at("additionalProperties"))
    return found


def _of_pattern(site: Site, pattern: str) -> list[Site]:
    if pattern in site.schema.get("patternProperties", ()):
        return [site.at("patternProperties", pattern)]
    return [site.at("additionalProperties")] if "additionalProperties" in site.schema else []


def _matches(pattern: str, name: str, path: str) -> bool:
    try:
        return matches(pattern, name)
    except ValueError as error:
        raise GrammarError(f"patternProperties: {pattern!r} is no regular expression ({error})", path=path) from None


def items(schemas: list[Site]) -> Items:
    """The arrays of several plain schemas. Where the first items have schemas of their own and nothing is said of
    others, there are none, as with properties."""
    firsts, tails = [], []
    for site in schemas:
        # Before draft 2020-12 a list of schemas was `items`, and `additionalItems` what follows them.
        old = isinstance(site.schema.get("items"), list | tuple)
        keyword, tail = ("items", "additionalItems") if old else ("prefixItems", "items")
        firsts.append([site.at(keyword, i) for i in range(len(site.schema.get(keyword, ())))])
        tails.append(site.at(tail) if tail in site.schema else None)
    longest = max(map(len, firsts), default=0)
    first = [
        [own[i] if i < len(own) else tail for own, tail in zip(firsts, tails, strict=True) if i < len(own) or tail]
        for i in range(longest)
    ]
    least = max((int(site.schema["minItems"]) for site in schemas if "minItems" in site.schema), default=0)
    most = min((int(site.schema["maxItems"]) for site in schemas if "maxItems" in site.schema), default=None)
    told = [tail for tail in tails if tail is not None]
    none = any(tail.schema is False for tail in told) or (longest > 0 and not told and least <= longest)
    return Items([[s for s in sites if s is not None] for sites in first], None if none else told, least, most)


def counts(schemas: list[Site]) -> tuple[int, int | None]:
    """minProperties and maxProperties."""
    least = max((int(site.schema["minProperties"]) for site in schemas if "minProperties" in site.schema), default=0)
    most = min((int(site.schema["maxProperties"]) for site in schemas if "maxProperties" in site.schema), default=None)
    return least, most


def count_keywords(found: Properties, least: int, most: int | None, path: str) -> dict[str, Any]:
    """What llguidance needs to know of how many properties there are.

    Raises:
        GrammarError: what it cannot enforce: it counts names without looking whether one comes twice.
    """
    optional = len(found.named) - len(found.required)
    open_ended = found.others is not None or bool(found.patterns)
    kept: dict[str, Any] = {}
    if least > len(found.required):
        kept["minProperties"] = least
    if most is not None and (open_ended or most < len(found.named)):
        kept["maxProperties"] = most
    if not kept:
        return kept
    wanted = least - len(found.required)
    single = wanted <= 1 and most in (None, len(found.required) + 1)
    if wanted > 1 and open_ended:
        raise GrammarError("minProperties above 1 cannot be enforced: one name may come twice", path=path)
    if optional and (open_ended or not single):
        raise GrammarError(
            f"{' and '.join(kept)} cannot be enforced where some of the named properties are optional", path=path
        )
    return kept
