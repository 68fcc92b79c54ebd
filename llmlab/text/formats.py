"""How a model writes its reasoning and its tool calls, as plain data detected from its chat template.

A `Format` is used in two ways. The segmenter (`text/segments.py`) reads what a model wrote, and tolerates other white
space and another order of JSON keys. The grammar of a required tool call generates exactly what the template writes:

    start  open before_name NAME after_name ARGUMENTS close  [between open before_name ... close]*  end
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal

__all__ = ["CallSyntax", "Format", "ReasoningTags", "detect", "markers"]

_MARKER = re.compile(r"<[^<>]*>|\[[A-Z_/]+\]|```[a-z]*|\w+|\S")


@dataclass(frozen=True)
class ReasoningTags:
    """The delimiters of the reasoning.

    `lead`, `tail` and `separator` are the white space that the chat template writes around the tags. They count as part
    of the delimiters, and a model may write all, a part or none of each.

    Attributes:
        open: the tag that begins the reasoning.
        close: the tag that ends it.
        lead: the white space between `open` and the reasoning's text.
        tail: the white space between the reasoning's text and `close`.
        separator: the white space between `close` and the content.
    """

    open: str = "<think>"
    close: str = "</think>"
    lead: str = ""
    tail: str = ""
    separator: str = "\n\n"


@dataclass(frozen=True)
class CallSyntax:
    """How a model writes tool calls. All texts are literal.

    Attributes:
        style: the form of a call. "json": one object with the name and the arguments; "named": the name without
            quotes, then the arguments as JSON; "pairs": the name, then for each argument its name and its value between
            tags, where a string has no quotes and any other value is JSON.
        open: the text that begins each call.
        before_name: the text between `open` and the name.
        after_name: the text between the name and the arguments.
        close: the text that ends each call, after the arguments.
        start: the text before the first call of a turn.
        between: the text between two calls; None if a turn can have only one call.
        end: the text after the last call of a turn.
        before: the white space that the template writes between the content and the calls that follow it.
        optional_start: a text that a model may write in place of `start`.
        pair: for "pairs", the texts before an argument's name, between its name and its value, and after its value.
        id_length: the length that the template requires of call ids; 0 if it accepts any.
    """

    style: Literal["json", "named", "pairs"]
    open: str
    before_name: str
    after_name: str
    close: str
    start: str = ""
    between: str | None = "\n"
    end: str = ""
    before: str = ""
    optional_start: str = ""
    pair: tuple[str, str, str] = ("", "", "")
    id_length: int = 0

    def texts(self) -> Iterator[str]:
        """Every text of this syntax that is not empty."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("style", "id_length"):
                yield from filter(None, value if isinstance(value, tuple) else (value,))


@dataclass(frozen=True)
class Format:
    """How one model family writes reasoning and tool calls.

    Attributes:
        name: a short name of the format.
        reasoning: the reasoning's delimiters; None for a model that does not reason.
        calls: the syntax of tool calls; None for a model that makes none.
    """

    name: str = "plain"
    reasoning: ReasoningTags | None = None
    calls: CallSyntax | None = None

    def controls(self, names: Mapping[int, str]) -> dict[int, bytes]:
        """The control tokens that are delimiters in this format.

        Args:
            names: the names of the control tokens that have no text, by id.

        Returns:
            By id, the bytes that the segmenter reads in place of the token.
        """
        texts = list(self.calls.texts()) if self.calls else []
        if self.reasoning:
            texts += [self.reasoning.open, self.reasoning.close]
        return {token: name.encode() for token, name in names.items() if any(name in text for text in texts)}


#: The embedded model, Qwen 2.5 and 3, Hermes.
HERMES = CallSyntax(
    style="json",
    open="<tool_call>\n",
    before_name='{"name": "',
    after_name='", "arguments": ',
    close="}\n</tool_call>",
    before="\n",
)

#: DeepSeek-R1 and the models distilled from it.
DEEPSEEK = CallSyntax(
    style="named",
    start="<｜tool▁calls▁begin｜>",
    open="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    before_name="",
    after_name="\n```json\n",
    close="\n```<｜tool▁call▁end｜>",
    end="<｜tool▁calls▁end｜>",
)

