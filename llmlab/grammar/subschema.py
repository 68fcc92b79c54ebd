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

#: A plain schema under which no value is valid.
NOTHING: dict[str, Any] = {"enum": []}
