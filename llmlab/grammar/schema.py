"""Rewrites a JSON schema so that llguidance enforces all of it, with limited white space and numbers that fit a float.

In the rewritten schema, subschemas that apply to one value are merged, references point into `$defs`, and every number,
every open object and every unconstrained value has explicit limits. It may be narrower than the given schema, never
wider: an object whose properties are named has no others, properties come in the order of the schema, and numbers are
written without exponents.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, NoReturn

from llmlab.grammar.arrays import array_items
from llmlab.grammar.containers import count_keywords, property_counts
from llmlab.grammar.document import DEEPEST, Document
from llmlab.grammar.keywords import is_number
from llmlab.grammar.objects import object_properties
from llmlab.grammar.regular import limited_states
from llmlab.grammar.scalars import merged_integer, merged_number, merged_string, without_numbers
from llmlab.grammar.subschema import NOT_VALUES, Alternative, Subschema
from llmlab.grammar.values import allowed_types, allowed_values, equality_key, types_of
from llmlab.grammar.vocabulary import GrammarError, NothingValidError, error_line

__all__ = ["WHITESPACE", "Rewritten", "llguidance_schema", "rewritten", "rewritten_at"]

#: A regular expression for the white space that JSON allows: one space, or a line break and up to 16 of indentation.
WHITESPACE = r"\x20|\n[\x20\t]{0,16}"

#: llguidance's options. Without \\u escapes a character has one spelling, so no property is repeated under another.
OPTIONS: Any = {"whitespace_pattern": WHITESPACE, "json_allowed_escapes": 'nrbtf\\"'}

#: The name in `$defs` of the schema for any JSON value.
_ANY = "any"
#: The keywords whose value is an object of schemas.
_SCHEMAS_BY_NAME = ("properties", "patternProperties")

#: The keywords of a rewritten string for which llguidance needs a regular expression.
_EXPRESSIONS = {"pattern", "format", "allOf"}

#: A schema is refused if its rewritten form has more subschemas than this. Merging can make many out of a few.
MOST_SUBSCHEMAS = 8000


class Rewritten(NamedTuple):
    """A schema for llguidance's `%json`.

    Attributes:
        schema: the schema.
        strings: (path in the given schema, rewritten schema) of each string that has a regular expression.
    """

    schema: dict[str, Any]
    strings: list[tuple[str, dict[str, Any]]]


def llguidance_schema(schema: Any) -> dict[str, Any]:
    """A JSON schema rewritten for llguidance's `%json`.

    Raises:
        GrammarError: a keyword or a combination that cannot be enforced; its path is a JSON pointer into the schema.
    """
    return rewritten(schema).schema


def rewritten(schema: Any) -> Rewritten:
    """As `llguidance_schema`, with its strings."""
    document = Document(schema)
    return rewritten_at(document, [document.root])


def rewritten_at(document: Document, subschemas: list[Subschema]) -> Rewritten:
    """A schema for llguidance's `%json`, for a value that is valid under all these subschemas of a document.

    Raises:
        GrammarError: as `llguidance_schema`.
    """
    try:
        rewriter = _Rewriter(document)
        with limited_states():
            made = rewriter.rewrite(subschemas)
        json.dumps(made, allow_nan=False)
    except RecursionError:
        raise GrammarError("the schema is nested too deeply", path="#") from None
    except (TypeError, ValueError) as error:
        if isinstance(error, GrammarError):
            raise
        raise GrammarError(f"not a JSON schema: {error}", path="#") from None
    return Rewritten(made, rewriter.strings)


class _Rewriter:
    """Rewrites subschemas of one document. Combinations of subschemas that recur are written once, in `$defs`."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._defs: dict[str, Any] = {}
        self._names: dict[tuple[str, ...], str] = {}
        self._waiting: list[tuple[str, list[Subschema]]] = []
        self._seen: set[str] = set()
        self._subschema_count = 0
        #: Why alternatives were left out.
        self._reasons: list[NothingValidError] = []
        #: The plain schemas that were written, with their paths, for finding the one that llguidance refuses.
        self._plain: list[tuple[str, dict[str, Any]]] = []

    @property
    def strings(self) -> list[tuple[str, dict[str, Any]]]:
        """The strings that were written with a regular expression, with their paths."""
        return [(path, made) for path, made in self._plain if made.keys() & _EXPRESSIONS]

    def rewrite(self, subschemas: list[Subschema]) -> dict[str, Any]:
        """The schema for a value that is valid under all these subschemas; llguidance has accepted it."""
        root = self._value(subschemas) if subschemas else self._any()
        while self._waiting:
            name, combination = self._waiting.pop()
            self._defs[name] = self._value(combination)
        root = self._without_impossible(root)
        made = {"x-guidance": OPTIONS, **root, "$defs": self._defs}
        self._require_accepted(made)
        return made

    def _raise_nothing(self, finite: set[str]) -> NoReturn:
        """Raise the error that nothing is valid, with what may be to blame: the first that was found to be impossible.

        Args:
            finite: the references under which there are finite values.
        """
        message = f"nothing is valid under this schema{self._document.left_out}"
        for path, made in sorted(self._plain, key=lambda each: -each[0].count("/")):
            for name in made.get("required", ()):
                if not _has_finite_value(made["properties"].get(name, True), finite):
                    message += f"; the required property {name!r} at {path} cannot be valid"
                    raise NothingValidError(message, path="#")
        if self._reasons:
            raise NothingValidError(f"{self._reasons[0].message}, so {message}", path=self._reasons[0].path)
        raise NothingValidError(message, path="#")

    def _without_impossible(self, root: Any) -> Any:
        """The root without references to schemas that no finite value satisfies."""
        while impossible := {f"#/$defs/{name}" for name, made in self._defs.items() if made is False}:
            root = self._remove(impossible, root)
        finite, before = set[str](), -1
        while before < len(finite):
            before = len(finite)
            finite |= {f"#/$defs/{name}" for name, made in self._defs.items() if _has_finite_value(made, finite)}
        endless = {f"#/$defs/{name}" for name in self._defs} - finite
        if not _has_finite_value(root, finite):
            self._raise_nothing(finite)
        return self._remove(endless, root)

    def _remove(self, references: set[str], root: Any) -> Any:
        """The root with False in place of these references; the definitions that they point to are removed."""
        left = {name: made for name, made in self._defs.items() if f"#/$defs/{name}" not in references}
        self._defs = {name: _without(made, references) for name, made in left.items()} if references else left
        return _without(root, references) if references else root

    def _require_accepted(self, made: dict[str, Any]) -> None:
        """Raise GrammarError if llguidance refuses the rewritten schema, with the path of the subschema to blame."""
        error = _llguidance_error(made)
        if error is None:
            return
        for path, schema in self._plain:
            blamed = _llguidance_error(_without_nested(schema))
            if blamed:
                named = ", ".join(word for word in schema if word not in ("type", "properties", "additionalProperties"))
                raise GrammarError(f"{named + ': ' if named else ''}{blamed}", path=path)
        raise GrammarError(error, path="#")

    def _value(self, subschemas: list[Subschema]) -> Any:
        """The rewritten schema for a value that is valid under all these subschemas; False if there is none."""
        if len(subschemas) == 1:
            target = self._document.referenced(subschemas[0])
            if target:
                return self._reference([target])
            branches = self._document.any_of_branches(subschemas[0])
            if branches:
                return _any_of([self._value([branch]) for branch in branches])
        ways = self._document.alternatives(subschemas)
        if len(ways) == 1 and len(ways[0]) == 1:  # the user's own contradiction, which is an error
            return self._alternative(ways[0])
        made = []
        for way in ways:
            try:
                made.append(self._alternative(way))
            except NothingValidError as error:
                self._reasons.append(error)
        return _any_of(made)

    def _nested(self, subschemas: list[Subschema]) -> Any:
        """The rewritten schema for a property or an item.

        It is a reference if several subschemas are combined, or if this one was written before: so recursion ends.
        """
        if len(subschemas) == 1 and subschemas[0].path not in self._seen:
            path = subschemas[0].path
            self._seen.add(path)
            if path.count("/") > 2 * DEEPEST:
                raise GrammarError("the schema is nested too deeply", path=path)
            return self._value(subschemas)
        return self._reference(subschemas) if subschemas else self._any()

    def _reference(self, subschemas: list[Subschema]) -> dict[str, Any]:
        """A `$ref` to the combination of these subschemas, which is written later if it has not been before."""
        self._count()
        paths = tuple(subschema.path for subschema in subschemas)
        if paths not in self._names:
            name = f"d{len(self._names)}"
            self._names[paths] = name
            self._waiting.append((name, subschemas))
        return {"$ref": f"#/$defs/{self._names[paths]}"}

    def _count(self) -> None:
        """Count one subschema of the rewritten schema."""
        self._subschema_count += 1
        if self._subschema_count > MOST_SUBSCHEMAS:
            raise GrammarError(f"the schema expands to more than {MOST_SUBSCHEMAS} subschemas", path="#")

    def _any(self) -> dict[str, Any]:
        """A reference to the schema for any JSON value. llguidance's own allows numbers that overflow a float."""
        here = {"$ref": f"#/$defs/{_ANY}"}
        if _ANY not in self._defs:
            plain = [{"type": kind} for kind in ("null", "boolean", "string")]
            inner = [{"type": "array", "items": here}, {"type": "object", "additionalProperties": here}]
            self._defs[_ANY] = {"anyOf": [*plain, merged_number([], "#"), *inner]}
        return here

    def _alternative(self, alternative: Alternative) -> Any:
        """The rewritten schema of one alternative; False if no value is valid."""
        if not alternative:
            return self._any()
        values = allowed_values(alternative)
        if values is not None:
            return self._listed_values(values, alternative)
        kinds = allowed_types(alternative)
        return _any_of([self._typed(kind, alternative) for kind in sorted(kinds)])

    def _listed_values(self, values: list[Any], alternative: Alternative) -> Any:
        """The rewritten schema of an alternative with listed values."""
        for value in values:
            _check_value(value, alternative[0].path)
        holds = self._document.evaluation.holds
        others = [one for one in alternative if one.schema.keys() != {"enum"}]
        left = [value for value in values if all(holds(value, one, sure=True) for one in others)]
        return {"enum": [json.loads(equality_key(value)) for value in left]} if left else False

    def _typed(self, kind: str, alternative: Alternative) -> Any:
        """The rewritten schema of an alternative for values of one type."""
        path = alternative[0].path
        plain = [subschema.schema for subschema in alternative]
        self._count()
        made: Any
        unwanted = [value for schema in plain for value in schema.get(NOT_VALUES, ()) if kind in types_of(value)]
        if kind in ("null", "boolean"):
            left = [value for value in ((None,) if kind == "null" else (False, True)) if value not in unwanted]
            return ({"type": kind} if not unwanted else {"enum": left}) if left else False
        if kind == "string":
            made = merged_string(plain, path)
            if len(plain) > 1 and made.keys() & _EXPRESSIONS:
                error = _llguidance_error(made)
                if error and error.startswith("Unsatisfiable"):
                    raise NothingValidError(f"no string is valid under all that applies to it ({error})", path=path)
        elif kind == "integer":
            made = without_numbers(merged_integer, plain, unwanted, path)
        elif kind == "number":
            made = without_numbers(merged_number, plain, unwanted, path)
        elif any(unwanted):
            raise GrammarError(f"not: listed values of type {kind} cannot be excluded; leave them out", path=path)
        else:
            least = {"minItems" if kind == "array" else "minProperties": 1}
            alternative = [*alternative, Subschema(least, path)] if unwanted else alternative
            made = self._array(alternative, path) if kind == "array" else self._object(alternative, path)
        if isinstance(made, dict):
            self._plain.append((path, made))
        return made

    def _array(self, alternative: Alternative, path: str) -> Any:
        found = array_items(self._document, alternative, path)
        if isinstance(found, list):
            return {"enum": found} if found else False
        if found.most is not None and found.least > found.most:
            raise NothingValidError(f"minItems {found.least} is above maxItems {found.most}", path=path)
        made: dict[str, Any] = {"type": "array"}
        if found.first:
            made["prefixItems"] = [self._nested(subschemas) for subschemas in found.first]
        made["items"] = False if found.additional is None else self._nested(found.additional)
        if found.least:
            made["minItems"] = found.least
        if found.most is not None:
            made["maxItems"] = found.most
        return made

    def _object(self, alternative: Alternative, path: str) -> Any:
        found = object_properties(self._document, alternative, path)
        made: dict[str, Any] = {"type": "object"}
        if found.named:
            made["properties"] = {name: self._nested(value) for name, value in found.named.items()}
        if found.required:
            made["required"] = found.required
        if found.patterns:
            made["patternProperties"] = {name: self._nested(value) for name, value in found.patterns.items()}
        made["additionalProperties"] = False if found.additional is None else self._nested(found.additional)
        return made | count_keywords(found, *property_counts(alternative), path)