#: GLM-4.5 and 4.6.
GLM = CallSyntax(
    style="pairs",
    open="<tool_call>",
    before_name="",
    after_name="\n",
    pair=("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n"),
    close="</tool_call>",
    before="\n",
)

#: Llama 3.1 to 3.3. Their templates accept one call per turn.
LLAMA = CallSyntax(
    style="json",
    open="",
    before_name='{"name": "',
    after_name='", "parameters": ',
    close="}",
    between=None,
    optional_start="<|python_tag|>",
)

#: Mistral, from its version 3 tokenizers on.
MISTRAL = CallSyntax(
    style="json",
    start="[TOOL_CALLS][",
    open="",
    before_name='{"name": "',
    after_name='", "arguments": ',
    close="}",
    between=", ",
    end="]",
)


#: The names that response templates use for the reasoning.
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")


def detect(
    template: str | None, *, tokens: Collection[str] = (), response_template: Mapping[str, Any] | None = None
) -> Format:
    """The format of a model, detected from what its tokenizer holds.

    Args:
        template: the source of the chat template (of all of them, joined, if there are several); None for a base model.
        tokens: the names of the tokens that were added to the vocabulary. If the reasoning's tags are among them, the
            model has reasoning even if the template does not mention the tags.
        response_template: the tokenizer's description of how transformers parses answers, if it has one. The
            reasoning's tags are taken from it if they are plain text. Its tool calls are not used: they are regular
            expressions over a whole answer, which can neither be applied to a stream nor turned into a grammar.
    """
    source = (template or "").replace("\\n", "\n").replace('\\"', '"')
    name, calls = _calls(source)
    shipped = _shipped(response_template)
    reasoning = _with_separators(shipped, source) if shipped else _reasoning(source, tokens)
    if calls is None and reasoning is not None:
        name = "think"
    return Format(name=name, reasoning=reasoning, calls=calls)


@lru_cache(maxsize=256)
def markers(delimiter: str) -> tuple[bytes, ...]:
    """The parts of a delimiter (tags, words, single signs) between which a model may write white space."""
    return tuple(part.encode() for part in _MARKER.findall(delimiter))


def _calls(source: str) -> tuple[str, CallSyntax | None]:
    """The format's name and its syntax of tool calls, recognized by the texts that the template contains."""
    if "<｜tool▁call▁begin｜>" in source:
        return "deepseek", DEEPSEEK
    if "<arg_key>" in source:
        return "glm", GLM
    if "<tool_call>" in source and '{"name": ' in source:
        return "hermes", HERMES
    if "[TOOL_CALLS][" in source:
        found = re.search(r"id\|length != (\d+)", source)
        return "mistral", replace(MISTRAL, id_length=int(found[1]) if found else 0)
    if '{"name": "' in source and '"parameters": ' in source:
        return "llama", LLAMA
    return "plain", None


def _shipped(response_template: Mapping[str, Any] | None) -> ReasoningTags | None:
    """The reasoning's tags in a response template; None if it has none as plain text."""
    found = (response_template or {}).get("fields")
    found = found if isinstance(found, dict) else {}
    field = next((found[name] for name in _REASONING_FIELDS if name in found), None)
    tags = (field.get("open"), field.get("close")) if isinstance(field, dict) else (None, None)
    if not all(isinstance(tag, str) and tag for tag in tags):
        return None
    return ReasoningTags(open=str(tags[0]), close=str(tags[1]))


def _reasoning(source: str, tokens: Collection[str]) -> ReasoningTags | None:
    """The usual tags, if the template contains them or the vocabulary has them as tokens."""
    tags = ReasoningTags()
    if not (tags.open in source and tags.close in source) and not {tags.open, tags.close} <= set(tokens):
        return None
    return _with_separators(tags, source)


def _with_separators(tags: ReasoningTags, source: str) -> ReasoningTags:
    """The tags with the white space that the template writes around them."""
    written = [found[1] for found in re.finditer(re.escape(tags.close) + r"(\n+)", source)]
    separator = max(written, key=len, default="\n" if "<arg_key>" in source else tags.separator)
    return replace(
        tags,
        lead="\n" if tags.open + "\n" in source else "",
        tail="\n" if "\n" + tags.close in source else "",
        separator=separator,
    )
