"""The table of fields, and everything that is made from it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from llmlab.errors import RequestError
from llmlab.protocol.checks import check_of
from llmlab.protocol.field_table import markdown_table
from llmlab.protocol.fields import EXTENSIONS, FIELDS, NO_EFFECT
from llmlab.protocol.request import ChatRequest, PromptRequest
from llmlab.sampling.fields import Field
from llmlab.sampling.library import LIBRARY_FIELDS
from llmlab.sampling.params import SamplerInputs, SamplingParams, stack
from llmlab.sampling.stages import FIELDS as STAGE_FIELDS
from llmlab.sampling.stages import ORDERS, STAGES

README = Path(__file__).resolve().parents[2] / "README.md"
ASK = [{"role": "user", "content": "Hi"}]
SCALARS = [field for field in FIELDS.values() if field.is_scalar]


def test_the_table_has_every_field_of_both_requests_and_no_other() -> None:
    assert set(FIELDS) == {*ChatRequest.model_fields, *PromptRequest.model_fields}
    assert all(name == field.name for name, field in FIELDS.items())
    assert all(field.text.endswith(".") and "\n" not in field.text for field in FIELDS.values())


def test_the_readmes_table_is_this_one() -> None:
    text = README.read_text("utf-8")
    assert text.count("<!-- fields:") == text.count("<!-- end of fields -->") == 1
    block = text[text.index("<!-- fields:") : text.index("<!-- end of fields -->")]
    assert block.partition("-->\n")[2].strip() == markdown_table()
    assert len(markdown_table().splitlines()) == len(FIELDS) + 2


@pytest.mark.parametrize("model", [ChatRequest, PromptRequest])
def test_the_json_schema_is_complete(model: type) -> None:
    schema = model.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["required"] == [model.subject] and schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(model.model_fields)
    for name, said in schema["properties"].items():
        assert said["description"] == FIELDS[name].text
        assert ({"type": "null"} in said.get("anyOf", ())) is (name != model.subject)
        if name != model.subject and not isinstance(FIELDS[name].default, dict):
            assert said["default"] == FIELDS[name].default


@pytest.mark.parametrize("field", SCALARS, ids=lambda field: field.name)
def test_the_schema_and_the_request_agree_at_both_ends(field: Field) -> None:
    [said, _] = ChatRequest.model_json_schema()["properties"][field.name]["anyOf"]
    step = 1 if field.kind == "integer" else 1e-9
    low = said.get("minimum", said.get("exclusiveMinimum"))
    inside = math.nextafter(low, 1) if field.above else low
    values = {inside: True, (low if field.above else low - step): False}
    values |= {said["maximum"]: True, said["maximum"] + step: False} if "maximum" in said else {10**6: True}
    for value, good in values.items():
        more = {"logprobs": True} if field.name == "top_logprobs" else {}
        assert jsonschema.Draft202012Validator(said).is_valid(value) is good
        if good:
            ChatRequest(messages=ASK, **{field.name: value}, **more)
        else:
            with pytest.raises(RequestError, match=field.name):
                ChatRequest(messages=ASK, **{field.name: value}, **more)


def test_values_that_mean_off_come_out_as_the_default() -> None:
    check = check_of(Field("x", "integer", "A test.", 7, 1, 9, off=(0, -1)))
    assert [check(value) for value in (-1, 0, 1, 9)] == [7, 7, 1, 9]
    with pytest.raises(ValueError, match=r"between 1 and 9 \(or 0, -1 or null for off\), got 10"):
        check(10)


def test_every_stage_is_listed_and_owns_its_fields() -> None:
    assert [field for stage in STAGES for field in stage.fields] == list(STAGE_FIELDS.values())
    named = {stage.name: stage for stage in STAGES}
    assert len(named) == len(STAGES)
    for order in ORDERS.values():
        for stage in order:
            own = named[stage.name.removesuffix("_joint")]
            assert (stage.kind, stage.fields) == (own.kind, own.fields)
    assert {name for name, field in FIELDS.items() if field.effect == "distribution"} == {
        *STAGE_FIELDS,
        *LIBRARY_FIELDS,
    }


def test_a_row_without_settings_asks_for_no_stage() -> None:
    params = SamplingParams()
    assert all(getattr(params, name) == field.neutral for name, field in STAGE_FIELDS.items())
    inputs = stack([params, params], vocab_size=8, ends=(3,))
    assert set(SamplerInputs._fields) >= {name for name, field in STAGE_FIELDS.items() if field.is_scalar}
    for stage in {stage.name: stage for order in ORDERS.values() for stage in order}.values():
        assert not stage.active(inputs).any(), stage.name


def test_a_requests_sampling_fields_are_copied() -> None:
    fields = {name: field.high for name, field in STAGE_FIELDS.items() if field.high is not None and field.is_scalar}
    request = ChatRequest(messages=ASK, **{**fields, "min_tokens": 3}, logit_bias={"4": 1.5})
    params = SamplingParams.of(request, seed=5, choice=2)
    assert (params.seed, params.choice, params.min_tokens, params.logit_bias) == (5, 2, 3, {4: 1.5})
    assert {name: getattr(params, name) for name in fields} == {**fields, "min_tokens": 3}


def test_what_the_lists_of_names_hold() -> None:
    assert {
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
        *("prompt_cache_retention", "verbosity", "modalities", "prediction"),
    } == NO_EFFECT
    assert {"top_k", "min_p", "min_tokens", "enable_thinking"} <= EXTENSIONS
    assert not {"temperature", "prompt", "messages"} & EXTENSIONS


def test_a_request_needs_neither_jax_nor_numpy() -> None:
    code = "import sys, llmlab.protocol.request; print([name for name in ('jax', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
