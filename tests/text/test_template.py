from __future__ import annotations

import json

import pytest

from llmlab.errors import CheckpointError, RequestError
from llmlab.text.template import ChatTemplate
from llmlab.text.tokenizer import Tokenizer

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object"}}}
PROMPT = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def template(byte_level):
    return ChatTemplate(byte_level)


def test_a_conversation_becomes_the_models_prompt(template, byte_level):
    prompt = template.prompt([USER])
    assert prompt.text == PROMPT
    assert prompt.ids == byte_level.encode(PROMPT)
    assert prompt.ids[0] == byte_level.id_of("<|im_start|>")


def test_the_header_of_the_answer_can_be_left_out(template):
    assert template.render([USER], add_generation_prompt=False) == PROMPT.removesuffix("<|im_start|>assistant\n")


def test_text_parts_are_joined(template):
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    assert template.render([{"role": "user", "content": parts}]) == PROMPT


def test_the_last_message_can_be_continued(template):
    text = template.render([USER, {"role": "assistant", "content": "Once upon "}], continue_final_message=True)
    assert text == PROMPT + "Once upon "


def test_switches(template):
    assert template.has_switch("enable_thinking") and template.has_switch("tools")
    assert not template.has_switch("reasoning_effort")
    assert template.render([USER], enable_thinking=False) == PROMPT + "<think>\n\n</think>\n\n"
    assert template.render([USER], enable_thinking=True) == PROMPT
    assert template.render([USER], extra={"enable_thinking": False}).endswith("</think>\n\n")


def test_a_variable_that_the_template_tests_and_then_sets_is_a_switch(byte_level):
    source = "{% if mode is not defined %}{% set mode = 'calm' %}{% endif %}{{ mode }}{{ messages[0].content }}"
    template = ChatTemplate(byte_level, source)
    assert template.has_switch("mode")
    assert template.render([USER], extra={"mode": "loud "}) == "loud hi"


SAYS = "{{ messages[0].role }}:{{ messages[0].content }}"


@pytest.mark.parametrize(
    ("source", "given", "written"),
    [
        (SAYS + "{{ reasoning_effort }}", {"reasoning_effort": "high"}, "high"),
        (SAYS + "{{ reasoning_effort }}{{ enable_thinking }}", {"reasoning_effort": "none"}, "none"),
        (SAYS + "{{ enable_thinking }}", {"reasoning_effort": "none"}, "False"),
        (SAYS + "{{ enable_thinking }}", {"reasoning_effort": "minimal"}, "True"),
        (SAYS + "{{ thinking }}", {"reasoning_effort": "low"}, "True"),
        (SAYS + "{{ thinking }}", {"enable_thinking": False}, "False"),
        (SAYS + "{{ thinking }}", {"enable_thinking": True, "extra": {"thinking": True}}, "True"),
    ],
)
def test_the_effort_is_the_templates_variable_or_its_switch(byte_level, source, given, written):
    assert ChatTemplate(byte_level, source).render([USER], **given) == "user:hi" + written


def test_an_effort_that_nothing_reads_or_that_contradicts_is_refused(byte_level):
    with pytest.raises(RequestError, match="has no switch of its reasoning; leave the field out") as caught:
        ChatTemplate(byte_level, SAYS).render([USER], reasoning_effort="low")
    assert caught.value.param == "reasoning_effort"
    with pytest.raises(RequestError, match="sets the template's enable_thinking to False") as caught:
        source = SAYS + "{{ enable_thinking }}"
        ChatTemplate(byte_level, source).render([USER], enable_thinking=True, reasoning_effort="none")
    assert caught.value.param == "reasoning_effort"


def test_tools_reach_the_template(template):
    assert '"name": "now"' in template.render([USER], tools=[TOOL])


