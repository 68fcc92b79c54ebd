"""The names of a template that its caller can set: those that some path reads before it sets them."""

from __future__ import annotations

import pytest
from jinja2 import Environment, meta, nodes

from llmlab.embedded import demo_folder
from llmlab.errors import CheckpointError, RequestError
from llmlab.text.template import ChatTemplate
from llmlab.text.template_variables import parse, read_keys, read_variables

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
    "a loop's own, set again after it": (
        "{% for a in b if a %}{% endfor %}{% if c %}{% set a = 1 %}{% else %}{% set a = 2 %}{% endif %}{{ a }}", "b c"
    ),
    "read in a block, set after it": ("{% for m in b %}{{ a }}{% endfor %}{% set a = 1 %}", "b"),
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


def test_a_block_does_not_see_the_callers_value_of_a_name_that_is_set_after_it() -> None:
    """The case "read in a block, set after it": Jinja renders the same whatever the caller passes."""
    source, _ = SETS["read in a block, set after it"]
    assert Environment().from_string(source).render(a="x", b=[0]) == ""


def test_of_real_templates_only_names_that_they_set_themselves_are_left_out(shared_data) -> None:
    """Why Jinja's own list is not enough: it holds names that a template always sets before it reads them."""
    paths = sorted((shared_data / "templates").glob("*.jinja"))
    longer = []
    for path in paths:
        tree = parse(path.read_text())
        read, listed = read_variables(path.read_text()), meta.find_undeclared_variables(tree)
        assert "messages" in read and read <= listed
        own = listed - read - {"raise_exception", "strftime_now", "namespace", "range", "dict"}
        assert own <= {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}, path.name
        longer += [path.name] if own else []
    print(f"{len(paths)} templates, jinja2.meta lists names that the template sets itself for {len(longer)}")
    assert len(paths) >= 22 and len(longer) >= 17


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


def test_the_keys_that_a_template_reads():
    source = (
        "{{ m.role }}{{ m['content'] }}{{ m.get('name', 'x') }}{{ m[0] }}{{ m[key] }}{% if 'tools' in m %}{% endif %}"
    )
    assert read_keys(source) == {"role", "content", "get", "name"}
