"""The syntaxes of tool calls of the model families, and which of them a chat template writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import NamedTuple

from llmlab.text.call_syntax import CALL_ID, CallSyntax, Notation

__all__ = [
    "COHERE",
    "DEEPSEEK",
    "DEEPSEEK_V31",
    "FUNCTION_GEMMA",
    "GEMMA",
    "GEMMA_CODE",
    "GLM",
    "GLM_TIGHT",
    "GRANITE",
    "HARMONY",
    "HERMES",
    "KIMI",
    "LLAMA",
    "MINIMAX",
    "MISTRAL",
    "MISTRAL_ARGS",
    "OLMO",
    "PHI",
    "PHI_SINGLE",
    "PYTHON",
    "QWEN_XML",
    "call_syntax",
]

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

#: Llama 3.1 to 3.3, whose templates accept one call per turn; and Gemma 3 with one of Google's published prompts.
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

#: Mistral, from its version 11 tokenizers on. Version 11 (Mistral Small 3.2) also writes the id of each call.
MISTRAL_ARGS = CallSyntax(
    style="named",
    open="[TOOL_CALLS]",
    before_name="",
    after_name="[ARGS]",
    close="",
    between="",
)

#: DeepSeek-V3.1.
DEEPSEEK_V31 = replace(
    DEEPSEEK, open="<｜tool▁call▁begin｜>", after_name="<｜tool▁sep｜>", close="<｜tool▁call▁end｜>", between=""
)

#: GLM-4.7.
GLM_TIGHT = replace(
    GLM, after_name="", pair=("<arg_key>", "</arg_key><arg_value>", "</arg_value>"), between="", before=""
)

#: Qwen3-Coder. Its models often leave out the outer tag.
QWEN_XML = CallSyntax(
    style="pairs",
    open="<tool_call>\n<function=",
    before_name="",
    after_name=">\n",
    pair=("<parameter=", ">\n", "\n</parameter>\n"),
    close="</function>\n</tool_call>",
    before="\n",
    optional_open="<function=",
)

#: MiniMax-M2.
MINIMAX = CallSyntax(
    style="pairs",
    start="<minimax:tool_call>\n",
    open='<invoke name="',
    before_name="",
    after_name='">\n',
    pair=('<parameter name="', '">', "</parameter>\n"),
    close="</invoke>",
    end="\n</minimax:tool_call>",
    before="\n",
)

#: Cohere's Command R7B and Command A. The ids count the calls of a conversation.
COHERE = CallSyntax(
    style="json",
    start="<|START_ACTION|>[\n    ",
    open="",
    before_name=f'{{"tool_call_id": "{CALL_ID}", "tool_name": "',
    after_name='", "parameters": ',
    close="}",
    between=",\n    ",
    end="\n]<|END_ACTION|>",
    id_pattern="[0-9]{1,3}",
)

#: Kimi K2. The number counts the calls of a conversation.
KIMI = CallSyntax(
    style="named",
    start="<|tool_calls_section_begin|>",
    open="<|tool_call_begin|>",
    before_name="functions.",
    after_name=f":{CALL_ID}<|tool_call_argument_begin|>",
    close="<|tool_call_end|>",
    between="",
    end="<|tool_calls_section_end|>",
    id_pattern="[0-9]{1,3}",
)

#: gpt-oss, in the messages of `llmlab.text.channels`. The last text ends the turn, so a turn has one call.
HARMONY = CallSyntax(
    style="named",
    open="<|channel|>commentary to=",
    before_name="functions.",
    after_name=" <|constrain|>json<|message|>",
    close="<|call|>",
    between=None,
)

#: Gemma 4. Its template writes the names of arguments in alphabetical order.
GEMMA = CallSyntax(
    style="literals",
    open="<|tool_call>",
    before_name="call:",
    after_name="{",
    close="}<tool_call|>",
    between="",
    notation=Notation(assign=":", between=",", colon=":", quote='<|"|>', sort=True),
)

#: FunctionGemma, from which Gemma 4's syntax comes.
FUNCTION_GEMMA = replace(
    GEMMA,
    open="<start_function_call>",
    close="}<end_function_call>",
    notation=Notation(assign=":", between=",", colon=":", quote="<escape>", sort=True),
)

#: Python's calls with named arguments, in a list: Gemma 3 with another of Google's published prompts, and Llama 4.
PYTHON = CallSyntax(
    style="literals",
    start="[",
    open="",
    before_name="",
    after_name="(",
    close=")",
    between=", ",
    end="]",
    optional_start="<|python_start|>[",
    notation=Notation(assign="=", between=", ", colon=": ", constants=("True", "False", "None")),
)

#: Gemma 2 and 3, whose templates know no tools, with Google's prompt for code. A model may print what a call returns.
GEMMA_CODE = replace(
    PYTHON, start="```tool_code\n", between="\n", end="\n```", optional_start="", optional_open="print("
)

#: OLMo 3.
OLMO = replace(PYTHON, start="<function_calls>\n", between="\n", end="\n</function_calls>", optional_start="")

#: Phi-4-mini.
PHI = CallSyntax(
    style="json",
    start="<|tool_call|>[",
    open="",
    before_name='{"name": "',
    after_name='", "arguments": ',
    close="}",
    between=", ",
    end="]<|/tool_call|>",
    optional_start="functools[",
)

#: Phi-4-mini with a template that asks for one call between its tags.
PHI_SINGLE = replace(
    PHI, start="", open="<|tool_call|>", close="}<|/tool_call|>", between="", end="", optional_start=""
)

#: Granite 3.0 to 3.3. Granite 4 writes calls as Qwen does.
GRANITE = replace(PHI, end="]", optional_start="")


class _Known(NamedTuple):
    """A syntax that a template may write.

    Attributes:
        name: the format's name.
        syntax: the syntax, or a function that returns it from the template's source.
        marks: regular expressions, all of which occur in the source of a template that writes it.
    """

    name: str
    syntax: CallSyntax | Callable[[str], CallSyntax]
    marks: tuple[str, ...]


def _mistral(source: str) -> CallSyntax:
    """Mistral's syntax, with what its template says about the ids of calls."""
    found = re.search(r"id\|length != (\d+)", source)
    length = int(found[1]) if found else 0
    if "[ARGS]" not in source:
        start = "[TOOL_CALLS] [" if "[TOOL_CALLS] [" in source else MISTRAL.start  # the first models write a space
        return replace(MISTRAL, start=start, id_length=length)
    if "[CALL_ID]" not in source:
        return replace(MISTRAL_ARGS, id_length=length)
    pattern = f"[a-zA-Z0-9]{{{length or '1,64'}}}"
    return replace(MISTRAL_ARGS, after_name=f"[CALL_ID]{CALL_ID}[ARGS]", id_pattern=pattern, id_length=length)