@pytest.mark.parametrize(
    ("options", "param", "says"),
    [
        ({"extra": {"reasoning_effort": "low"}}, "chat_template_kwargs", "does not read it"),
        ({"extra": {"tokenize": True}}, "chat_template_kwargs", "set by the request itself"),
        (
            {"extra": {"enable_thinking": True}, "enable_thinking": False},
            "enable_thinking",
            "another field sets it to True",
        ),
        ({"continue_final_message": True}, "continue_final_message", "final message"),
    ],
)
def test_what_the_template_would_ignore_is_an_error(template, options, param, says):
    messages = [USER, {"role": "assistant"}] if "continue_final_message" in options else [USER]
    with pytest.raises(RequestError, match=says) as caught:
        template.render(messages, **options)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("options", "param"), [({"enable_thinking": True}, "enable_thinking"), ({"tools": [TOOL]}, "tools")]
)
def test_a_template_without_the_switch_refuses_it(byte_level, options, param):
    plain = ChatTemplate(byte_level, "{{ messages[0].content }}")
    with pytest.raises(RequestError) as caught:
        plain.render([USER], **options)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (None, "no such role here"),
        ("{{ messages[0].nothing.more }}", "has no attribute"),
        ("{{ 'a' + messages }}", "concatenate"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_what_goes_wrong_inside_a_template_is_an_error_about_the_messages(byte_level, source, says):
    with pytest.raises(RequestError, match=says) as caught:
        ChatTemplate(byte_level, source).render([{"role": "nobody", "content": "hi"}])
    assert caught.value.param == "messages" and caught.value.status == 400


def test_a_model_without_a_template_points_the_way(sentencepiece):
    template = ChatTemplate(sentencepiece)
    assert not template.exists and not template.has_switch("tools")
    with pytest.raises(RequestError, match=r"lab\.complete.*chat_template") as caught:
        template.render([USER])
    assert caught.value.param == "messages"


def test_a_template_can_be_given_as_a_file(sentencepiece, tmp_path):
    path = tmp_path / "chat.jinja"
    path.write_text("{{ messages[0].content }}!")
    assert ChatTemplate(sentencepiece, path).render([USER]) == "hi!"
    assert ChatTemplate(sentencepiece, str(path)).source == "{{ messages[0].content }}!"
    with pytest.raises(CheckpointError, match="neither Jinja source nor a file"):
        ChatTemplate(sentencepiece, "no/such/file")


def test_a_template_that_is_not_jinja_is_an_error_at_once(byte_level):
    with pytest.raises(CheckpointError, match="line 2"):
        ChatTemplate(byte_level, "{{ a }}\n{% if %}")


def test_training_marks_are_no_obstacle(byte_level):
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert ChatTemplate(byte_level, source).render([USER]) == "hi"


CALL = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": '{"zone": "UTC"}'}}
CALLED = [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]


def test_past_calls_are_objects_to_templates_that_want_objects(byte_level):
    wants_object = "{{ messages[0].content }} {{ messages[1].tool_calls[0].function.arguments.items() | list }}"
    assert ChatTemplate(byte_level, wants_object).render(CALLED) == "hi [('zone', 'UTC')]"


def test_past_calls_are_strings_to_templates_that_want_strings(byte_level):
    wants_string = "{{ messages[0].content }} {{ 'call: ' + messages[1].tool_calls[0].function.arguments }}"
    assert ChatTemplate(byte_level, wants_string).render(CALLED) == 'hi call: {"zone": "UTC"}'


def test_a_past_call_that_is_no_json_goes_back_as_it_was(byte_level):
    broken = {**CALL, "function": {"name": "now", "arguments": '{"zone": '}}
    source = "{{ messages[0].content }} {{ messages[1].tool_calls[0].function.arguments }}"
    assert ChatTemplate(byte_level, source).render([USER, {**CALLED[1], "tool_calls": [broken]}]) == 'hi {"zone": '


def test_a_call_without_a_text_is_an_empty_text_to_templates_that_want_one(byte_level):
    said = "{{ messages[0].content }} "
    wants_text = said + "{{ '</think>' in messages[1].content }}{{ messages[1].tool_calls[0].function.arguments.zone }}"
    assert ChatTemplate(byte_level, wants_text).render(CALLED) == "hi FalseUTC"
    wants_string = said + "{{ messages[1].content + messages[1].tool_calls[0].function.arguments }}"
    assert ChatTemplate(byte_level, wants_string).render(CALLED) == 'hi {"zone": "UTC"}'
    takes_null = said + "{{ 'a text' if messages[1].content is string else 'nothing said' }}"
    assert ChatTemplate(byte_level, takes_null).render(CALLED) == "hi nothing said"
    with pytest.raises(RequestError, match="no such role"):
        ChatTemplate(byte_level, "{{ raise_exception('no such role' ~ messages[1].content) }}").render(CALLED)


CHATS = {
    "one turn": ([USER], {}),
    "several": ([{"role": "system", "content": "Be kind."}, USER, {"role": "assistant", "content": "Yo."}, USER], {}),
    "thinking off": ([USER], {"enable_thinking": False}),
    "tools": ([USER], {"tools": [TOOL]}),
    "a call": (
        [*CALLED, {"role": "tool", "tool_call_id": "call_1", "name": "now", "content": "noon"}],
        {"tools": [TOOL]},
    ),
    "continued": ([USER, {"role": "assistant", "content": "Once upon"}], {"continue_final_message": True}),
}


def parsed(message):
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message.get("tool_calls") or []
    ]
    return {**message, "tool_calls": calls} if calls else message


