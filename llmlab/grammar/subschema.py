"""A subschema with its place in the schema that holds it, and groups of subschemas that apply to one value.

JSON Schema lets any number of subschemas apply to one value: side by side, through `allOf` and through `$ref`. In this
package a `list[Subschema]` always means that all of them apply.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias


class Subschema(NamedTuple):
    """A subschema and where it stands.

    Attributes:
        schema: the subschema, a dict or a boolean.
        path: its JSON pointer in the whole schema, such as "#/properties/a"; error messages begin with it.
    """

    schema: Any
    path: str

    def child(self, *keys: str | int) -> Subschema:
        """The value that lies under these keys, one inside the other, with its path."""
        schema, path = self
        for key in keys:
            schema = schema[key]
            path += "/" + str(key).replace("~", "~0").replace("/", "~1")
        return Subschema(schema, path)


#: Plain subschemas that all apply to one value. Plain means without `$ref`, `allOf`, `anyOf` and `oneOf`.
Alternative: TypeAlias = list[Subschema]

#: Keywords that this package adds to plain schemas. They do not occur in a schema that a user wrote, because only the
#: keywords of JSON Schema are copied from it.
#: Names that an object must not have.
ABSENT = "!absent"
#: Subschemas of properties by name, which do not make other properties additional ones.
SOME = "!some"
#: Values that are not allowed.
NOT_VALUES = "!values"
#: Regular expressions that a string must not match.
UNLIKE = "!unlike"

#: What the path of a negated subschema ends in, so that it differs from that of the subschema.
NEGATED = "¬"