#: The syntaxes in the order in which they are looked for: a template may hold the marks of several.
_KNOWN = (
    _Known("deepseek", DEEPSEEK, ("<｜tool▁call▁begin｜>", "```json")),
    _Known("deepseek", DEEPSEEK_V31, ("<｜tool▁call▁begin｜>",)),
    _Known("glm", GLM_TIGHT, (re.escape(GLM_TIGHT.pair[1]),)),
    _Known("glm", GLM, ("<arg_key>",)),
    _Known("minimax", MINIMAX, ("<minimax:tool_call>",)),
    _Known("harmony", HARMONY, (r"<\|channel\|>", r"<\|message\|>", r"<\|call\|>", r"functions\.")),
    _Known("gemma", GEMMA, (r"<\|tool_call>call:", r'<\|"\|>')),
    _Known("gemma", FUNCTION_GEMMA, ("<start_function_call>call:", "<escape>")),
    _Known("qwen-xml", QWEN_XML, ("<tool_call>", "<function=", "<parameter=")),
    _Known("hermes", HERMES, ("<tool_call>", '{"name": ')),
    _Known("kimi", KIMI, (r"<\|tool_call_argument_begin\|>",)),
    _Known("cohere", COHERE, (r"<\|START_ACTION\|>", '"tool_name": "')),
    _Known("mistral", _mistral, (r"\[TOOL_CALLS\]", r"\[ARGS\]|\[TOOL_CALLS\] ?\[")),
    _Known("phi", PHI_SINGLE, (r"<\|tool_call\|>\{", r"<\|/tool_call\|>")),
    _Known("phi", PHI, (r"<\|tool_call\|>", r"<\|/tool_call\|>")),
    _Known("phi", PHI, (r"functools\[",)),
    _Known("granite", GRANITE, (r"<\|tool_call\|>",)),
    _Known("olmo", OLMO, (r"(?s)\A(?!.*<invoke).*<function_calls>",)),
    _Known("gemma-code", GEMMA_CODE, ("```tool_code",)),
    _Known("python", PYTHON, (r"\[func_name1\(|\[\w+\(\w+=|<\|python_start\|>",)),
    _Known("llama", LLAMA, ('{"name": "', '"parameters": ')),
    _Known("llama", LLAMA, (r'\{"name": function name, "parameters": ',)),
)


def call_syntax(source: str, *, tokens: Collection[str] = ()) -> tuple[str, CallSyntax | None]:
    """Returns a format's name and its syntax of tool calls, recognized by the texts that a template contains.

    Args:
        source: the source of the template, without escapes in its strings.
        tokens: the names of the tokens that were added to the vocabulary. They decide where the template itself shows
            no call: Phi-4-mini's lists tools and leaves it to the model how to call them.

    Returns:
        ("plain", None) where no syntax is recognized.
    """
    for text in (source, "\n".join([source, *tokens])):
        for known in _KNOWN:
            if all(re.search(mark, text) for mark in known.marks):
                return known.name, known.syntax if isinstance(known.syntax, CallSyntax) else known.syntax(source)
    return "plain", None
