"""Which variables a chat template reads from its caller: those that some way through it looks up before it sets them.

Jinja's own `meta.find_undeclared_variables` lists every name that is set in one branch of several as well, though each
of them may set it; here the ways through a template are followed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmlab.errors import CheckpointError

#: What transformers and Jinja give every template.
_GIVEN = frozenset({"raise_exception", "strftime_now", "range", "dict", "namespace", "lipsum", "cycler", "joiner"})


def read_variables(source: str) -> frozenset[str]:
    """The names, without those that every template is given.

    Raises:
        CheckpointError: the template is not valid Jinja.
    """
    import jinja2.ext
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation_tag(), jinja2.ext.loopcontrols]
    )
    try:
        tree = env.parse(source)
    except TemplateSyntaxError as error:
        raise CheckpointError(f"the chat template is not valid Jinja (line {error.lineno}): {error.message}") from error
    reader = _Reader()
    ended = reader.follow(tree.body, frozenset())
    for macro, known in reader.macros:  # called from anywhere, so with what the whole template has set
        arguments = {arg.name for arg in macro.args} | {"caller", "varargs", "kwargs"}
        reader.block(macro, known | (ended or frozenset()) | arguments)
    return frozenset(reader.read - _GIVEN)


class _Reader:
    """Follows statements. A state is the names that are surely set; None where no way leads on."""

    def __init__(self) -> None:
        self.read: set[str] = set()
        self.macros: list[tuple[Any, frozenset[str]]] = []  #: and what was set where they stand

    def follow(self, statements: Iterable[Any], known: frozenset[str] | None) -> frozenset[str] | None:
        """The state behind some statements."""
        for statement in statements:
            if known is None:
                break
            known = self._step(statement, known)
        return known

    def block(self, statement: Any, known: frozenset[str]) -> None:
        """Statements in a scope of their own, and whatever else the statement holds."""
        for value in (value for name, value in statement.iter_fields() if name not in ("body", "else_", "target")):
            for node in value if isinstance(value, list) else [value]:
                self._look(node, known)
        self.follow(statement.body, known)

    def _step(self, statement: Any, known: frozenset[str]) -> frozenset[str] | None:
        from jinja2 import nodes

        if isinstance(statement, nodes.If):
            return self._branches(statement, known)
        if isinstance(statement, nodes.Assign):
            self._look(statement.node, known)
            return known | self._targets(statement.target, known)
        if isinstance(statement, nodes.AssignBlock):
            self.block(statement, known)
            return known | self._targets(statement.target, known)
        if isinstance(statement, nodes.For):
            self._look(statement.iter, known)
            inside = known | self._targets(statement.target, known) | {"loop"}
            self._look(statement.test, inside)
            self.follow(statement.body, inside)
            self.follow(statement.else_, known)
            return known  # what a loop sets, it keeps to itself
        if isinstance(statement, nodes.Macro):
            self.macros.append((statement, known))
            return known | {statement.name}
        if isinstance(statement, nodes.With):
            for value in statement.values:
                self._look(value, known)
            names = (self._targets(target, known) for target in statement.targets)
            self.follow(statement.body, known.union(*names))
            return known
        if isinstance(getattr(statement, "body", None), list):
            self.block(statement, known | {arg.name for arg in getattr(statement, "args", ())})
            return known
        self._look(statement, known)
        return None if _ends(statement) else known

    def _branches(self, statement: Any, known: frozenset[str]) -> frozenset[str] | None:
        ways: list[frozenset[str] | None] = []
        for branch in (statement, *statement.elif_):
            self._look(branch.test, known)
            ways.append(self.follow(branch.body, known))
        ways.append(self.follow(statement.else_, known))
        open_ways = [way for way in ways if way is not None]
        return frozenset.intersection(*open_ways) if open_ways else None

    def _look(self, node: Any, known: frozenset[str]) -> None:
        """The names that an expression looks up."""
        from jinja2 import nodes

        if isinstance(node, nodes.Node):
            self.read.update(name.name for name in _all(node, nodes.Name) if name.name not in known)

    def _targets(self, target: Any, known: frozenset[str]) -> set[str]:
        """The names that an assignment sets; that of an attribute (`ns.x`) looks its object up."""
        from jinja2 import nodes

        self.read.update(ref.name for ref in _all(target, nodes.NSRef) if ref.name not in known)
        return {name.name for name in _all(target, nodes.Name)}


def _all(node: Any, kind: type) -> list[Any]:
    """The nodes of a kind, the node itself included."""
    return [*([node] if isinstance(node, kind) else []), *node.find_all(kind)]


def _ends(statement: Any) -> bool:
    """Whether nothing behind it is reached: a loop's turn ends there, or the template refuses."""
    from jinja2 import nodes

    if isinstance(statement, nodes.Break | nodes.Continue):
        return True
    said = statement.nodes if isinstance(statement, nodes.Output) else [getattr(statement, "node", None)]
    called = (node.node for node in said if isinstance(node, nodes.Call))
    return any(isinstance(name, nodes.Name) and name.name == "raise_exception" for name in called)


def _generation_tag() -> Any:
    """A Jinja extension that reads `{% generation %}`, which marks the assistant's text for training, as a block."""
    import jinja2.ext
    from jinja2 import nodes

    class GenerationTag(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    return GenerationTag
