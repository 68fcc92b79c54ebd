"""A JSON schema as a document: follows its references and rewrites its combinations of subschemas as alternatives.

JSON Schema lets any number of subschemas apply to one value: side by side, through `allOf` and through `$ref`. They
are brought into disjunctive normal form here. A value has *alternatives*, one for each way through its `anyOf` and
`oneOf`; each alternative is a list of plain subschemas, without any of these keywords, that all apply.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from llmlab.grammar.disjoint import BranchComparison
from llmlab.grammar.keywords import APPLICATORS, ENFORCED, check
from llmlab.grammar.subschema import NOTHING, Alternative, Subschema
from llmlab.grammar.vocabulary import GrammarError

#: A schema is refused if more alternatives than this apply to one value.
MOST_ALTERNATIVES = 256
#: A schema that is nested deeper than this is refused: this package and llguidance's reader both use recursion.
DEEPEST = 60


class Document:
    """A schema whose references can be followed.

    Args:
        root: the whole schema.

    Raises:
        GrammarError: by every method, for a keyword that cannot be enforced and a reference that cannot be resolved.
    """

    def __init__(self, root: Any) -> None:
        if not isinstance(root, bool | dict):
            raise GrammarError("a schema must be an object or a boolean", path="#")
        self.root = Subschema(root, "#")
        self._comparison = BranchComparison(self.alternatives)
        self._anchors = {f"#{name}": subschema for name, subschema in _anchors(self.root)}

    def follow(self, reference: str, path: str) -> Subschema:
        """The subschema that a `$ref` points to; `path` says where the `$ref` stands."""
        if reference in self._anchors:
            return self._anchors[reference]
        if reference.rstrip("/") == "#":
            return self.root
        target = self.root
        try:
            if not reference.startswith("#/"):
                raise KeyError
            for part in unquote(reference[2:]).split("/"):
                key = part.replace("~1", "/").replace("~0", "~")
                target = target.child(int(key) if isinstance(target.schema, list | tuple) else key)
        except (KeyError, IndexError, ValueError, TypeError):
            raise GrammarError(f"$ref {reference!r} leads nowhere inside this schema", path=path) from None
        if not isinstance(target.schema, bool | dict):
            raise GrammarError(f"$ref {reference!r} leads to something that is not a schema", path=path)
        return target

    def referenced(self, subschema: Subschema) -> Subschema | None:
        """The target of a subschema that consists of a `$ref` alone; None for any other subschema."""
        seen = set()
        found = None
        while (target := self._only_reference(found or subschema)) is not None:
            found = target
            if found.path in seen:
                raise GrammarError("$ref leads in a circle", path=subschema.path)
            seen.add(found.path)
        return found

    def any_of_branches(self, subschema: Subschema) -> list[Subschema] | None:
        """The branches of a subschema that consists of an `anyOf` alone; None for any other subschema."""
        schema = subschema.schema
        if not isinstance(schema, dict) or not isinstance(schema.get("anyOf"), list | tuple):
            return None
        check(schema, subschema.path)
        if schema.keys() & ENFORCED.keys() != {"anyOf"}:
            return None
        return [subschema.child("anyOf", i) for i in range(len(schema["anyOf"]))]

    def alternatives(self, subschemas: list[Subschema]) -> list[Alternative]:
        """The alternatives of a value that must be valid under all these subschemas."""
        found: list[Alternative] = [[]]
        for subschema in subschemas:
            found = _product(found, self._of(subschema, frozenset()), subschema.path)
        return found

    def _of(self, subschema: Subschema, inside: frozenset[str]) -> list[Alternative]:
        """The alternatives of one subschema; `inside` holds the references and combinations that led to it."""
        schema, path = subschema
        if isinstance(schema, bool):
            return [[]] if schema else [[Subschema(NOTHING, path)]]
        check(schema, path)
        if len(inside) > DEEPEST:
            raise GrammarError(f"the schema is nested more than {DEEPEST} levels deep", path=path)
        plain = {key: value for key, value in schema.items() if key in ENFORCED and key not in APPLICATORS}
        found: list[Alternative] = [[Subschema(plain, path)]] if plain else [[]]
        if "$ref" in schema:
            target = self.follow(schema["$ref"], path)
            if target.path in inside:
                raise GrammarError("$ref leads in a circle", path=path)
            found = _product(found, self._of(target, inside | {target.path}), path)
        deeper = inside | {f"{path}!"}
        for i in range(len(schema.get("allOf", ()))):
            found = _product(found, self._of(subschema.child("allOf", i), deeper), path)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                branches = [self._of(subschema.child(keyword, i), deeper) for i in range(len(schema[keyword]))]
                if keyword == "oneOf":
                    self._require_exclusive(branches, found, path)
                found = _product(found, [way for branch in branches for way in branch], path)
        return found

    def _require_exclusive(self, branches: list[list[Alternative]], beside: list[Alternative], path: str) -> None:
        """Raise GrammarError if a value may fit two branches of a `oneOf`; `beside` holds the keywords next to it."""
        for i, one in enumerate(branches):
            for j, other in enumerate(branches):
                for here in one if i != j else []:
                    for there in other:
                        if not all(self._comparison.excludes(rest + here, rest + there) for rest in beside):
                            raise GrammarError(
                                f"oneOf: what fits branch {i} may fit branch {j} too, and exactly one cannot be "
                                "enforced; write anyOf, or tell the branches apart by a required property's const",
                                path=path,
                            )

    def _only_reference(self, subschema: Subschema) -> Subschema | None:
        if not isinstance(subschema.schema, dict) or "$ref" not in subschema.schema:
            return None
        check(subschema.schema, subschema.path)
        if subschema.schema.keys() & ENFORCED.keys() != {"$ref"}:
            return None
        return self.follow(subschema.schema["$ref"], subschema.path)


def _product(some: list[Alternative], others: list[Alternative], path: str) -> list[Alternative]:
    """Every alternative of the first list joined with every one of the second."""
    if len(some) * len(others) > MOST_ALTERNATIVES:
        raise GrammarError(
            f"more than {MOST_ALTERNATIVES} combinations of anyOf and oneOf apply to one value", path=path
        )
    return [one + other for one in some for other in others]


def _anchors(subschema: Subschema, depth: int = 0, inside: str | None = None) -> list[tuple[str, Subschema]]:
    """Every `$anchor` with the subschema that it names; `inside` is the nested `$id` around this subschema.

    Raises:
        GrammarError: a reference that is relative to a nested `$id`, or subschemas that are nested too deeply.
    """
    if depth > 2 * DEEPEST:
        raise GrammarError(f"the schema is nested more than {DEEPEST} levels deep", path="#")
    found = []
    schema = subschema.schema
    if isinstance(schema, dict):
        name, own = schema.get("$anchor"), schema.get("$id")
        inside = own if depth and isinstance(own, str) and not own.startswith("#") else inside
        if inside and isinstance(schema.get("$ref"), str):
            raise GrammarError(
                f"$ref is relative to the $id {inside!r} around it, which is not supported; leave that $id out",
                path=subschema.path,
            )
        if isinstance(name, str) and re.fullmatch(r"[A-Za-z_][\w.-]*", name):
            found.append((name, subschema))
        keys: Any = [key for key in schema if isinstance(key, str) and key not in ("const", "enum", "examples")]
    else:
        keys = range(len(schema)) if isinstance(schema, list | tuple) else ()
    for key in keys:
        found += _anchors(subschema.child(key), depth + 1, inside)
    return found
