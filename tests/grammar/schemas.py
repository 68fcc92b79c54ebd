"""Realistic JSON schemas (extraction, classification, tool arguments, forms, trees) and corner cases.

Those in `SCHEMAS` compile. Those in `REFUSED` do not; each comes with words that its error must contain.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def obj(required: str = "", /, **properties: Any) -> Schema:
    """An object whose `required` properties are named in one string, all of them where it is "*"."""
    made: Schema = {"type": "object", "properties": properties}
    names = list(properties) if required == "*" else required.split()
    return made | ({"required": names} if names else {})


def closed(required: str = "*", /, **properties: Any) -> Schema:
    return obj(required, **properties) | {"additionalProperties": False}


def arr(items: Any, least: int | None = None, most: int | None = None) -> Schema:
    made: Schema = {"type": "array", "items": items}
    return made | ({} if least is None else {"minItems": least}) | ({} if most is None else {"maxItems": most})


def ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def text(most: int | None = 12, **more: Any) -> Schema:
    return {"type": "string"} | ({} if most is None else {"maxLength": most}) | more


def pattern(expression: str) -> Schema:
    return {"type": "string", "pattern": expression}


def form(name: str) -> Schema:
    return {"type": "string", "format": name}


INT: Schema = {"type": "integer"}
NUM: Schema = {"type": "number"}
BOOL: Schema = {"type": "boolean"}
NULL: Schema = {"type": "null"}


def between(low: float, high: float, kind: str = "integer") -> Schema:
    return {"type": kind, "minimum": low, "maximum": high}


def maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, NULL]}


def tagged(tag: str, value: str, **properties: Any) -> Schema:
    return obj("*", **{tag: {"const": value}}, **properties)


SCHEMAS: dict[str, Any] = {
    # Plain values.
    "string": text(),
    "free string": {"type": "string"},
    "integer": INT,
    "number": NUM,
    "boolean": BOOL,
    "null": NULL,
    "nullable string": {"type": ["string", "null"], "maxLength": 6},
    "several types": {"type": ["integer", "boolean", "null"]},
    "anything": True,
    "an empty schema": {},
    "annotations only": {"title": "T", "description": "D", "examples": [1], "$comment": "c", "deprecated": True},
    # Bounds.
    "percentage": between(0, 100),
    "probability": between(0, 1, "number"),
    "negative": between(-50, -3),
    "across zero": between(-7, 12),
    "exclusive": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 9},
    "exclusive number": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "exclusive, draft 4": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 9,
    },
    "a lower bound": {"type": "integer", "minimum": 1},
    "an upper bound": {"type": "number", "maximum": -0.5},
    "a far bound": {"type": "number", "minimum": 1e17},
    "fractional bounds": {"type": "integer", "minimum": 2.5, "maximum": 7.5},
    "multiples of five": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 1000},
    "multiples of a quarter": {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 99},
    "cents": {"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 999},
    "latitude": between(-90, 90, "number"),
    "a narrow window": between(0.001, 0.002, "number"),
    "a learning rate": {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
    "just below minus one": {"type": "number", "minimum": -1.5, "exclusiveMaximum": -1},
    "one half alone": {"type": "number", "minimum": 0.38, "exclusiveMaximum": 0.582, "multipleOf": 0.25},
    "bounds without a type": {"minimum": 3, "maxLength": 4, "maxItems": 1},
    # Strings.
    "length": text(8, minLength=3),
    "exact length": text(4, minLength=4),
    "zip code": pattern("^[0-9]{5}$"),
    "licence plate": pattern(r"^[A-Z]{1,3}-[A-Z]{1,2} \d{1,4}$"),
    "slug": pattern("^[a-z0-9]+(-[a-z0-9]+)*$"),
    "an alternation": pattern("^(red|green|blue)$"),
    "hex colour": pattern("^#([0-9a-f]{3}|[0-9a-f]{6})$"),
    "version": pattern(r"^\d+\.\d+\.\d+$"),
    "words and length": {"type": "string", "pattern": "^[a-z ]+$", "minLength": 2, "maxLength": 9},
    "a search": {"type": "string", "pattern": "cat", "maxLength": 8},
    "a file name": {"type": "string", "pattern": r'^[^\\/:*?"<>|]{1,9}$'},
    "no quotes": {"type": "string", "pattern": r'^[^"\\]{2,4}$'},
    "not ASCII": {"type": "string", "pattern": r"^[^ -~]{2}$"},
    "control characters": {"type": "string", "pattern": r"^[\x00-\x21]{2}$"},
    "brackets": {"type": "string", "pattern": r"^[()[\]{}&~]{3}[^[\]]$"},
    "no words, no digits": {"type": "string", "pattern": r"^\W\D[^\w\s][^\d]$"},
    "date": form("date"),
    "time": form("time"),
    "date-time": form("date-time"),
    "duration": form("duration"),
    "uuid": form("uuid"),
    "ipv4": form("ipv4"),
    "ipv6": form("ipv6"),
    "email": form("email") | {"maxLength": 20},
    "hostname": form("hostname") | {"maxLength": 20},
    "uri": form("uri") | {"maxLength": 24},
    "a format nobody knows": form("password") | {"maxLength": 5},
    "a date in this century": {"type": "string", "format": "date", "pattern": "^20"},
    # Enumerations.
    "sentiment": {"type": "string", "enum": ["positive", "neutral", "negative"]},
    "mixed enum": {"enum": ["a", 1, 2.5, True, None, [1, 2], {"k": "v"}]},
    "enum with accents": {"enum": ["café", "naïve", 'quo"te', "back\\slash", "line\nend", "中文", "🦊"]},
    "enum under bounds": {"type": "integer", "enum": [1, 5, 10, 50], "minimum": 5},
    "const": {"const": "yes"},
    "const object": {"const": {"a": 1, "b": [True, None]}},
    "an enum within bounds": {"enum": [0, 0.25, 0.5, 0.3, "x"], "exclusiveMinimum": 0, "multipleOf": 0.25},
    "large values": {"enum": [1e22, 2**60, -(10**19)]},
    "numbers by name": {"type": "number", "enum": [0.1, 0.25, 1e-7, 12345.678]},
    # Objects.
    "person": obj("name age", name=text(), age=between(0, 120), email=form("email") | {"maxLength": 16}),
    "strict person": closed(name=text(), age=INT),
    "all optional": obj(a=INT, b=BOOL, c=text(3)),
    "no properties": {"type": "object", "properties": {}, "additionalProperties": False},
    "nested": closed(
        user=closed(name=text(6), address=closed(street=text(6), city=text(6), zip=pattern("^[0-9]{5}$")))
    ),
    "a map": {"type": "object", "additionalProperties": between(0, 9)},
    "a map, not empty": {"type": "object", "additionalProperties": BOOL, "minProperties": 1},
    "a map of up to three": {"type": "object", "additionalProperties": BOOL, "maxProperties": 3},
    "named and others": obj("id", id=INT) | {"additionalProperties": text(4)},
    "pattern properties": {"type": "object", "patternProperties": {"^x-[a-z]+$": BOOL}, "additionalProperties": False},
    "a name under a pattern": {
        "type": "object",
        "properties": {"x-a": between(0, 9)},
        "patternProperties": {"^x-": {"minimum": 5}},
        "required": ["x-a"],
    },
    "a name that Python's re is lost in": {
        "type": "object",
        "properties": {"a" * 40 + "b": BOOL},
        "patternProperties": {"^(a+)+$": BOOL},
    },
    "required without properties": {"type": "object", "required": ["id"], "properties": {"name": text(4)}},
    "at least one": closed("", a=INT, b=BOOL) | {"minProperties": 1},
    "at most one": closed("", a=BOOL, b=BOOL, c=BOOL) | {"maxProperties": 1},
    "counts that say nothing": closed(a=BOOL, b=BOOL) | {"minProperties": 1, "maxProperties": 5},
    "any object": {"type": "object"},
    "odd names": closed(**{"a b": BOOL, 'q"': BOOL, "é": BOOL, "$ref": BOOL, "": BOOL}),
    "a forbidden property": obj("a", a=BOOL, b=False),
    # Arrays.
    "tags": arr(text(5), 1, 3),
    "numbers": arr(NUM, None, 4),
    "a pair": {"type": "array", "prefixItems": [text(4), INT], "items": False, "minItems": 2},
    "a pair, draft 7": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [text(4), BOOL],
        "additionalItems": False,
        "minItems": 2,
    },
    "a head and a tail": {"type": "array", "prefixItems": [BOOL], "items": between(0, 9), "maxItems": 4},
    "matrix": arr(arr(between(0, 9), 2, 2), 2, 2),
    "any items": {"type": "array", "maxItems": 2},
    "an empty array": arr(INT, 0, 0),
    "table": arr(closed(id=between(1, 99), ok=BOOL), 1, 2),
    # Combinations.
    "string or integer": {"anyOf": [text(4), INT]},
    "nullable object": maybe(closed(a=BOOL)),
    "oneOf by type": {"oneOf": [text(4), between(0, 9), NULL]},
    "oneOf by range": {"oneOf": [between(0, 3), between(10, 13)]},
    "oneOf beside anyOf": {"anyOf": [BOOL, between(0, 9)], "oneOf": [{"const": False}, {"const": True}, INT]},
    "oneOf by values": {"oneOf": [{"enum": ["a", "b"]}, {"enum": ["c"]}]},
    "shapes by kind": {
        "oneOf": [tagged("kind", "circle", r=between(0, 9)), tagged("kind", "square", side=between(0, 9))]
    },
    "oneOf by what is required": {"oneOf": [obj("email", email=text(5)), obj("phone", phone=text(5))]},
    "allOf": {"allOf": [obj("a", a=INT), obj("b", b=BOOL)]},
    "allOf of bounds": {"type": "integer", "allOf": [{"minimum": 3}, {"maximum": 8}]},
    "beside a reference": {"$defs": {"base": obj("id", id=between(0, 9))}, "$ref": "#/$defs/base", **obj("n", n=BOOL)},
    "one or the other": obj(a=BOOL, b=BOOL) | {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    "two unions meet": {
        "anyOf": [text(3), between(0, 99)],
        "allOf": [{"anyOf": [{"minimum": 50}, {"type": "string"}]}],
    },
    "a single allOf": {"allOf": [ref("x")], "$defs": {"x": between(0, 3)}, "description": "as pydantic 1 wrote it"},
    "closed, joined": {"allOf": [closed("", a=BOOL, b=BOOL), closed("", b=BOOL, c=BOOL)]},
    "a name for nothing": {
        "$defs": {"never": {"allOf": [ref("no")]}, "no": False},
        "anyOf": [ref("never"), obj("", a=ref("never"), b=arr(ref("no")))],
    },
    "merged deep": {"allOf": [obj("p", p=obj("x", x=BOOL)), obj("p", p=obj("y", y=BOOL))]},
    # References and recursion.
    "a reference": {"$ref": "#/$defs/point", "$defs": {"point": closed(x=between(0, 9), y=between(0, 9))}},
    "definitions": {"$ref": "#/definitions/c", "definitions": {"c": {"enum": ["r", "g"]}}},
    "a pointer into properties": closed(a=between(0, 5), b={"$ref": "#/properties/a"}),
    "a pointer with escapes": {"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": BOOL}},
    "an anchor": {"$ref": "#here", "$defs": {"x": {"$anchor": "here", "type": "boolean"}}},
    "a chain of references": {"$ref": "#/$defs/a", "$defs": {"a": ref("b"), "b": ref("c"), "c": between(0, 9)}},
    "tree": {"$ref": "#/$defs/node", "$defs": {"node": closed(v=between(0, 9), kids=arr(ref("node"), None, 2))}},
    "list of links": {"$ref": "#/$defs/l", "$defs": {"l": closed(head=between(0, 9), tail=maybe(ref("l")))}},
    "the whole again": {
        "type": "object",
        "properties": {"v": BOOL, "next": {"$ref": "#"}},
        "additionalProperties": False,
    },
    "expression": {
        "$ref": "#/$defs/e",
        "$defs": {
            "e": {"anyOf": [between(0, 9), closed(op={"enum": ["+", "*"]}, l=ref("e"), r=ref("e"))]},
        },
    },
    "links by oneOf": {
        "$ref": "#/$defs/l",
        "$defs": {"l": closed(head=between(0, 9), tail={"oneOf": [NULL, ref("l")]})},
    },
    "links by allOf": {
        "$ref": "#/$defs/l",
        "$defs": {"l": obj("head", head=between(0, 9), tail={"allOf": [ref("l")], "nullable": True})},
    },
    "expression by oneOf": {
        "$ref": "#/$defs/e",
        "$defs": {
            "e": {"oneOf": [tagged("k", "number", v=between(0, 9)), tagged("k", "sum", of=arr(ref("e"), 0, 2))]},
        },
    },
    "one way ends": {
        "$ref": "#/$defs/l",
        "$defs": {
            "l": {"anyOf": [closed(on=ref("l")), ref("never"), closed(v=between(0, 9))]},
            "never": arr(ref("never"), 1),
        },
    },
    "many ways down": {
        "$ref": "#/$defs/n",
        "$defs": {"n": obj("", **{f"c{i}": {"type": ["object", "null"], "oneOf": [ref("n"), NULL]} for i in range(9)})},
    },
    "two recursions at once": {
        "allOf": [ref("a"), ref("b")],
        "$defs": {"a": obj("", child=ref("a"), x=BOOL), "b": obj("", child=ref("b"), x=BOOL)},
    },
    "mutual": {"$ref": "#/$defs/a", "$defs": {"a": obj("", b=ref("b")), "b": obj("", a=ref("a"), n=between(0, 9))}},
    # As programs write them.
    "pydantic": {
        "$defs": {
            "Item": {
                "properties": {
                    "sku": {"pattern": "^[A-Z]{3}[0-9]{2}$", "title": "Sku", "type": "string"},
                    "count": {"default": 1, "exclusiveMinimum": 0, "maximum": 99, "title": "Count", "type": "integer"},
                },
                "required": ["sku"],
                "title": "Item",
                "type": "object",
            }
        },
        "properties": {
            "items": {"items": {"$ref": "#/$defs/Item"}, "maxItems": 2, "title": "Items", "type": "array"},
            "note": {"anyOf": [{"maxLength": 8, "type": "string"}, {"type": "null"}], "default": None, "title": "Note"},
        },
        "required": ["items"],
        "title": "Order",
        "type": "object",
    },
    "pydantic's discriminated union": {
        "$defs": {"Cat": tagged("pet", "cat", lives=between(1, 9)), "Dog": tagged("pet", "dog", good=BOOL)},
        "discriminator": {"mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}, "propertyName": "pet"},
        "oneOf": [ref("Cat"), ref("Dog")],
    },
    "openai's structured example": closed(
        steps=arr(closed(explanation=text(6), output=text(6)), None, 2), final_answer=text(6)
    ),
    "zod": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"status": {"type": "string", "enum": ["on", "off"]}, "level": between(0, 10)},
        "required": ["status"],
        "additionalProperties": False,
    },
    "openapi": obj("id", id={"type": "integer", "format": "int64", "minimum": 0}, tag=text(5) | {"nullable": True}),
    "calendar event": closed(
        title=text(8), start=form("date-time"), attendees=arr(text(5), 0, 2), where=maybe(text(5)), all_day=BOOL
    ),
    "function's parameters": obj(
        "location", location=text(8), unit={"type": "string", "enum": ["celsius", "fahrenheit"]}
    ),
    "receipt": closed(
        total={"type": "number", "minimum": 0, "multipleOf": 0.5, "maximum": 500},
        lines=arr(closed(name=text(5), qty=between(1, 9), price=between(0, 99)), 1, 2),
        paid=form("date"),
    ),
    "entities": closed(entities=arr(closed(text=text(6), label={"enum": ["PER", "LOC", "ORG"]}), 0, 3)),
    "geojson": {
        "oneOf": [
            tagged("type", "Point", coordinates=arr(between(-9, 9), 2, 2)),
            tagged("type", "LineString", coordinates=arr(arr(between(-9, 9), 2, 2), 2, 3)),
        ]
    },
    "config with a default": obj("", port={"type": "integer", "minimum": 1, "maximum": 65535, "default": 80}, tls=BOOL),
    "keywords that are none": {"type": "boolean", "x-order": 3, "propertyOrdering": ["a"], "uniqueness": True},
    "no-op keywords": {"type": "array", "items": BOOL, "uniqueItems": False, "maxItems": 2, "dependencies": {}},
}

#: A schema, and what the message about it must hold: the keyword, and where it stands.
REFUSED: dict[str, tuple[Any, str]] = {
    "uniqueItems": ({"type": "array", "uniqueItems": True, "items": text()}, "#: uniqueItems can be enforced"),
    "uniqueItems of objects": (arr(obj(a=INT)) | {"uniqueItems": True}, "#: uniqueItems"),
    "uniqueItems after items of their own": (
        {"type": "array", "uniqueItems": True, "prefixItems": [BOOL], "items": BOOL},
        "#: uniqueItems cannot be enforced for items that have schemas of their own",
    ),
    "not": (obj("a", a={"not": {"multipleOf": 3}}), "multipleOf at #/properties/a/not"),
    "not, of everything": ({"not": {}}, "#: nothing is valid"),
    "not of listed objects": ({"type": "object", "not": {"const": {"a": 1}}}, "#: not: listed values of type object"),
    "contains, of no item": ({"prefixItems": [], "items": False, "contains": INT}, "#: contains"),
    "$dynamicRef": (obj(a={"$dynamicRef": "#x"}), "#/properties/a: the keyword '$dynamicRef'"),
    "a oneOf that leaves nothing": ({"oneOf": [INT, INT]}, "#: nothing is valid"),
    "overlapping oneOf": (
        {"oneOf": [INT, {"multipleOf": 5}], "type": "number"},
        "#: oneOf: what fits branch 0 may fit branch 1 too, and the keyword 'multipleOf' at #/oneOf/1",
    ),
    "a look-ahead": (obj(p=pattern("^(a(?=b).)+$")), "#/properties/p: pattern"),
    "a back reference": (pattern(r"^(a)\1$"), "pattern"),
    "a word border": (pattern(r"\bcat\b"), "pattern"),
    "no expression at all": (pattern("["), "pattern"),
    "a template of addresses": (form("uri-template"), "the format 'uri-template'"),
    "a regex": (arr(form("regex")), "#/items: the format 'regex'"),
    "a map of two at least": ({"type": "object", "additionalProperties": INT, "minProperties": 2}, "minProperties"),
    "two of three": (closed("", a=INT, b=INT, c=INT) | {"minProperties": 2}, "minProperties"),
    "two of three at most": (closed("", a=INT, b=INT, c=INT) | {"maxProperties": 2}, "maxProperties"),
    "a pattern of names that is none": (
        obj(a=INT) | {"patternProperties": {"[": BOOL}},
        "#: patternProperties: '[' is not a valid regular expression (unclosed character class)",
    ),
    "false": (False, "nothing is valid"),
    "types that never meet": ({"allOf": [INT, BOOL]}, "nothing is valid"),
    "required and forbidden": (obj("a", a=False), "the required property 'a' at # cannot be valid"),
    "a control character alone": (obj("p", p=pattern(r"^\x01$")), "#/properties/p: pattern"),
    "an empty range": (between(5, 3), "minimum, maximum"),
    "an empty range of numbers": ({"type": "number", "minimum": 2, "exclusiveMaximum": 2}, "no number between"),
    "no multiple in a range": (
        between(1, 3, "number") | {"multipleOf": 5},
        "minimum, maximum, multipleOf: there is no",
    ),
    "joined, and one too few": (
        {"allOf": [closed(a=BOOL), obj("b", b=BOOL)]},
        "the required property 'b' at #/allOf/0 cannot be valid",
    ),
    "an empty length": (text(2, minLength=5), "minLength"),
    "a reference to nowhere": ({"$ref": "#/$defs/x"}, "$ref '#/$defs/x' leads nowhere"),
    "a reference to elsewhere": (
        obj(a={"$ref": "https://example.com/s.json"}),
        "#/properties/a: $ref 'https://example.com/s.json' leads out",
    ),
    "an anchor of another root": (
        obj(a={"$id": "https://example.com/a", "$anchor": "x", "type": "boolean"}, b={"$ref": "#x"}),
        "#/properties/b: $ref '#x' leads nowhere",
    ),
    "a circle of anyOf": (
        {"anyOf": [ref("a")], "$defs": {"a": {"anyOf": [{"$ref": "#"}, ref("a")]}}},
        "nothing is valid",
    ),
    "no end": ({"$ref": "#/$defs/l", "$defs": {"l": closed(next=ref("l"), v=BOOL)}}, "nothing is valid"),
    "no end in items": (obj("a", a={"type": "array", "items": {"$ref": "#"}, "minItems": 1}), "nothing is valid"),
    "a circle": ({"$ref": "#/$defs/a", "$defs": {"a": ref("b"), "b": ref("a")}}, "circle"),
    "a number too exact": ({"const": 2**53 + 1}, "9007199254740993"),
    "an integer too large": ({"type": "integer", "minimum": 10**18}, "1000000000000000000"),
    "infinity": ({"type": "number", "maximum": float("inf")}, "maximum must be a finite number"),
    "a fraction that is not a decimal one": ({"type": "number", "multipleOf": 1 / 3}, "multipleOf"),
    "a wrong type": ({"type": "strng"}, "type must be one of"),
    "a keyword of the wrong type": (obj(a=INT) | {"required": True}, "required must be a list of names"),
    "a negative length": ({"type": "string", "minLength": -1}, "minLength must be a whole number"),
    "an enum without values": ({"enum": []}, "enum must be"),
    "items that are no schema": ({"type": "array", "items": 3}, "items must be a schema"),
    "a control character": ({"const": "\x01"}, "control character"),
}