def _any_of(options: list[Any]) -> Any:
    """The union of some schemas, those that are False left out; False if no other is left."""
    left = [option for option in options if option is not False]
    if len(left) < 2:
        return left[0] if left else False
    return {"anyOf": left}


def _has_finite_value(made: Any, finite: set[str]) -> bool:
    """Whether a finite value is valid under a rewritten schema, if one is under each of the references in `finite`."""
    if not isinstance(made, dict):
        return made is not False
    if "$ref" in made:
        return made["$ref"] in finite
    for word, enough in (("anyOf", any), ("allOf", all)):
        if word in made and not enough(_has_finite_value(each, finite) for each in made[word]):
            return False
    needed = [made.get("properties", {}).get(name) for name in made.get("required", ())]
    least = made.get("minItems", 0)
    first = made.get("prefixItems", [])
    needed += [*first[:least], *([made.get("items")] if least > len(first) else [])]
    return all(_has_finite_value(each, finite) for each in needed)


def _without(made: Any, references: set[str]) -> Any:
    """A rewritten schema with False in place of some references."""
    if not isinstance(made, dict):
        return made
    if made.get("$ref") in references:
        return False
    if "anyOf" in made:
        return _any_of([_without(option, references) for option in made["anyOf"]])
    inner = {word: lambda value: _without(value, references) for word in ("additionalProperties", "items")}
    inner |= {
        word: lambda value: {name: _without(item, references) for name, item in value.items()}
        for word in _SCHEMAS_BY_NAME
    }
    inner |= {word: lambda value: [_without(item, references) for item in value] for word in ("prefixItems", "allOf")}
    found = {word: inner[word](value) if word in inner else value for word, value in made.items()}
    return False if False in found.get("allOf", ()) else found


