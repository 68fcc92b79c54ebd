"""How a model writes its reasoning and its tool calls, as plain data detected from its chat template.

The segmenter (`text/segments.py`) reads what a model wrote by its `Format`; grammars generate it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmlab.text.call_families import GLM, HARMONY, call_syntax
from llmlab.text.call_syntax import CallSyntax, markers
from llmlab.text.channels import Channels
from llmlab.text.response_template import agrees, shipped_calls, shipped_tags

__all__ = ["REASONING_TAGS", "Format", "ReasoningTags", "detect"]


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
class Format:
    """How one model family writes reasoning and tool calls.

    Attributes:
        name: a short name of the format.
        reasoning: the reasoning's delimiters; None for a model that does not reason.
        calls: the syntax of tool calls; None for a model that makes none.
        channels: for a model whose turns consist of messages with headers, how these are written. Its reasoning and its
            calls are such messages.
    """

    name: str = "plain"
    reasoning: ReasoningTags | None = None
    calls: CallSyntax | None = None
    channels: Channels | None = None

    @property
    def begin(self) -> bytes:
        """The control token with which each message of a turn begins; empty for turns that are one message."""
        return markers(self.channels.start)[0] if self.channels else b""

    def controls(self, names: Mapping[int, str]) -> dict[int, bytes]:
        """The control tokens that are delimiters in this format.

        Args:
            names: the names of the control tokens that have no text, by id.

        Returns:
            By id, the bytes that the segmenter reads in place of the token.
        """
        texts = [*(self.calls.texts() if self.calls else ()), *(self.channels.texts() if self.channels else ())]
        if self.reasoning:
            texts += [self.reasoning.open, self.reasoning.close]
        return {token: name.encode() for token, name in names.items() if any(name in text for text in texts)}


#: The reasoning's delimiters of the families; those of Mistral and of Cohere are control tokens.
REASONING_TAGS = (
    ReasoningTags(),
    ReasoningTags("[THINK]", "[/THINK]", separator=""),
    ReasoningTags("<|START_THINKING|>", "<|END_THINKING|>", separator=""),
    ReasoningTags("<|channel>thought", "<channel|>", lead="\n", tail="\n", separator=""),
    ReasoningTags("<|channel|>analysis<|message|>", "<|end|>", separator="<|start|>assistant"),
    ReasoningTags("Here is my thought process:", "Here is my response:", lead="\n\n", tail="\n\n"),
)

#: Where a template joins two strings, each in quotation marks.
_CONCATENATION = re.compile(r"""(["'])\s*[~+]\s*\1""")

#: The layouts of turns that consist of messages.
_CHANNELS = (Channels(),)


def detect(
    template: str | None, *, tokens: Collection[str] = (), response_template: Mapping[str, Any] | None = None
) -> Format:
    """The format of a model, detected from what its tokenizer holds.

    Args:
        template: the source of the chat template (of all of them, joined, if there are several); None for a base model.
        tokens: the names of the tokens that were added to the vocabulary. If the reasoning's tags are among them, the
            model has reasoning even if the template does not mention the tags.
        response_template: the tokenizer's description of how transformers parses answers, if it has one. It decides
            over what the chat template shows, which says more about white space where both mean the same.
    """
    source = _CONCATENATION.sub("", (template or "").replace("\\n", "\n").replace('\\"', '"'))
    name, calls = call_syntax(source, tokens=tokens)
    shipped = shipped_calls(response_template)
    if shipped and not (calls and agrees(shipped, calls)):
        name, calls = "response-template", shipped
    channels = next((one for one in _CHANNELS if all(text in source for text in (one.channel, one.message))), None)
    reasoning = _reasoning(source, tokens, calls, shipped_tags(response_template))
    if channels:
        reasoning = ReasoningTags(channels.header(channels.reasoning[0]), channels.end, separator=channels.start)
    elif calls == HARMONY:
        name, calls = "plain", None
    if calls is None and reasoning is not None:
        name = "think"
    return Format(name=name, reasoning=reasoning, calls=calls, channels=channels)


def _reasoning(
    source: str, tokens: Collection[str], calls: CallSyntax | None, shipped: tuple[str, str] | None
) -> ReasoningTags | None:
    """The tags of the response template, else those that the chat template contains, else those that are tokens."""
    if shipped:
        opens, closes = (text.strip() for text in shipped)
        same = (tags for tags in REASONING_TAGS if (tags.open, tags.close) == (opens, closes))
        lead = shipped[0][len(shipped[0].rstrip()) :]
        return _with_separators(next(same, ReasoningTags(opens, closes, lead=lead)), source, calls)
    written = (tags for tags in REASONING_TAGS if tags.open in source and tags.close in source)
    known = (tags for tags in REASONING_TAGS if {tags.open, tags.close} <= set(tokens))
    tags = next(written, None) or next(known, None)
    return _with_separators(tags, source, calls) if tags else None


def _with_separators(tags: ReasoningTags, source: str, calls: CallSyntax | None) -> ReasoningTags:
    """The tags with the white space that the template writes around them."""
    written = [found[1] for found in re.finditer(re.escape(tags.close) + r"(\n+)", source)]
    separator = max(written, key=len, default="\n" if calls == GLM else tags.separator)
    return replace(
        tags,
        lead="\n" if tags.open + "\n" in source else tags.lead,
        tail="\n" if "\n" + tags.close in source else tags.tail,
        separator=separator,
    )
