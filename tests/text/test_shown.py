"""Every message's text stands in the prompt, in whatever form the template shows it; otherwise it is named."""

from __future__ import annotations

import copy
import json
import re

import pytest

from llmlab.errors import RequestError
from llmlab.text.template import ChatTemplate
from llmlab.text.tokenizer import Tokenizer

#: A loop over content parts, as Llama Guard 3 has it: a string is no part, and renders as nothing.
PARTS = (
    "{% for message in messages %}{{ '[' + message.role + ']' }}{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}"
)
#: Parts from the user and strings from everybody else.
MIXED = (
    "{% for message in messages %}{% if message.role == 'user' %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "{% else %}{{ message.content + '; ' }}{% endif %}{% endfor %}"
)
#: No branch for any role except the user and the assistant; the text "hi" stands in its own words.
TWO_ROLES = (
    "hi, I am this assistant. {% for message in messages %}{% if message.role in ('user', 'assistant') %}"
    "{{ message.content }}{% endif %}{% endfor %}"
)
ESCAPED = "{% for message in messages %}{{ message.content | tojson }}{% endfor %}"
STRIPPED = (
    "{% for message in messages %}{{ message.content.split('</think>')[-1] | trim }};{% endfor %}"
    "{% if false %}{{ messages[0].reasoning_content }}{% endif %}"
)

USER = {"role": "user", "content": "hi"}


def call(index=0, text="UTC"):
    function = {"name": "now", "arguments": json.dumps({"zone": text})}
    return {"id": f"abcdefgh{index}", "type": "function", "function": function}


@pytest.mark.parametrize(
    ("source", "messages", "want"),
    [
        (PARTS, [USER], "[user]hi"),
        (PARTS, [{"role": "system", "content": "a"}, USER], "[system]a[user]hi"),
        (PARTS, [{"role": "user", "content": [{"type": "text", "text": part} for part in "hi"]}], "[user]hi"),
        (MIXED, [{"role": "system", "content": "a"}, USER], "a; hi"),
        (ESCAPED, [{"role": "user", "content": 'a "b"\n<c>'}], json.dumps('a "b"\n<c>')),
        (STRIPPED, [USER, {"role": "assistant", "content": "<think>so</think> yes "}], "hi;yes;"),
        (STRIPPED, [USER, {"role": "assistant", "content": "yes", "reasoning_content": "so"}], "hi;yes;"),
        (TWO_ROLES, [USER], "hi, I am this assistant. hi"),
        (TWO_ROLES, [{"role": "system", "content": " \n"}, USER], "hi, I am this assistant. hi"),
    ],
)  # fmt: skip
def test_the_form_that_shows_every_text_is_used(byte_level, source, messages, want):
    template = ChatTemplate(byte_level, source)
    for _ in range(2):
        assert template.render(messages) == want and template.notes(messages) == ()


@pytest.mark.parametrize("role", ["system", "developer", "tool"])
@pytest.mark.parametrize("at", [0, 1])
def test_a_message_that_no_form_shows_is_an_error_that_names_it(byte_level, role, at):
    messages = [USER, USER]
    messages.insert(at, {"role": role, "content": "hi", "tool_call_id": "a"})
    template = ChatTemplate(byte_level, TWO_ROLES)
    for _ in range(2):
        with pytest.raises(RequestError, match=rf"messages\[{at}\].*role") as caught:
            template.render(messages)
        assert caught.value.param == "messages"


def test_a_developer_is_the_system_to_templates_that_do_not_name_the_role(byte_level):
    chat = [{"role": "developer", "content": "a"}, USER]
    assert ChatTemplate(byte_level, PARTS).render(chat) == "[system]a[user]hi"
    knows = PARTS + "{% if messages[0].role == 'developer' %}!{% endif %}"
    assert ChatTemplate(byte_level, knows).render(chat) == "[developer]a[user]hi!"