def _check_value(value: Any, path: str) -> None:
    """Raise GrammarError if a value of `enum` or `const` cannot be generated exactly."""
    if isinstance(value, dict):
        for item in value.values():
            _check_value(item, path)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_value(item, path)
    elif isinstance(value, int | float) and not isinstance(value, bool) and not is_number(value):
        raise GrammarError(f"the value {value} cannot be held exactly by a float", path=path)
    elif isinstance(value, str) and any(ord(c) < 32 and c not in "\n\r\t\b\f" for c in value):
        raise GrammarError(f"the value {value!r} holds a control character that cannot be generated", path=path)


def _llguidance_error(made: Any) -> str | None:
    """Why llguidance refuses a schema; None if it accepts it."""
    from llguidance import LLMatcher

    schema = made if isinstance(made, dict) else {"allOf": [made]}
    message = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema, overrides=OPTIONS))
    if not message.strip():
        return None
    return error_line(message)


def _without_nested(schema: dict[str, Any]) -> dict[str, Any]:
    """A plain schema with null in place of the schemas nested in it, so that an error is its own and not theirs."""
    blank = {"type": "null"}
    inner = {
        "properties": lambda value: dict.fromkeys(value, blank),
        "patternProperties": lambda value: dict.fromkeys(value, blank),
        "additionalProperties": lambda value: value and blank,
        "prefixItems": lambda value: [blank] * len(value),
        "items": lambda value: value and blank,
    }
    return {word: inner[word](value) if word in inner else value for word, value in schema.items()}
