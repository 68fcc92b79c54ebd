"""The places of a JSON schema that a `$ref` can point to: by JSON pointer, by anchor, and by the `$id` around them.

A schema that holds another `$id` (in draft 4, `id`) consists of several resources. A reference is relative to the `$id`
around it, a JSON pointer to the resource that its address names, and an anchor belongs to its resource alone.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urljoin

from llmlab.grammar.subschema import NEGATED, Subschema
from llmlab.grammar.vocabulary import GrammarError

#: A schema that is nested deeper than this is refused: this package and llguidance's reader both use recursion.
DEEPEST = 60
#: What a resource without an address is called here, so that relative addresses can be resolved against it.
_UNNAMED = "http://root.invalid/"
_DRAFTS = ((r"draft-0?3", 3), (r"draft-0?4", 4), (r"draft-0?6", 6), (r"draft-0?7", 7), (r"2019-09", 2019))
#: The first and the last draft that has a keyword, for keywords that not every draft has.
_SINCE = dict.fromkeys(("const", "contains", "propertyNames"), 6) | dict.fromkeys(("if", "then", "else"), 7)
_SINCE |= dict.fromkeys(
    "dependentRequired dependentSchemas minContains maxContains unevaluatedItems unevaluatedProperties".split(), 2019
)
_SINCE["prefixItems"] = 2020
_LOOSENING = ("minContains", "prefixItems")
_UNTIL = {"dependencies": 7, "additionalItems": 2019}


class Resources:
    """Finds the subschema that a reference names.

    Args:
        root: the whole schema.

    Attributes:
        root: the whole schema with its path.
        draft: the draft of JSON Schema that `$schema` names: 3, 4, 6, 7, 2019 or 2020, which is the default.

    Raises:
        GrammarError: subschemas that are nested too deeply.
    """

    def __init__(self, root: Any) -> None:
        self.root = Subschema(root, "#")
        named = root.get("$schema") if isinstance(root, dict) else None
        self.draft = next((d for word, d in _DRAFTS if isinstance(named, str) and re.search(word, named)), 2020)
        self._roots: dict[str, Subschema] = {}
        self._anchors: dict[tuple[str, str], Subschema] = {}
        #: The addresses of the resources by the path of their root.
        self._addresses: dict[str, str] = {}
        self._collect(self.root, _UNNAMED, 0)

    def read(self, schema: dict[str, Any], *, all_drafts: bool) -> dict[str, Any]:
        """The keywords of one schema that count.

        Args:
            schema: the schema.
            all_drafts: whether keywords of other drafts count too, other than those that loosen another keyword. With
                them a schema is narrower than for a validator that passes over them.
        """
        return {
            word: value
            for word, value in schema.items()
            if self.has(word, value) or (all_drafts and word not in _LOOSENING)
        }

    def has(self, keyword: str, value: Any) -> bool:
        """Whether the schema's draft has a keyword with such a value; other validators pass over what it lacks."""
        if keyword in ("exclusiveMinimum", "exclusiveMaximum"):
            return isinstance(value, bool) == (self.draft <= 4)
        return _SINCE.get(keyword, 0) <= self.draft <= _UNTIL.get(keyword, 9999)

    def follow(self, reference: str, path: str) -> Subschema:
        """The subschema that a `$ref` points to; `path` says where the `$ref` stands.

        Raises:
            GrammarError: it leads outside of the schema, nowhere, or to something that is not a schema.
        """
        address, fragment = _joined(self._address(path), reference)
        target = self._roots.get(address)
        if target is None:
            raise GrammarError(f"$ref {reference!r} leads out of this schema; copy what it names into $defs", path=path)
        if fragment and not fragment.startswith("/"):
            found = self._anchors.get((address, unquote(fragment)))
            if found is None:
                raise GrammarError(f"$ref {reference!r} leads nowhere inside this schema", path=path)
            return found
        try:
            for part in unquote(fragment).split("/")[1:] if fragment.rstrip("/") else ():
                key = part.replace("~1", "/").replace("~0", "~")
                target = target.child(int(key) if isinstance(target.schema, list | tuple) else key)
        except (KeyError, IndexError, ValueError, TypeError):
            raise GrammarError(f"$ref {reference!r} leads nowhere inside this schema", path=path) from None
        if not isinstance(target.schema, bool | dict):
            raise GrammarError(f"$ref {reference!r} leads to something that is not a schema", path=path)
        return target

    def _address(self, path: str) -> str:
        """The address of the resource that holds a path."""
        while path not in self._addresses:
            path = path.removesuffix(NEGATED) if path.endswith(NEGATED) else path.rpartition("/")[0]
        return self._addresses[path]

    def _collect(self, subschema: Subschema, address: str, depth: int) -> None:
        """Note the resources and anchors in a subschema of the resource with this address."""
        if depth > 2 * DEEPEST:
            raise GrammarError(f"the schema is nested more than {DEEPEST} levels deep", path="#")
        schema, path = subschema
        if isinstance(schema, dict):
            address = self._note(subschema, address, depth)
            keys: Any = [key for key in schema if isinstance(key, str) and key not in ("const", "enum", "examples")]
        else:
            keys = range(len(schema)) if isinstance(schema, list | tuple) else ()
        for key in keys:
            self._collect(subschema.child(key), address, depth + 1)

    def _note(self, subschema: Subschema, address: str, depth: int) -> str:
        """Note one subschema; the address of the resource that it belongs to."""
        schema, path = subschema
        own = schema.get("id" if self.draft <= 4 else "$id")
        if "$ref" in schema and self.draft <= 7 and depth:
            own = None  # up to draft 7 everything beside $ref is passed over
        if isinstance(own, str) and not own.startswith("#"):
            address = _joined(address, own)[0]
        if not depth or (isinstance(own, str) and not own.startswith("#")):
            self._roots.setdefault(address, subschema)
            self._addresses[path] = address
        if not depth:
            self._roots.setdefault(_UNNAMED, subschema)
        names = [schema.get("$anchor")]
        names += [own[1:]] if isinstance(own, str) and own.startswith("#") and self.draft <= 7 else []
        for name in names:
            if isinstance(name, str) and re.fullmatch(r"[A-Za-z_][\w.:-]*", name):
                self._anchors.setdefault((address, name), subschema)
        return address


def _joined(address: str, reference: str) -> tuple[str, str]:
    """The address and the fragment of a reference that stands in the resource with an address.

    Raises:
        GrammarError: the reference is no address.
    """
    try:
        relative, _, fragment = reference.partition("#")
        # Python joins nothing to an address whose scheme it does not know, such as urn.
        return (urljoin(address, relative) if relative else address), fragment
    except ValueError as error:
        raise GrammarError(f"{reference!r} is not an address ({error})", path="#") from None
