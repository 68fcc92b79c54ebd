"""A JSON schema as llguidance can enforce all of it: nothing ignored, white space bounded, numbers that fit a float.

The schema is written anew. Schemas that meet in one place are joined, references lead to `$defs`, and every number,
every open object and every free value is spelled out with its bounds. What is enforced may be narrower than the
schema, never wider: an object that names its properties has no others, properties come in the order of the schema, and
numbers are written without exponents.
"""

from __future__ import annotations

import json
from typing import Any

from llmlab.grammar.disjoint import allowed_values, key, kinds, types
from llmlab.grammar.keywords import is_number
from llmlab.grammar.objects import count_keywords, counts, items, properties
from llmlab.grammar.patterns import rust
from llmlab.grammar.places import DEEPEST, Alternative, Document, Site
from llmlab.grammar.scalars import BOUNDS, admits, integer, number, string
from llmlab.grammar.vocabulary import GrammarError, reason

__all__ = ["WHITESPACE", "enforceable", "enforceable_at"]

#: What may stand where JSON allows white space: one space, or a line's end and up to so much indentation.
WHITESPACE = r"\x20|\n[\x20\t]{0,16}"

#: llguidance's options. Without \\u a character has one spelling, so that a name cannot come again in disguise.
OPTIONS: Any = {"whitespace_pattern": WHITESPACE, "json_allowed_escapes": 'nrbtf\\"'}

_ANY = "any"
#: The keywords whose value is an object of schemas.
_NAMED = ("properties", "patternProperties")

#: Schemas of more places than this are refused; joined ones may have many more than are written down.
MOST_PLACES = 8000


def enforceable(schema: Any) -> dict[str, Any]:
    """The schema for llguidance's `%json`.

    Raises:
        GrammarError: a keyword or a combination that cannot be enforced; its path is a JSON pointer into the schema.
    """
    document = Document(schema)
    return enforceable_at(document, [document.root])


def enforceable_at(document: Document, sites: list[Site]) -> dict[str, Any]:
    """The same for one place of a document, at which all these schemas hold."""
    try:
        made = _Writer(document).whole(sites)
        json.dumps(made, allow_nan=False)
    except RecursionError:
        raise GrammarError("schemas lie too deep in each other", path="#") from None
    except (TypeError, ValueError) as error:
        if isinstance(error, GrammarError):
            raise
        raise GrammarError(f"not a JSON schema: {error}", path="#") from None
    return made


