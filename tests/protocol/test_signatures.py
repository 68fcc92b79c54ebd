"""What Tab, Shift-Tab and help() say of the methods that take a request's fields."""

from __future__ import annotations

import pydoc
from inspect import Parameter, signature

import pytest

from llmlab.errors import RequestError
from llmlab.lab.lab import Lab
from llmlab.protocol.request import ChatRequest, PromptRequest
from llmlab.results.next_token import NextToken
from llmlab.results.result import Result

_FIELDS = {*ChatRequest.model_fields, *PromptRequest.model_fields}


def named(method: object) -> dict[str, Parameter]:
    return {name: one for name, one in signature(method).parameters.items() if name in _FIELDS}


@pytest.mark.parametrize(
    "name", ["chat", "complete", "stream", "next_token", "score", "sweep", "playground", "request"]
)
def test_a_labs_methods_name_every_field_with_its_default(name: str) -> None:
    found = named(getattr(Lab, name))
    assert {"temperature", "top_p", "top_k", "min_p", "n", "seed", "max_tokens", "stop", "logit_bias"} <= set(found)
    assert ("prompt" in found) is (name != "chat")
    assert ("tools" in found) is (name != "complete")
    for field, one in found.items():
        if field not in ("messages", "prompt", "n", "seed"):  # of which some are the method's own
            assert one.kind is Parameter.KEYWORD_ONLY
            assert one.default == ChatRequest.model_fields[field].get_default(call_default_factory=True)
    assert not any(one.kind is Parameter.VAR_KEYWORD for one in signature(getattr(Lab, name)).parameters.values())


def test_help_and_a_bound_method_show_them(demo) -> None:
    assert "temperature=1.0, top_p=1.0, top_k=0, min_p=0.0" in pydoc.plain(pydoc.render_doc(Lab.chat))
    assert list(signature(demo.chat).parameters)[:3] == ["messages", "order", "temperature"]
    with pytest.raises(RequestError, match="unknown field 'temprature'; did you mean 'temperature'"):
        demo.chat("Hi", temprature=1)


def test_what_stays_as_it_was_shows_no_default() -> None:
    assert repr(named(Result.rerun)["temperature"].default) == "…"
    assert {*named(NextToken.frame)} == {*named(NextToken.plot_stages)}
    assert "temperature" not in named(NextToken.temperatures) and "top_p" in named(NextToken.temperatures)
    assert "max_tokens" not in named(NextToken.frame)
