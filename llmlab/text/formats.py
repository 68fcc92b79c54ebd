"""How a model writes its reasoning and its tool calls: plain data, read off the chat template that it was trained with.

A `Format` is used from both sides. The segmenter (`text/segments.py`) reads what a model wrote, with some patience for
white space and for the order of JSON keys; the grammar of a required call writes exactly what the template writes:

    start  open before_name NAME after_name ARGUMENTS close  [between open before_name ... close]*  end
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

__all__ = ["CallSyntax", "Format", "ReasoningTags", "detect"]


@dataclass(frozen=True)
class ReasoningTags:
    """What sets off the reasoning. `lead`, `tail` and `separator` are what the template itself writes around it.

    They belong to the reasoning as its tags do: the reasoning's text begins after `lead` and ends before `tail`, the
    content begins after `separator`. Each of them may also be missing, or come in part.
    """

    open: str = "<think>"
    close: str = "</think>"
    lead: str = ""
    tail: str = ""
    separator: str = "\n\n"


@dataclass(frozen=True)
class CallSyntax:
    """How tool calls are written.

    Attributes:
        style: what a call is made of. "json": one object that holds the name and the arguments; "named": the name as
            it is, then the arguments as JSON; "pairs": the name, then a pair of tags for each argument, where a string
            is written as it is and any other value as JSON.
        open: what begins each call, before its body.
        before_name: what stands between `open` and the name.
        after_name: what stands between the name and the arguments.
        close: what follows the arguments.
        start: what begins a turn's calls, before the first.
        between: what separates two calls; None where a turn has only one.
        end: what ends a turn's calls.
        before: what the template writes between a text and the calls that follow it.
        optional_start: what a model may write in place of `start`.
        pair: of "pairs": what comes before a key, between key and value, and after the value.
        id_length: how long the ids of calls have to be for the template to take them back; 0 for any.
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
        """Every string that is not empty."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("style", "id_length"):
                yield from filter(None, value if isinstance(value, tuple) else (value,))


@dataclass(frozen=True)
class Format:
    """How one model family sets off reasoning and tool calls; None for what it does not have."""

    name: str = "plain"
    reasoning: ReasoningTags | None = None
    calls: CallSyntax | None = None

    def controls(self, names: Mapping[int, str]) -> dict[int, bytes]:
        """Which control tokens are delimiters here.

        Args:
            names: the names of the control tokens without text, by id.

        Returns:
            By id, the spelling as which the segmenter takes the token.
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

#: Llama 3.1 to 3.3. Their templates take back one call a turn.
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


#: What response templates call the reasoning.
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")


def detect(
    template: str | None, *, tokens: Collection[str] = (), response_template: Mapping[str, Any] | None = None
) -> Format:
    """The format of a model.

    Args:
        template: the source of its chat template (of all of them, joined, where it has several); None for a base model.
        tokens: the names of the tokens that were added to its vocabulary: the reasoning's tags among them set off the
            reasoning also where the template does not speak of them.
        response_template: how transformers is to read the answers, where the tokenizer says so. The reasoning's tags
            are taken from it if they are plain text. Its calls are regular expressions over a whole answer, which
            cannot be read as they come nor written by a grammar: those are always ours.
    """
    source = (template or "").replace("\\n", "\n").replace('\\"', '"')
    name, calls = _calls(source)
    shipped = _shipped(response_template)
    reasoning = _with_separators(shipped, source) if shipped else _reasoning(source, tokens)
    if calls is None and reasoning is not None:
        name = "think"
    return Format(name=name, reasoning=reasoning, calls=calls)


def _calls(source: str) -> tuple[str, CallSyntax | None]:
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
    found = (response_template or {}).get("fields")
    found = found if isinstance(found, dict) else {}
    field = next((found[name] for name in _REASONING_FIELDS if name in found), None)
    tags = (field.get("open"), field.get("close")) if isinstance(field, dict) else (None, None)
    if not all(isinstance(tag, str) and tag for tag in tags):
        return None
    return ReasoningTags(open=str(tags[0]), close=str(tags[1]))


def _reasoning(source: str, tokens: Collection[str]) -> ReasoningTags | None:
    tags = ReasoningTags()
    if not (tags.open in source and tags.close in source) and not {tags.open, tags.close} <= set(tokens):
        return None
    return _with_separators(tags, source)


def _with_separators(tags: ReasoningTags, source: str) -> ReasoningTags:
    """The tags with what the template writes around them."""
    written = [found[1] for found in re.finditer(re.escape(tags.close) + r"(\n+)", source)]
    separator = max(written, key=len, default="\n" if "<arg_key>" in source else tags.separator)
    return replace(
        tags,
        lead="\n" if tags.open + "\n" in source else "",
        tail="\n" if "\n" + tags.close in source else "",
        separator=separator,
    )
