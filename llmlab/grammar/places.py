"""What one place of a JSON document is asked to be: the schemas that meet there, references followed.

JSON Schema lets any number of schemas hold of one value: beside each other, through `allOf`, through `$ref`. Here they
are laid flat: a place has *alternatives* (one for each way through its `anyOf` and `oneOf`), and an alternative is a
list of plain schemas, without any such keyword, all of which hold.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote

from llmlab.grammar.keywords import APPLICATORS, ENFORCED, check
from llmlab.grammar.vocabulary import GrammarError

#: More ways than these through the `anyOf`s and `oneOf`s that meet in one place are refused.
MOST_ALTERNATIVES = 256
#: More comparisons of branches than these, over all of a schema's `oneOf`s, are refused.
MOST_COMPARISONS = 200_000
#: Deeper schemas than this are refused: both this and llguidance's reader go down by recursion.
DEEPEST = 60


class Site(NamedTuple):
    """A schema and where it stands."""

    schema: Any
    path: str

    def at(self, *keys: str | int) -> Site:
        """The schema that lies further in."""
        schema, path = self
        for key in keys:
            schema = schema[key]
            path += "/" + str(key).replace("~", "~0").replace("/", "~1")
        return Site(schema, path)


#: Plain schemas that hold together.
Alternative: TypeAlias = list[Site]

#: The schema that nothing is valid under, as a plain one.
NOTHING: dict[str, Any] = {"enum": []}


class Document:
    """A schema whose references can be followed.

    Raises:
        GrammarError: by every method, for a keyword that cannot be enforced and a reference that leads nowhere.
    """

    def __init__(self, root: Any) -> None:
        if not isinstance(root, bool | dict):
            raise GrammarError("a schema is an object or a boolean", path="#")
        self.root = Site(root, "#")
        self._comparisons = 0
        self._anchors = {f"#{name}": site for name, site in _anchors(self.root)}

    def follow(self, reference: str, path: str) -> Site:
        """What a `$ref` points at."""
        if reference in self._anchors:
            return self._anchors[reference]
        if reference.rstrip("/") == "#":
            return self.root
        site = self.root
        try:
            if not reference.startswith("#/"):
                raise KeyError
            for part in unquote(reference[2:]).split("/"):
                key = part.replace("~1", "/").replace("~0", "~")
                site = site.at(int(key) if isinstance(site.schema, list | tuple) else key)
        except (KeyError, IndexError, ValueError, TypeError):
            raise GrammarError(f"$ref {reference!r} leads nowhere inside this schema", path=path) from None
        if not isinstance(site.schema, bool | dict):
            raise GrammarError(f"$ref {reference!r} leads to something that is no schema", path=path)
        return site

    def reference(self, site: Site) -> Site | None:
        """What a schema that is a `$ref` and no more stands for; None for any other schema."""
        seen = set()
        found = None
        while (target := self._only_reference(found or site)) is not None:
            found = target
            if found.path in seen:
                raise GrammarError("$ref leads in a circle", path=site.path)
            seen.add(found.path)
        return found

    def union(self, site: Site) -> list[Site] | None:
        """The branches of a schema that is an `anyOf` and no more; None for any other schema."""
        if not isinstance(site.schema, dict) or not isinstance(site.schema.get("anyOf"), list | tuple):
            return None
        check(site.schema, site.path)
        if site.schema.keys() & ENFORCED.keys() != {"anyOf"}:
            return None
        return [site.at("anyOf", i) for i in range(len(site.schema["anyOf"]))]

    def alternatives(self, sites: list[Site], _inside: frozenset[str] = frozenset()) -> list[Alternative]:
        """The alternatives of a place at which all these schemas hold."""
        found: list[Alternative] = [[]]
        for site in sites:
            found = _both(found, self._of(site, _inside), site.path)
        return found

    def _of(self, site: Site, inside: frozenset[str]) -> list[Alternative]:
        schema, path = site
        if isinstance(schema, bool):
            return [[]] if schema else [[Site(NOTHING, path)]]
        check(schema, path)
        if len(inside) > DEEPEST:
            raise GrammarError(f"schemas lie more than {DEEPEST} deep in each other", path=path)
        plain = {key: value for key, value in schema.items() if key in ENFORCED and key not in APPLICATORS}
        found: list[Alternative] = [[Site(plain, path)]] if plain else [[]]
        if "$ref" in schema:
            target = self.follow(schema["$ref"], path)
            if target.path in inside:
                raise GrammarError("$ref leads in a circle", path=path)
            found = _both(found, self._of(target, inside | {target.path}), path)
        deeper = inside | {f"{path}!"}
        for i in range(len(schema.get("allOf", ()))):
            found = _both(found, self._of(site.at("allOf", i), deeper), path)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                branches = [self._of(site.at(keyword, i), deeper) for i in range(len(schema[keyword]))]
                if keyword == "oneOf":
                    self._exactly_one(branches, found, path)
                found = _both(found, [way for branch in branches for way in branch], path)
        return found

    def compared(self, path: str) -> None:
        """Count one comparison of two alternatives."""
        self._comparisons += 1
        if self._comparisons > MOST_COMPARISONS:
            raise GrammarError("oneOf: telling the branches apart takes too long; write anyOf", path=path)

    def _exactly_one(self, branches: list[list[Alternative]], beside: list[Alternative], path: str) -> None:
        from llmlab.grammar.disjoint import excludes

        for i, one in enumerate(branches):
            for j, other in enumerate(branches):
                for here in one if i != j else []:
                    for there in other:
                        if not all(excludes(self, rest + here, rest + there) for rest in beside):
                            raise GrammarError(
                                f"oneOf: what fits branch {i} may fit branch {j} too, and exactly one cannot be "
                                "enforced; write anyOf, or tell the branches apart by a required property's const",
                                path=path,
                            )

    def _only_reference(self, site: Site) -> Site | None:
        if not isinstance(site.schema, dict) or "$ref" not in site.schema:
            return None
        check(site.schema, site.path)
        if site.schema.keys() & ENFORCED.keys() != {"$ref"}:
            return None
        return self.follow(site.schema["$ref"], site.path)


def _both(some: list[Alternative], others: list[Alternative], path: str) -> list[Alternative]:
    if len(some) * len(others) > MOST_ALTERNATIVES:
        raise GrammarError(f"more than {MOST_ALTERNATIVES} combinations of anyOf and oneOf meet here", path=path)
    return [one + other for one in some for other in others]


def _anchors(site: Site, depth: int = 0, inside: str | None = None) -> list[tuple[str, Site]]:
    """Every `$anchor`, with the schema that it names.

    Raises:
        GrammarError: a reference that starts from an `$id` further in, or schemas that lie too deep in each other.
    """
    if depth > 2 * DEEPEST:
        raise GrammarError(f"schemas lie more than {DEEPEST} deep in each other", path="#")
    found = []
    if isinstance(site.schema, dict):
        name, own = site.schema.get("$anchor"), site.schema.get("$id")
        inside = own if depth and isinstance(own, str) and not own.startswith("#") else inside
        if inside and isinstance(site.schema.get("$ref"), str):
            raise GrammarError(f"$ref starts from the $id {inside!r} around it; leave that $id out", path=site.path)
        if isinstance(name, str) and re.fullmatch(r"[A-Za-z_][\w.-]*", name):
            found.append((name, site))
        keys: Any = [key for key in site.schema if isinstance(key, str) and key not in ("const", "enum", "examples")]
    else:
        keys = range(len(site.schema)) if isinstance(site.schema, list | tuple) else ()
    for key in keys:
        found += _anchors(site.at(key), depth + 1, inside)
    return found
