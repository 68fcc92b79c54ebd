"""The playground's controls: all fields, none out of range, and there and back without a change."""

from __future__ import annotations

import pytest

from llmlab.errors import RequestError
from llmlab.playground.controls import CONTROLS, WITHOUT_CONTROL, controls_for, fields_of, values_of
from llmlab.protocol.backend import Backend
from llmlab.protocol.request import ChatRequest, PromptRequest
from llmlab.sampling.library import LIBRARY_FIELDS

DEFAULTS = {control.name: control.default for control in CONTROLS}
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
EVERYTHING = {
    "temperature": 0.73, "top_k": 7, "top_p": 0.9, "min_p": 0.03, "repetition_penalty": 0.01, "frequency_penalty": -1.5,
    "presence_penalty": 2.0, "logit_bias": {7: -100, 9: 1.5}, "max_tokens": 12, "stop": ["a", "\n"], "seed": -(2**63),
    "n": 3, "enable_thinking": False, "reasoning_effort": "none", "min_tokens": 4, "ignore_eos": True,
    "include_stop": False, "stop_token_ids": [5], "separate_reasoning": True,
    "response_format": {"type": "json_object"}, "tools": [TOOL], "tool_choice": "none",
    "parallel_tool_calls": False, "chat_template_kwargs": {"deep": [1, None]},
    "context_length_exceeded_behavior": "error",
    **{name: 0.5 * (one.low + one.high) for name, one in LIBRARY_FIELDS.items() if one.kind == "number"},
    **{name: 3 for name, one in LIBRARY_FIELDS.items() if one.kind == "integer"},
    "p_less": 2, "mirostat": 2, "negative_prompt": "hi", "dry_sequence_breakers": ["\n", ":"],
}  # fmt: skip
#: Fields that cannot stand beside response_format.
FILTERS = {"bad_words": ["sorry", '"'], "allowed_token_ids": [1, 2]}
OUTPUTS = {"structured_outputs": {"regex": "a|b"}}


def test_every_field_has_a_control_or_a_reason_to_have_none() -> None:
    names = [control.name for control in CONTROLS]
    assert len(set(names)) == len(names)
    assert {*names, *WITHOUT_CONTROL} == {*ChatRequest.model_fields, "order"}
    assert not set(names) & WITHOUT_CONTROL.keys()
    assert {*EVERYTHING, *FILTERS, *OUTPUTS, "order"} == set(names), "the round trip below is over all of them"


def test_controls_that_nobody_touched_ask_for_nothing() -> None:
    assert fields_of(DEFAULTS) == {}
    assert fields_of(DEFAULTS | {"seed": "  ", "logit_bias": "\n"}) == {}


@pytest.mark.parametrize("control", [c for c in CONTROLS if c.kind in ("number", "count")], ids=lambda c: c.name)
def test_a_slider_ends_where_the_contract_does(control) -> None:
    for value in (control.low, control.high, control.default):
        cast = float(value) if control.kind == "number" else int(value)
        assert getattr(ChatRequest.build("x", max_tokens=500, **{control.name: cast}), control.name) == cast
    if control.name not in ("min_tokens", "dry_penalty_last_n"):  # which have no upper end
        with pytest.raises(RequestError, match=control.name):
            ChatRequest.build("x", **{control.name: control.high + 1})


@pytest.mark.parametrize("given", [EVERYTHING, FILTERS, OUTPUTS], ids=["everything", "filters", "outputs"])
def test_a_request_comes_back_as_it_went_in(given) -> None:
    request = ChatRequest.build("hello", **given)
    values = values_of(request, order="vllm")
    fields = fields_of(values)
    assert fields.pop("order") == "vllm"
    assert ChatRequest.build("hello", **fields) == request


@pytest.mark.parametrize(
    "stop", ["END", '"quoted"', "[", "{x}", " ", "\n", "a\r\nb", "\t", ["one"], ["a", "b", "c", "d"]]
)
def test_a_stop_comes_back_whatever_it_looks_like(stop) -> None:
    request = ChatRequest.build("hello", stop=stop)
    values = values_of(request)
    assert fields_of(values) == {"stop": stop}
    assert not set("\r\n\t") & set(values["stop"]), "a browser's line of text would lose it"


def test_max_tokens_has_two_names_and_one_control() -> None:
    assert values_of(ChatRequest.build("x", max_completion_tokens=9))["max_tokens"] == "9"
    assert fields_of(DEFAULTS | {"max_tokens": " 12 ", "seed": "−5"}) == {"max_tokens": 12, "seed": -5}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", "1.5", "seed must be an integer, got '1.5'"),
        ("max_tokens", "many", "max_tokens must be an integer"),
        ("logit_bias", "{1: 2}", r"logit_bias must be JSON, such as \{\"42\": -100\}"),
        ("stop", '["a"', "stop must be JSON"),
        ("tools", "now", "tools must be JSON"),
        ("temperature", "warm", "temperature must be a number, got 'warm'"),
        ("top_k", "few", "top_k must be an integer, got 'few'"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        fields_of(DEFAULTS | {name: value})
    assert caught.value.param == name


def test_a_switch_that_a_model_lacks_is_not_offered() -> None:
    class Lacking(Backend):
        def __init__(self, *names: str) -> None:
            self.unsupported = frozenset(names)

    names = {control.name for control in CONTROLS}
    assert {control.name for control in controls_for(Lacking())} == names
    asked = {control.name for control in controls_for(Lacking(), given=["temperature", "xtc_probability"])}
    assert asked == (names - {*LIBRARY_FIELDS, "negative_prompt"}) | {"xtc_probability", "xtc_threshold"}
    compared = {control.name for control in controls_for(Lacking(), given=["guidance_scale"])}
    assert compared == (names - {*LIBRARY_FIELDS}) | {"guidance_scale"}
    typed = fields_of(DEFAULTS | {"negative_prompt": "hi"})
    assert ChatRequest.build("x", **typed).guidance_scale == 1.0, "a slider at its end is no error"
    assert {control.name for control in controls_for(Lacking("enable_thinking"))} == names - {"enable_thinking"}
    assert {control.name for control in controls_for(Lacking("order", "prompt"))} == names - {"order"}
    with pytest.raises(RequestError, match="enable_thinking cannot be set here") as caught:
        values_of(ChatRequest.build("x", enable_thinking=True), controls=controls_for(Lacking("enable_thinking")))
    assert caught.value.param == "enable_thinking"


def test_a_raw_prompt_has_the_fields_that_it_can_have() -> None:
    request = PromptRequest.build("Once", temperature=0.5, seed=3)
    assert fields_of(values_of(request)) == {"temperature": 0.5, "seed": 3}