class _Writer:
    """Writes every place of a document once; `$defs` are what references point at."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._defs: dict[str, Any] = {}
        self._names: dict[tuple[str, ...], str] = {}
        self._waiting: list[tuple[str, list[Site]]] = []
        self._met: set[str] = set()
        self._places = 0
        #: The plain schemas that were written, for finding the one that llguidance refuses.
        self.written: list[tuple[str, dict[str, Any]]] = []

    def whole(self, sites: list[Site]) -> dict[str, Any]:
        """The whole of what is asked for, tried out."""
        root = self._place(sites) if sites else self._any()
        while self._waiting:
            name, sites = self._waiting.pop()
            self._defs[name] = self._place(sites)
        root = self._settle(root)
        if root is False:
            raise GrammarError("nothing is valid under this schema", path=self._document.root.path)
        made = {"x-guidance": OPTIONS, **root, "$defs": self._defs}
        self._try(made)
        return made

    def _settle(self, root: Any) -> Any:
        """The root without references to places where nothing is valid, which llguidance would not follow."""
        while gone := {f"#/$defs/{name}" for name, made in self._defs.items() if made is False}:
            root = self._leave_out(gone, root)
        ends, before = set[str](), -1
        while before < len(ends):
            before = len(ends)
            ends |= {f"#/$defs/{name}" for name, made in self._defs.items() if _ends(made, ends)}
        endless = {f"#/$defs/{name}" for name in self._defs} - ends
        return self._leave_out(endless, root) if _ends(root, ends) else False

    def _leave_out(self, gone: set[str], root: Any) -> Any:
        """The root without some references; the places that they lead to go too."""
        left = {name: made for name, made in self._defs.items() if f"#/$defs/{name}" not in gone}
        self._defs = {name: _without(made, gone) for name, made in left.items()} if gone else left
        return _without(root, gone) if gone else root

    def _try(self, made: dict[str, Any]) -> None:
        error = _error(made)
        if error is None:
            return
        for path, schema in self.written:
            told = _error(_hollow(schema))
            if told:
                named = ", ".join(word for word in schema if word not in ("type", "properties", "additionalProperties"))
                raise GrammarError(f"{named + ': ' if named else ''}{told}", path=path)
        raise GrammarError(error, path="#")

    def _place(self, sites: list[Site]) -> Any:
        """What llguidance reads for a place at which all these schemas hold."""
        if len(sites) == 1:
            target = self._document.reference(sites[0])
            if target:
                return self._named([target])
            branches = self._document.union(sites[0])
            if branches:
                return _any_of([self._place([branch]) for branch in branches])
        ways = self._document.alternatives(sites)
        return _any_of([self._alternative(way) for way in ways])

    def _inner(self, sites: list[Site]) -> Any:
        """A place further in. Where schemas meet it has a name, and where one comes again: so recursion ends."""
        if len(sites) == 1 and sites[0].path not in self._met:
            self._met.add(sites[0].path)
            if sites[0].path.count("/") > 2 * DEEPEST:
                raise GrammarError("schemas lie too deep in each other", path=sites[0].path)
            return self._place(sites)
        return self._named(sites) if sites else self._any()

    def _named(self, sites: list[Site]) -> dict[str, Any]:
        self._count()
        paths = tuple(site.path for site in sites)
        if paths not in self._names:
            name = f"d{len(self._names)}"
            self._names[paths] = name
            self._waiting.append((name, sites))
        return {"$ref": f"#/$defs/{self._names[paths]}"}

    def _count(self) -> None:
        self._places += 1
        if self._places > MOST_PLACES:
            raise GrammarError(f"the schema comes to more than {MOST_PLACES} places", path="#")

    def _any(self) -> dict[str, Any]:
        """Any JSON value: llguidance's own would write numbers that overflow."""
        here = {"$ref": f"#/$defs/{_ANY}"}
        if _ANY not in self._defs:
            plain = [{"type": kind} for kind in ("null", "boolean", "string")]
            inner = [{"type": "array", "items": here}, {"type": "object", "additionalProperties": here}]
            self._defs[_ANY] = {"anyOf": [*plain, number([], "#"), *inner]}
        return here

    def _alternative(self, way: Alternative) -> Any:
        if not way:
            return self._any()
        kinds_left = types(way)
        values = allowed_values(way)
        if values is not None:
            return self._values(values, way, kinds_left)
        return _any_of([self._typed(kind, way) for kind in sorted(kinds_left)])

    def _values(self, values: list[Any], way: Alternative, kinds_left: set[str]) -> Any:
        path = way[0].path
        plain = [site.schema for site in way]
        left = [value for value in values if kinds(value) & kinds_left]
        for value in left:
            _check_value(value, path)
        left = [value for value in left if not is_number(value) or admits(plain, value, path)]
        if not left:
            return False
        listed = {"enum": [json.loads(key(value)) for value in left]}
        told = {word for schema in plain for word in schema} - {"type", "enum", "const", *BOUNDS}
        if not told:
            return listed
        held = {kind for value in left for kind in kinds(value)} & kinds_left
        rest = _any_of(
            [{"type": kind} if kind in ("integer", "number") else self._typed(kind, way) for kind in sorted(held)]
        )
        return {"allOf": [listed, rest]}

    def _typed(self, kind: str, way: Alternative) -> Any:
        path = way[0].path
        plain = [site.schema for site in way]
        self._count()
        made: Any
        if kind in ("null", "boolean"):
            return {"type": kind}
        if kind == "string":
            made = string(plain, path)
        elif kind == "integer":
            made = integer(plain, path)
        elif kind == "number":
            made = number(plain, path)
        elif kind == "array":
            made = self._array(way)
        else:
            made = self._object(way, path)
        self.written.append((path, made))
        return made

    def _array(self, way: Alternative) -> dict[str, Any]:
        found = items(way)
        made: dict[str, Any] = {"type": "array"}
        if found.first:
            made["prefixItems"] = [self._inner(sites) for sites in found.first]
        made["items"] = False if found.others is None else self._inner(found.others)
        if found.least:
            made["minItems"] = found.least
        if found.most is not None:
            made["maxItems"] = found.most
        return made

    def _object(self, way: Alternative, path: str) -> dict[str, Any]:
        found = properties(way)
        made: dict[str, Any] = {"type": "object"}
        if found.named:
            made["properties"] = {name: self._inner(sites) for name, sites in found.named.items()}
        if found.required:
            made["required"] = found.required
        if found.patterns:
            made["patternProperties"] = {rust(name): self._inner(sites) for name, sites in found.patterns.items()}
        made["additionalProperties"] = False if found.others is None else self._inner(found.others)
        return made | count_keywords(found, *counts(way), path)


