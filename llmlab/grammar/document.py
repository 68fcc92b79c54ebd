"""A JSON schema as a document: follows its references and rewrites its combinations of subschemas as alternatives.

JSON Schema lets any number of subschemas apply to one value: side by side, through `allOf` and through `$ref`. They
are brought into disjunctive normal form here. A value has *alternatives*, one for each way through its `anyOf` and
`oneOf`; each alternative is a list of plain subschemas, without any of these keywords, that all apply.
"""

from __future__ import annotations

from typing import Any

from llmlab.grammar.disjoint import BranchComparison
from llmlab.grammar.evaluate import Evaluation
from llmlab.grammar.expansion import Expansion, product
from llmlab.grammar.keywords import ENFORCED, check
from llmlab.grammar.resources import DEEPEST, Resources
from llmlab.grammar.subschema import Alternative, Subschema
from llmlab.grammar.vocabulary import GrammarError

__all__ = ["DEEPEST", "Document"]


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
        self._resources = Resources(root)
        self.root = self._resources.root
        self.evaluation = Evaluation(self._resources)
        comparison = BranchComparison(lambda subschemas: self._expanded(subschemas, wide=True), self.evaluation)
        self._expansion = Expansion(self._resources, self.evaluation, comparison.excludes)
        self.excludes = comparison.excludes

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
        return self._expanded(subschemas, wide=False)

    @property
    def left_out(self) -> str:
        """What could not be negated, as the end of a message that nothing is left; empty if everything could."""
        found = dict.fromkeys(f"{word} at {path}" for word, path in self._expansion.left_out)
        return f" that can be enforced; what cannot be negated is {', '.join(found)}" if found else ""

    def _expanded(self, subschemas: list[Subschema], *, wide: bool) -> list[Alternative]:
        found: list[Alternative] = [[]]
        for subschema in subschemas:
            found = product(found, self._expansion.of(subschema, wide=wide), subschema.path)
        return found

    def _only_reference(self, subschema: Subschema) -> Subschema | None:
        if not isinstance(subschema.schema, dict) or "$ref" not in subschema.schema:
            return None
        check(subschema.schema, subschema.path)
        if subschema.schema.keys() & ENFORCED.keys() != {"$ref"}:
            return None
        return self._resources.follow(subschema.schema["$ref"], subschema.path)