def test_what_an_assistant_said_beside_its_calls_is_a_note(byte_level):
    source = (
        "{% for m in messages %}{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments.zone }}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    answer = {"role": "assistant", "content": "So:", "tool_calls": [call(0, "UTC"), call(1, "CET")]}
    template = ChatTemplate(byte_level, source)
    chat = [USER, answer, {"role": "tool", "content": "noon"}]
    text, second = template.notes(chat)
    assert template.render(chat) == "hiUTCnoon" and template.notes(chat) == (text, second)
    assert text.startswith("messages[1]: ") and "text beside the tool calls" in text
    assert second.startswith("messages[1].tool_calls[1]: ") and "tool call" in second


def test_tools_that_a_template_leaves_out_are_a_note(byte_level):
    source = "{% for m in messages %}{{ m.content }}{% endfor %}{% if tools %}{{ tools[0] | tojson }}{% endif %}"
    template = ChatTemplate(byte_level, source)
    other = {**TOOL, "function": {**TOOL["function"], "name": "later"}}
    assert template.notes([USER], tools=[TOOL]) == ()
    (note,) = template.notes([USER], tools=[TOOL, other])
    assert note.startswith("tools[1]: ") and '"now"' in template.render([USER], tools=[TOOL, other])


def test_what_a_template_decides_by_belongs_to_the_shape(byte_level):
    source = "{% for m in messages if not m.hidden %}{{ m.content }}{% endfor %}"
    template = ChatTemplate(byte_level, source)
    assert template.render([USER, {**USER, "hidden": False}]) == "hihi"
    with pytest.raises(RequestError, match=r"messages\[1\]"):
        template.render([USER, {**USER, "hidden": True}])


def test_a_shape_that_is_known_costs_one_rendering(byte_level, monkeypatch):
    template = ChatTemplate(byte_level, PARTS)
    counted = []
    inner = byte_level.hf.apply_chat_template
    monkeypatch.setattr(byte_level.hf, "apply_chat_template", lambda *a, **k: counted.append(1) or inner(*a, **k))
    template.render([USER])
    first = len(counted)
    for text in ("one", "two", "three"):
        assert template.render([{"role": "user", "content": text}]) == f"[user]{text}"
        assert template.notes([{"role": "user", "content": text}]) == ()
    assert len(counted) == first + 3


@pytest.mark.parametrize("spaces", ["", " ", "  \n", "\n\n"])
def test_the_white_space_that_a_template_trims_is_kept_where_the_message_goes_on(byte_level, spaces):
    template = ChatTemplate(byte_level, "{% for m in messages %}<{{ m.content | trim }}>{% endfor %}")
    said = {"role": "assistant", "content": "Once upon" + spaces}
    assert template.render([USER, said], continue_final_message=True) == "<hi><Once upon" + spaces


TOOL = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object"}}}


def said(role, index, **more):
    return {"role": role, "content": f"words{index}of it", **more}


def called(*calls, content=None):
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def result(index, call_index=0):
    return said("tool", index, tool_call_id=f"abcdefgh{call_index}", name="now")


SHAPES = {
    "system": [said("system", 0), said("user", 1)],
    "developer": [said("developer", 0), said("user", 1)],
    "turns": [said("system", 0), said("user", 1), said("assistant", 2), said("user", 3)],
    "system within": [said("user", 0), said("assistant", 1), said("system", 2), said("user", 3)],
    "a call": [said("user", 0), called(call(0, "words1of it")), result(2)],
    "a call and text": [said("user", 0), called(call(0, "words1of it"), content="words2of it"), result(3)],
    "two calls": [
        said("user", 0), called(call(0, "words1of it"), call(1, "words2of it")), result(3), result(4, 1),
    ],
    "after a call": [said("user", 0), called(call(0, "words1of it")), result(2), said("assistant", 3), said("user", 4)],
    "reasoning": [said("user", 0), said("assistant", 1, reasoning_content="hm"), said("user", 2)],
}  # fmt: skip


def test_real_templates_show_every_text_or_name_it(shared_data):
    """Every template x every chat: what the prompt lacks is exactly what the error or the notes name."""
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "qwen3")
    whole = noted = refused = 0
    for path in sorted((shared_data / "templates").glob("*.jinja")):
        template = ChatTemplate(tokenizer, path)
        for name, chat in SHAPES.items():
            for tools in (None, [TOOL]) if template.has_switch("tools") else (None,):
                before = copy.deepcopy(chat)
                try:
                    text = template.render(chat, tools=tools)
                except RequestError as error:
                    refused += 1
                    named = re.match(r"messages\[(\d+)\]", str(error))
                    assert named is None or chat[int(named[1])]["role"] in ("system", "developer", "tool")
                    continue
                assert chat == before
                lacking = set()
                for index, message in enumerate(chat):
                    if message["content"] and message["content"] not in text:
                        lacking.add(f"messages[{index}]")
                    for at, one in enumerate(message.get("tool_calls", ())):
                        if json.loads(one["function"]["arguments"])["zone"] not in text:
                            lacking.add(f"messages[{index}].tool_calls[{at}]")
                assert lacking == {note.partition(":")[0] for note in template.notes(chat, tools=tools)}, (
                    f"{path.name}, {name}"
                )
                whole, noted = whole + (not lacking), noted + bool(lacking)
    print(f"\n{whole} prompts show every text, {noted} say what they lack, {refused} are refused")
    assert whole > 200 and noted > 10
