"""The variables that a chat template reads from its caller, such as `messages` and `enable_thinking`.

Jinja's `meta.find_undeclared_variables` also lists names that a template sets on every path before it reads them: it
does so for 17 of 22 published templates, and `content` alone is listed for nine of them. A request that passes such a
name in `chat_template_kwargs` would be accepted and ignored, so the list is reduced here to names that some path reads
before it sets them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from llmlab.errors import CheckpointError

if TYPE_CHECKING:
    from jinja2 import nodes

__all__ = ["parse", "read_keys", "read_variables"]

#: Names that transformers and Jinja define for every template.
_PREDEFINED = frozenset({"raise_exception", "strftime_now", "range", "dict", "namespace", "lipsum", "cycler", "joiner"})


def read_variables(source: str) -> frozenset[str]:
    """The names that a template looks up in its caller's variables, without those that every template has.

    Raises:
        CheckpointError: the template is not valid Jinja.
    """
    from jinja2 import meta

    tree = parse(source)
    return (_read_unset(tree) & meta.find_undeclared_variables(tree)) - _PREDEFINED


def read_keys(source: str) -> frozenset[str]:
    """The names of attributes and keys that a template reads from any object: `m.role`, `m["role"]`, `m.get("role")`.

    Raises:
        CheckpointError: the template is not valid Jinja.
    """
    from jinja2 import nodes

    tree = parse(source)
    found: set[Any] = {node.attr for node in tree.find_all(nodes.Getattr)}
    found |= {node.arg.value for node in tree.find_all(nodes.Getitem) if isinstance(node.arg, nodes.Const)}
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr == "get" and call.args:
            found |= {call.args[0].value} if isinstance(call.args[0], nodes.Const) else set()
    return frozenset(key for key in found if isinstance(key, str))


def parse(source: str) -> nodes.Template:
    """The syntax tree of a chat template, with the options and extensions that transformers uses.

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
        return env.parse(source)
    except TemplateSyntaxError as error:
        raise CheckpointError(f"the chat template is not valid Jinja (line {error.lineno}): {error.message}") from error


def _read_unset(tree: nodes.Template) -> frozenset[str]:
    """The names that some path through a template reads before it sets them.

    Names that are local to a loop, a macro or another block may be among them; Jinja's own analysis leaves them out.
    """
    paths = _Paths()
    end = paths.follow(tree.body, frozenset()) or frozenset()
    for macro, known in paths.macros:  # a macro may be called after the whole template has run
        paths.follow(macro.body, known | end)
    return frozenset(paths.read)


class _Paths:
    """Follows all paths through statements.

    The state of a path is the set of names that are certainly set; None if the path ends before this point.

    Attributes:
        read: the names that were read where they are not certainly set.
        macros: the macros that were defined, each with the state at its definition.
    """

    def __init__(self) -> None:
        self.read: set[str] = set()
        self.macros: list[tuple[nodes.Macro, frozenset[str]]] = []

    def follow(self, statements: Iterable[nodes.Node], known: frozenset[str] | None) -> frozenset[str] | None:
        """The state after some statements, from the state before them."""
        for statement in statements:
            if known is None:
                break
            known = self._after(statement, known)
        return known

    def _after(self, statement: Any, known: frozenset[str]) -> frozenset[str] | None:
        """The state after one statement."""
        from jinja2 import nodes

        if isinstance(statement, nodes.If):
            return self._after_branches(statement, known)
        header = list(statement.iter_child_nodes(exclude=("test", "body", "else_")))
        bound = frozenset(name.name for part in header for name in _names(part) if not _is_read(name))
        self._look_up(header, known)
        if isinstance(statement, nodes.Macro):
            self.macros.append((statement, known | bound))
            return known | {statement.name}
        # The condition and the body of a loop see its variables. What a block sets does not leave it.
        self._look_up([getattr(statement, "test", None)], known | bound)
        self.follow(getattr(statement, "body", ()), known | bound)
        self.follow(getattr(statement, "else_", ()), known)
        if isinstance(statement, nodes.Assign | nodes.AssignBlock):
            return known | bound
        return None if _ends_path(statement) else known

    def _after_branches(self, statement: nodes.If, known: frozenset[str]) -> frozenset[str] | None:
        """The state after an `if`: the names that every branch sets, except branches that end the path."""
        ends = []
        for branch in (statement, *statement.elif_):
            self._look_up([branch.test], known)
            ends.append(self.follow(branch.body, known))
        ends.append(self.follow(statement.else_, known))
        reached = [end for end in ends if end is not None]
        return frozenset.intersection(*reached) if reached else None

    def _look_up(self, expressions: Iterable[nodes.Node | None], known: frozenset[str]) -> None:
        """Record the names that some expressions read and that are not certainly set."""
        found = (name for expression in expressions if expression for name in _names(expression))
        self.read.update(name.name for name in found if _is_read(name) and name.name not in known)


def _names(node: nodes.Node) -> list[Any]:
    """The names in an expression, the expression itself included."""
    from jinja2 import nodes

    kinds = (nodes.Name, nodes.NSRef)
    return [*([node] if isinstance(node, kinds) else []), *node.find_all(kinds)]


def _is_read(name: Any) -> bool:
    """Whether a name is read, not bound. Setting an attribute (`ns.x`) reads the object."""
    return getattr(name, "ctx", "load") == "load"


def _ends_path(statement: Any) -> bool:
    """Whether no statement after this one runs: `break`, `continue` or a call of `raise_exception`."""
    from jinja2 import nodes

    if isinstance(statement, nodes.Break | nodes.Continue):
        return True
    printed = statement.nodes if isinstance(statement, nodes.Output) else [getattr(statement, "node", None)]
    called = (node.node for node in printed if isinstance(node, nodes.Call))
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