def _any_of(options: list[Any]) -> Any:
    left = [option for option in options if option is not False]
    if len(left) < 2:
        return left[0] if left else False
    return {"anyOf": left}


def _ends(made: Any, ends: set[str]) -> bool:
    """Whether something can be written to its end, if there is an end to what these references lead to.

    A required property that is forbidden is not looked at: llguidance has words for it.
    """
    if not isinstance(made, dict):
        return made is not False
    if "$ref" in made:
        return made["$ref"] in ends
    for word, enough in (("anyOf", any), ("allOf", all)):
        if word in made and not enough(_ends(each, ends) for each in made[word]):
            return False
    needed = [made.get("properties", {}).get(name) for name in made.get("required", ())]
    least = made.get("minItems", 0)
    first = made.get("prefixItems", [])
    needed += [*first[:least], *([made.get("items")] if least > len(first) else [])]
    return all(each is False or _ends(each, ends) for each in needed)


def _without(made: Any, gone: set[str]) -> Any:
    """What was written, with False in the place of some references."""
    if not isinstance(made, dict):
        return made
    if made.get("$ref") in gone:
        return False
    if "anyOf" in made:
        return _any_of([_without(option, gone) for option in made["anyOf"]])
    inner = {word: lambda value: _without(value, gone) for word in ("additionalProperties", "items")}
    inner |= {word: lambda value: {name: _without(item, gone) for name, item in value.items()} for word in _NAMED}
    inner |= {word: lambda value: [_without(item, gone) for item in value] for word in ("prefixItems", "allOf")}
    found = {word: inner[word](value) if word in inner else value for word, value in made.items()}
    return False if False in found.get("allOf", ()) else found


def _check_value(value: Any, path: str) -> None:
    """A value of `enum` or `const` can be written as it is."""
    if isinstance(value, dict):
        for item in value.values():
            _check_value(item, path)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_value(item, path)
    elif isinstance(value, int | float) and not isinstance(value, bool) and not is_number(value):
        raise GrammarError(f"the value {value} is not one that a float holds exactly", path=path)
    elif isinstance(value, str) and any(ord(c) < 32 and c not in "\n\r\t\b\f" for c in value):
        raise GrammarError(f"the value {value!r} holds a control character that cannot be written", path=path)


def _error(made: Any) -> str | None:
    """Why llguidance refuses a schema; None where it does not."""
    from llguidance import LLMatcher

    schema = made if isinstance(made, dict) else {"allOf": [made]}
    told = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema, overrides=OPTIONS))
    if not told.strip():
        return None
    return reason(told).splitlines()[-1].removeprefix("error: ")


def _hollow(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without what lies inside it: what is wrong there is not this one's fault."""
    blank = {"type": "null"}
    inner = {
        "properties": lambda value: dict.fromkeys(value, blank),
        "patternProperties": lambda value: dict.fromkeys(value, blank),
        "additionalProperties": lambda value: value and blank,
        "prefixItems": lambda value: [blank] * len(value),
        "items": lambda value: value and blank,
    }
    return {word: inner[word](value) if word in inner else value for word, value in schema.items()}