def test_real_templates_say_what_transformers_says(shared_data):
    """Every template x every chat: the same text and ids as transformers', and an error exactly where it has one."""
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "qwen3")
    same = refused = 0
    paths = sorted((shared_data / "templates").glob("*.jinja"))
    assert paths
    for path in paths:
        template, source = ChatTemplate(tokenizer, path), path.read_text()
        for name, (messages, options) in CHATS.items():
            theirs = {}
            said = [{**message, "content": message["content"] or ""} for message in messages]
            for form in (list(map(parsed, messages)), messages, list(map(parsed, said)), said):
                try:
                    theirs.setdefault(
                        "ids",
                        tokenizer.hf.apply_chat_template(
                            form,
                            chat_template=source,
                            add_generation_prompt="continue_final_message" not in options,
                            return_dict=False,
                            **options,
                        ),
                    )
                except Exception:
                    continue
            try:
                prompt = template.prompt(messages, **options)
            except RequestError as error:
                refused += 1
                ignored = error.param in ("tools", "enable_thinking") and error.param not in source.replace("tool_", "")
                assert ignored or not theirs, f"{path.name}, {name}: {error}"
            else:
                same += 1
                assert prompt.ids == theirs["ids"], f"{path.name}, {name}"
    print(f"\n{len(paths)} templates, {same} prompts equal to transformers', {refused} refused")
    assert same >= 40


XML = "{{ messages[0].content }}{% for tool in xml_tools %}{{ tool.function.name }}{% endfor %}"
SYSTEM = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
    "{% if 'tools' in m and m['tools'] is not none %}[{{ m['tools'] }}]{% endif %}{% endfor %}"
)


def test_tools_under_another_name(byte_level):
    template = ChatTemplate(byte_level, XML)
    assert template.takes_tools and not template.has_switch("tools")
    assert template.render([USER], tools=[TOOL]) == "hinow" and template.render([USER]) == "hi"
    assert template.notes([USER], tools=[TOOL]) == ()
    assert not ChatTemplate(byte_level, "{{ messages[0].content }}").takes_tools


def test_tools_in_the_systems_message(byte_level):
    template = ChatTemplate(byte_level, SYSTEM)
    written = json.dumps([TOOL["function"]])
    assert template.takes_tools
    assert template.render([USER], tools=[TOOL]) == f"<system>[{written}]<user>hi"
    system = {"role": "system", "content": "Be brief."}
    assert template.render([system, USER], tools=[TOOL]) == f"<system>Be brief.[{written}]<user>hi"
    assert template.render([system, USER]) == "<system>Be brief.<user>hi"
    assert template.notes([system, USER], tools=[TOOL]) == ()


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize(
    ("read", "reads"),
    [
        ("{{ m.reasoning_content }}", True),
        ("{{ m['reasoning'] }}", True),
        ("{{ m.get('thinking') }}", True),
        ("{{ m.thinking }}{{ m.reasoning }}", True),
        ("{{ thinking }}", False),
    ],
)
def test_earlier_reasoning_comes_under_the_key_that_the_template_reads(byte_level, key, read, reads):
    template = ChatTemplate(byte_level, "{% for m in messages %}{{ m.content }}" + read + "{% endfor %}")
    answer = {"role": "assistant", "content": "so", key: "hm"}
    assert ("hm" in template.render([USER, answer])) is reads
    assert "hm" not in template.render([{**USER, key: "hm"}, {"role": "assistant", "content": "so"}]) or reads
