"""Which names of a template a caller can set: those that it looks up before it has set them."""

from __future__ import annotations

import pytest

from llmlab.checkpoints.hub import demo_folder
from llmlab.errors import CheckpointError, RequestError
from llmlab.text.template import ChatTemplate
from llmlab.text.variables import read_variables

SETS = {
    "set before it is read": ("{% set a = 1 %}{{ a }}", ""),
    "set in every branch": (
        "{% if c %}{% set a = 1 %}{% elif d %}{% set a = 2 %}{% else %}{% set a = 3 %}{% endif %}{{ a }}", "c d"
    ),
    "set in one branch": ("{% if c %}{% set a = 1 %}{% endif %}{{ a }}", "a c"),
    "set, or refused": ("{% if c %}{% set a = 1 %}{% else %}{{ raise_exception('no') }}{% endif %}{{ a }}", "c"),
    "set, or refused now and then": (
        "{% if c %}{% set a = 1 %}{% else %}{{ raise_exception('no') if d }}{% endif %}{{ a }}", "a c d"
    ),
    "set, or the turn is over": (
        "{% for m in b %}{% if m %}{% continue %}{% else %}{% set a = m %}{% endif %}{{ a }}{% endfor %}", "b"
    ),
    "never reached": ("{{ raise_exception('no') }}{% set b = a %}", ""),
    "set anew from itself": ("{% set a = a or 1 %}", "a"),
    "a default": ("{{ a | default('x') }}", "a"),
    "tested, then set": ("{% if a is not defined %}{% set a = 1 %}{% endif %}{{ a }}", "a"),
    "set in a branch, from itself": (
        "{% set a = b %}{% if a %}{% if not a.x %}{% set a = 1 %}{% endif %}{% endif %}{{ a }}", "b"
    ),
    "a loop's own": ("{% for a, b in c %}{{ a }}{{ b }}{{ loop.index }}{% endfor %}{{ b }}", "b c"),
    "what a loop sets": ("{% for m in c %}{% set a = 1 %}{{ a }}{% endfor %}{{ a }}", "a c"),
    "a loop's condition": ("{% for m in c if m.x and d %}{% else %}{{ e }}{% endfor %}", "c d e"),
    "an object's attribute": (
        "{% set ns = namespace(a=1) %}{% set ns.a = b %}{{ ns.a }}{% set other.a = 1 %}", "b other"
    ),
    "a block": ("{% set a %}{{ b }}{% endset %}{{ a }}{% filter upper %}{{ c }}{% endfilter %}", "b c"),
    "with": ("{% with a = b %}{{ a }}{% endwith %}{{ a }}", "a b"),
    "a macro": ("{% macro m(x, y=e) %}{{ x }}{{ later }}{{ b }}{% endmacro %}{% set later = 1 %}{{ m(d) }}", "b d e"),
    "a call": ("{% macro m() %}{{ caller(1) }}{% endmacro %}{% call(x) m() %}{{ x }}{{ a }}{% endcall %}", "a"),
    "a training mark": ("{% generation %}{{ a }}{% set b = 1 %}{% endgeneration %}{{ b }}", "a b"),
    "one of two reads": ("{{ a if c else d.e['f'] }}{{ strftime_now('%Y') }}{{ range(3) }}", "a c d"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "read"), SETS.values(), ids=SETS)
def test_what_is_read(source: str, read: str) -> None:
    assert read_variables(source) == set(read.split())


def test_what_is_not_jinja() -> None:
    with pytest.raises(CheckpointError, match="not valid Jinja"):
        read_variables("{% set %}")


def test_the_embedded_models_template() -> None:
    source = (demo_folder() / "chat_template.jinja").read_text()
    assert read_variables(source) == {"messages", "tools", "add_generation_prompt", "enable_thinking"}


def test_a_name_that_a_template_sets_for_itself_is_no_switch(byte_level) -> None:
    source = "{% if messages %}{% set part = 'a' %}{% else %}{% set part = 'b' %}{% endif %}{{ part }}{{ mood }}"
    template = ChatTemplate(byte_level, source)
    assert template.has_switch("mood") and not template.has_switch("part")
    with pytest.raises(RequestError, match=r"does not read it \(it reads: mood\)") as caught:
        template.render([{"role": "user", "content": "hi"}], extra={"part": "c"})
    assert caught.value.param == "chat_template_kwargs"
