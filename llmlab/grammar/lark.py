"""Checks a Lark grammar that a user wrote, and rewrites the JSON schemas in it."""

from __future__ import annotations

import json
import re

from llmlab.grammar.schema import llguidance_schema
from llmlab.grammar.vocabulary import GrammarError

__all__ = ["checked_lark"]

#: How many "&" and "~" a grammar may have: llguidance needs exponential time for many regular expressions at once.
MOST_OPERATORS = 6

#: What a grammar consists of, as far as it matters here. A slash begins a regular expression wherever it can.
_PIECE = re.compile(
    r"""
    (?P<comment> //[^\n]* | \#[^\n]* )
  | (?P<text> "(?:\\.|[^"\\\n])*"i? )
  | (?P<regex> /(?!/)(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n])+/[imslux]* )
  | (?P<schema> %json\b )
  | (?P<directive> %(?:llguidance|regex|lark)\b )
  | (?P<token> <[^>\s]*> )
  | (?P<other_grammar> @[\w-]+ )
  | (?P<options> (?<=[\w-])\[[^\]\n]*\] )
  | (?P<operator> [&~] )
  | (?P<rest> . )
    """,
    re.VERBOSE | re.DOTALL,
)
#: Options of a rule that llguidance would pass over here, or that need tokens to be taken back.
_OPTION = re.compile(r"\b(stop|stop_capture|max_tokens|temperature)\b")


def checked_lark(source: str, path: str) -> str:
    """The grammar, with JSON schemas rewritten so that they are enforced as everywhere else.

    Args:
        source: the grammar in llguidance's dialect of Lark; its first rule is called `start`.
        path: what the path of an error begins with.

    Raises:
        GrammarError: a part that cannot be enforced, or a grammar that llguidance does not accept.
    """
    if re.search(r"^\s*root\s*::=", source, re.MULTILINE):
        raise GrammarError("this is GBNF (root ::= ...); write Lark (start: ...)", path=path)
    made, at, operators = [], 0, 0
    while at < len(source):
        found = _PIECE.match(source, at)
        assert found is not None, "any character is a piece"
        kind, text, at = found.lastgroup, found.group(), found.end()
        line = source.count("\n", 0, found.start()) + 1
        if kind == "schema":
            schema, at = _schema(source, at, f"{path} line {line}")
            text = f"%json {schema}"
        elif kind == "token":
            raise GrammarError(f"{text} names a token; only texts can be enforced", path=f"{path} line {line}")
        elif kind == "other_grammar":
            raise GrammarError(f"{text} names another grammar; write its rules here", path=f"{path} line {line}")
        elif kind == "directive":
            raise GrammarError(f"{text} is not supported", path=f"{path} line {line}")
        elif kind == "options" and (option := _OPTION.search(text)):
            raise GrammarError(f"the option {option.group()!r} cannot be enforced", path=f"{path} line {line}")
        operators += kind == "operator"
        if operators > MOST_OPERATORS:
            raise GrammarError(f"more than {MOST_OPERATORS} signs & and ~ cannot be followed", path=path)
        made.append(text)
    return _accepted("".join(made), path)


def _schema(source: str, at: int, path: str) -> tuple[str, int]:
    """The rewritten JSON schema that begins at a place in the grammar, and the place after it."""
    start = at + len(source[at:]) - len(source[at:].lstrip())
    try:
        schema, end = json.JSONDecoder().raw_decode(source, start)
    except ValueError as error:
        raise GrammarError(f"%json is not followed by JSON: {error}", path=path) from None
    except RecursionError:
        raise GrammarError("the schema is nested too deeply", path=path) from None
    try:
        return json.dumps(llguidance_schema(schema), ensure_ascii=False), end
    except GrammarError as error:
        raise GrammarError(error.message, path=f"{path} {error.path}") from None


def _accepted(source: str, path: str) -> str:
    """The grammar, if llguidance accepts it."""
    from llguidance import LLMatcher

    from llmlab.grammar.vocabulary import error_text

    told = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark("%llguidance {}\n" + source)).strip()
    if told:
        raise GrammarError(error_text(told), path=path)
    return source
