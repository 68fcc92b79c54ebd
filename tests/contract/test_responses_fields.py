"""The conformance table of `/v1/responses`: every field of the request, by what it changes in the answer.

One row per field, run against `llmlab serve` and through `lab.client()`. A row shows an effect, a refusal, or, for the
fields that cannot have an effect here, that the answer is the same.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jsonschema
import openai
import pytest
from openai.resources.responses import Responses
from openai.types.responses import Response

from llmlab.lab.lab import Lab
from llmlab.protocol.fields import FIELDS, NO_EFFECT
from llmlab.protocol.request import ChatRequest
from llmlab.serve.responses.fields import ELSEWHERE, PASSED
from llmlab.serve.responses.request import ResponsesRequest

ANIMAL = "Name an animal."
STORY = "Tell me a short story."
SUM = "What is 12 + 30?"
WEATHER = "What is the weather in Oslo?"
PAIR = "What is the weather in Oslo and in Rome?"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "name": name, "description": f"Get the current {what} in a city.", "parameters": CITY}
    for name, what in (("get_weather", "weather"), ("get_time", "time"))
]
LOGPROBS = {"include": ["message.output_text.logprobs"]}
KNOWN = set(inspect.signature(Responses.create).parameters)


class Way(NamedTuple):
    """A client whose answers are validated strictly: the client itself takes whatever comes."""

    client: openai.OpenAI

    def ask(self, given: Any = ANIMAL, **fields: Any) -> Response:
        answer = self._create(given, fields)
        Response.model_validate(answer.model_dump(exclude_unset=True, by_alias=True))
        return answer

    def refusal(self, given: Any = ANIMAL, **fields: Any) -> tuple[int, str | None, str]:
        """The status, the field and the message of a refusal; fails where there is none."""
        with pytest.raises(openai.APIStatusError) as caught:
            self._create(given, fields)
        return caught.value.status_code, caught.value.body["param"], caught.value.body["message"]

    def chat(self, given: str = ANIMAL, **fields: Any) -> str | None:
        """The content of the chat's answer to the same text."""
        chat = self.client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": given}], extra_body=fields
        )
        return chat.choices[0].message.content

    def _create(self, given: Any, fields: dict[str, Any]) -> Any:
        known = {name: value for name, value in fields.items() if name in KNOWN}
        extra = {name: value for name, value in fields.items() if name not in KNOWN}
        return self.client.responses.create(**{"model": "demo", "input": given, **known}, extra_body=extra)


@pytest.fixture(scope="session", params=["http", "client"])
def way(request: pytest.FixtureRequest, client: openai.OpenAI, demo: Lab) -> Way:
    return Way(client if request.param == "http" else demo.client())


ROWS: dict[str, Callable[[Way], None]] = {}


def row(field: str) -> Callable[[Callable[[Way], None]], Callable[[Way], None]]:
    def keep(show: Callable[[Way], None]) -> Callable[[Way], None]:
        assert field not in ROWS
        ROWS[field] = show
        return show

    return keep


def test_the_table_has_every_field() -> None:
    assert set(ROWS) == set(ResponsesRequest.model_fields)
    # A field of a chat is here too, under a name that an error gives, or has a place among those that are not.
    assert set(ChatRequest.model_fields) <= {*ResponsesRequest.model_fields, *ELSEWHERE}


def test_every_argument_of_the_client_is_a_field() -> None:
    own = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    assert set(ResponsesRequest.model_fields) >= KNOWN - own


@pytest.mark.parametrize("field", ROWS)
def test_field(field: str, way: Way) -> None:
    ROWS[field](way)


def calls(answer: Response) -> list[tuple[str, Any]]:
    return [(item.name, json.loads(item.arguments)) for item in answer.output if item.type == "function_call"]


def thoughts(answer: Response) -> Any:
    [item] = [item for item in answer.output if item.type == "reasoning"]
    return item


# ---- what is asked


@row("input")
def _(way: Way) -> None:
    user = {"role": "user", "content": ANIMAL}
    one = way.ask(temperature=0)
    assert one.output_text == way.chat(temperature=0) and way.ask([user], temperature=0).usage == one.usage
    parts = [{"type": "input_text", "text": "Name an "}, {"type": "input_text", "text": "animal."}]
    assert way.ask([{"role": "user", "content": parts}], temperature=0).usage == one.usage
    call = way.ask(WEATHER, tools=TOOLS, temperature=0).output[0]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": '{"temperature": 7, "sky": "rainy"}'}
    trip = [{"role": "user", "content": WEATHER}, call, output]
    assert way.ask(trip, tools=TOOLS, temperature=0).output_text == "It is 7 degrees and rainy in Oslo."
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]
    for bad in ([], [{"role": "robot", "content": "hi"}], image, [{"type": "item_reference", "id": "msg_1"}]):
        assert way.refusal(bad)[:2] == (400, "input")
    assert way.refusal("owl " * 600)[:2] == (400, "input")


@row("instructions")
def _(way: Way) -> None:
    told = way.ask(instructions="Answer briefly.", temperature=0)
    system = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": ANIMAL}]
    assert told.usage == way.ask(system, temperature=0).usage != way.ask(temperature=0).usage
    assert told.instructions == "Answer briefly."
    assert way.refusal(instructions=3)[:2] == (400, "instructions")


@row("model")
def _(way: Way) -> None:
    assert way.ask(max_output_tokens=1).model == "demo"
    assert way.refusal(model="another")[:2] == (404, "model")


@row("truncation")
def _(way: Way) -> None:
    turns = [{"role": "user", "content": "owl " * 250}, {"role": "assistant", "content": "Owls."}] * 3
    system, last = {"role": "system", "content": "Be brief."}, {"role": "user", "content": ANIMAL}
    full = [system, *turns, last]
    assert way.refusal(full, truncation="disabled")[:2] == (400, "input")
    fitted = way.ask(full, truncation="auto", temperature=0, max_output_tokens=8)
    # All that fits is kept: the system message, and the turns from the second to the last on.
    by_hand = way.ask([system, *turns[4:], last], temperature=0, max_output_tokens=8)
    assert fitted.usage == by_hand.usage and fitted.output_text == by_hand.output_text
    assert way.refusal([system, *turns[2:], last], truncation="disabled")[:2] == (400, "input")
    assert (fitted.truncation, by_hand.truncation) == ("auto", "disabled")
    assert way.ask(truncation="auto", temperature=0).output_text == way.ask(temperature=0).output_text
    assert way.refusal("owl " * 600, truncation="auto")[:2] == (400, "input")
    assert way.refusal([*full, {"role": "user", "content": "owl " * 600}], truncation="auto")[:2] == (400, "input")


# ---- how much of it


@row("max_output_tokens")
def _(way: Way) -> None:
    short, longer = (way.ask(STORY, max_output_tokens=k, seed=1) for k in (5, 9))
    assert (short.usage.output_tokens, longer.usage.output_tokens) == (5, 9)
    assert longer.output_text.startswith(short.output_text) and short.max_output_tokens == 5
    assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert short.output[-1].status == "incomplete" and short.completed_at is None
    whole = way.ask(temperature=0)
    assert (whole.status, whole.incomplete_details, whole.output[-1].status) == ("completed", None, "completed")
    assert way.refusal(max_output_tokens=0)[:2] == (400, "max_output_tokens")
    _, param, message = way.refusal(max_tokens=5)
    assert param == "max_tokens" and "'max_output_tokens'" in message


# ---- functions


@row("tools")
def _(way: Way) -> None:
    plain, answer = way.ask(WEATHER, temperature=0), way.ask(WEATHER, temperature=0, tools=TOOLS)
    assert calls(plain) == [] and calls(answer) == [("get_weather", {"city": "Oslo"})]
    assert answer.output_text == "" and answer.usage.input_tokens > plain.usage.input_tokens
    assert [tool.name for tool in answer.tools] == ["get_weather", "get_time"] and answer.tools[0].parameters == CITY
    assert way.ask(WEATHER, temperature=0, tools=[]).usage == plain.usage
    hosted = (
        "web_search", "web_search_preview", "file_search", "computer", "computer_use_preview", "code_interpreter",
        "mcp", "image_generation", "local_shell", "shell", "apply_patch", "custom", "namespace", "tool_search",
    )  # fmt: skip
    for kind in hosted:
        status, param, message = way.refusal(tools=[TOOLS[0], {"type": kind, "name": "x"}])
        assert (status, param) == (400, "tools") and "tools[1].type" in message and kind in message
    nested = [{"type": "function", "function": {"name": "f"}}]
    assert "tools[0].function" in way.refusal(tools=nested)[2]
    assert "tools[1].name" in way.refusal(tools=[TOOLS[0], TOOLS[0]])[2]
    bad = [TOOLS[0] | {"parameters": {"type": "object", "properties": {"a": {"not": {}}}, "required": ["a"]}}]
    assert "tools[0].parameters" in way.refusal(tools=bad, tool_choice="required")[2]
    assert way.refusal(tools=[TOOLS[0] | {"defer_loading": True}])[:2] == (400, "tools")


@row("tool_choice")
def _(way: Way) -> None:
    ask = {"tools": TOOLS, "temperature": 0, "max_output_tokens": 60}
    assert calls(way.ask(WEATHER, tool_choice="none", **ask)) == []
    assert calls(way.ask(WEATHER, tool_choice="auto", **ask)) == [("get_weather", {"city": "Oslo"})]
    [(name, arguments), *_] = calls(way.ask(ANIMAL, tool_choice="required", **ask))
    assert name in ("get_weather", "get_time") and isinstance(arguments["city"], str)
    named = way.ask(WEATHER, tool_choice={"type": "function", "name": "get_time"}, **ask)
    assert calls(named)[0][0] == "get_time" and named.tool_choice.name == "get_time"
    only = [{"type": "function", "name": "get_time"}]
    allowed = {"type": "allowed_tools", "mode": "required", "tools": only}
    assert calls(way.ask(WEATHER, tool_choice=allowed, **ask))[0][0] == "get_time"
    free = way.ask(WEATHER, tool_choice=allowed | {"mode": "auto"}, **ask)
    assert free.usage.input_tokens == way.ask(WEATHER, **ask | {"tools": TOOLS[1:]}).usage.input_tokens
    for bad in (
        {"type": "function", "name": "f"},
        {"type": "function", "function": {"name": "get_time"}},
        allowed | {"tools": [{"type": "function", "name": "f"}]},
        {"type": "web_search_preview"},
        "any",
    ):
        assert way.refusal(tools=TOOLS, tool_choice=bad)[:2] == (400, "tool_choice")
    assert way.refusal(tool_choice="required")[:2] == (400, "tool_choice")
    assert way.ask(tool_choice="auto", temperature=0).output_text == way.ask(temperature=0).output_text


@row("parallel_tool_calls")
def _(way: Way) -> None:
    ask = {"tools": TOOLS, "temperature": 0}
    both = [("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Rome"})]
    assert calls(way.ask(PAIR, **ask)) == both
    assert calls(way.ask(PAIR, **ask, parallel_tool_calls=False)) == both[:1]
    # Clients send it with every request, also where there are no tools.
    assert way.ask(temperature=0, parallel_tool_calls=False).output_text == way.ask(temperature=0).output_text


# ---- forms of an answer


@row("text")
def _(way: Way) -> None:
    plain = way.ask(temperature=0)
    for text in ({}, {"format": {"type": "text"}}, {"verbosity": "low"}):
        assert way.ask(temperature=0, text=text).output_text == plain.output_text
    assert plain.text.format.type == "text"
    ask = {"temperature": 0.7, "text": {"format": {"type": "json_object"}}, "max_output_tokens": 60}
    free = [way.ask(**ask, seed=seed) for seed in range(4)]
    assert any(answer.status == "completed" for answer in free)
    assert all(isinstance(json.loads(answer.output_text), dict) for answer in free if answer.status == "completed")
    schema = {
        "type": "object",
        "properties": {
            "animal": {"enum": ["Okapi", "Narwhal"]},
            "legs": {"type": "integer", "minimum": 2, "maximum": 8},
        },
        "required": ["animal", "legs"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "name": "a", "schema": schema, "strict": True}
    answer = way.ask(temperature=1.5, seed=1, text={"format": form}, max_output_tokens=60)
    jsonschema.validate(json.loads(answer.output_text), schema)
    assert answer.status == "completed" and answer.text.format.schema_ == schema
    for bad, message in [
        ({"format": {"type": "xml"}}, "text.format.type"),
        ({"format": form | {"name": "no good"}}, "text.format.name"),
        (
            {"format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}},
            "text.format.json_schema",
        ),
        ({"format": form | {"schema": {"type": "array", "uniqueItems": True}}}, "text.format.schema"),
        ({"verbosity": "loud"}, "text.verbosity"),
        ({"mood": "dry"}, "text.mood"),
    ]:
        status, param, said = way.refusal(text=bad)
        assert (status, param) == (400, "text") and said.startswith(message), said


@row("reasoning")
def _(way: Way) -> None:
    thought, straight = (way.ask(SUM, reasoning={"effort": effort}, temperature=0) for effort in ("high", "none"))
    assert straight.output_text == thought.output_text == "42"
    assert [item.type for item in straight.output] == ["message"]
    assert [item.type for item in thought.output] == ["reasoning", "message"]
    assert "ones: 2 + 0" in thoughts(thought).content[0].text and thoughts(thought).summary == []
    assert thought.usage.output_tokens_details.reasoning_tokens > 20
    assert straight.usage.output_tokens_details.reasoning_tokens == 0
    for key in ("summary", "generate_summary"):
        summed = way.ask(SUM, reasoning={"effort": "low", key: "auto"}, temperature=0)
        assert thoughts(summed).summary[0].text == thoughts(thought).content[0].text
        assert thoughts(summed).content is None
    assert (thought.reasoning.effort, thought.reasoning.summary) == ("high", None)
    # What was thought can be given back.
    again = [{"role": "user", "content": SUM}, *thought.output, {"role": "user", "content": "What is 1 + 3?"}]
    assert way.ask(again, reasoning={"effort": "none"}, temperature=0).output_text == "4"
    for bad in ({"effort": "vast"}, {"summary": "long"}, {"context": "all_turns"}, {"mode": "pro"}, {"depth": 1}):
        assert way.refusal(reasoning=bad)[:2] == (400, "reasoning")


# ---- what is told about it


@row("include")
def _(way: Way) -> None:
    assert way.ask(temperature=0).output[0].content[0].logprobs == []
    answer = way.ask(STORY, seed=1, max_output_tokens=5, **LOGPROBS)
    chat = way.client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": STORY}], seed=1, max_tokens=5, logprobs=True
    )
    got, expected = answer.output[0].content[0].logprobs, chat.choices[0].logprobs.content
    assert [entry.token for entry in got] == [entry.token for entry in expected]
    assert [entry.logprob for entry in got] == [entry.logprob for entry in expected]
    assert [entry.bytes for entry in got] == [entry.bytes for entry in expected]
    others = ["reasoning.encrypted_content", "web_search_call.action.sources", "file_search_call.results"]
    assert way.ask(temperature=0, include=others).output_text == way.ask(temperature=0).output_text
    assert way.refusal(include=["everything"])[:2] == (400, "include")


@row("top_logprobs")
def _(way: Way) -> None:
    answer = way.ask(STORY, seed=1, max_output_tokens=5, top_logprobs=3, **LOGPROBS)
    for entry in answer.output[0].content[0].logprobs:
        assert len(entry.top_logprobs) == 3
        assert [other.logprob for other in entry.top_logprobs] == sorted(
            (other.logprob for other in entry.top_logprobs), reverse=True
        )
    assert answer.top_logprobs == 3 and way.ask(top_logprobs=0, max_output_tokens=1).top_logprobs == 0
    assert way.refusal(top_logprobs=3)[:2] == (400, "top_logprobs")
    assert way.refusal(top_logprobs=21, **LOGPROBS)[:2] == (400, "top_logprobs")


@row("logprob_token_ids")
def _(way: Way) -> None:
    answer = way.ask(STORY, seed=1, max_output_tokens=3, logprob_token_ids=[7, 300], **LOGPROBS)
    listed = [[other.token_id for other in entry.top_logprobs] for entry in answer.output[0].content[0].logprobs]
    assert listed == [[7, 300]] * 3
    status, param, message = way.refusal(logprob_token_ids=[7])
    assert (status, param) == (400, "logprob_token_ids") and "include=" in message
    assert way.refusal(logprob_token_ids=[10**9], **LOGPROBS)[:2] == (400, "logprob_token_ids")


@row("kept_logprobs")
def _(way: Way) -> None:
    answer = way.ask(STORY, seed=1, max_output_tokens=4, top_k=3, kept_logprobs=True, **LOGPROBS)
    for entry in answer.output[0].content[0].logprobs:
        assert entry.kept == len(entry.kept_logprobs) == 3
        assert entry.token_id in [other["token_id"] for other in entry.kept_logprobs]
    status, param, message = way.refusal(kept_logprobs=True)
    assert (status, param) == (400, "kept_logprobs") and "include=" in message


@row("stream")
def _(way: Way) -> None:
    events = list(
        way.client.responses.create(model="demo", input=STORY, stream=True, temperature=0, max_output_tokens=40)
    )
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 1 and "".join(deltas) == way.ask(STORY, temperature=0, max_output_tokens=40).output_text


@row("stream_options")
def _(way: Way) -> None:
    ask = {"model": "demo", "input": ANIMAL, "temperature": 0, "stream": True}
    kinds = [
        [event.type for event in way.client.responses.create(**ask, **options)]
        for options in ({}, {"stream_options": {"include_obfuscation": True}})
    ]
    assert kinds[0] == kinds[1]
    assert way.refusal(stream_options={"include_obfuscation": True})[:2] == (400, "stream_options")
    assert way.refusal(stream=True, stream_options={"include_usage": True})[:2] == (400, "stream_options")


@row("metadata")
def _(way: Way) -> None:
    assert way.ask(metadata={"a": "b"}, max_output_tokens=1).metadata == {"a": "b"}
    assert way.ask(max_output_tokens=1).metadata == {}
    assert way.refusal(metadata={"a": 1})[:2] == (400, "metadata")


# ---- what a chat has too


#: A value of each field that means here what it means in a chat, and that changes the answer.
CHANGES: dict[str, Any] = {
    "temperature": 0,
    "top_p": 0.01,
    "top_k": 1,
    "min_p": 1.0,
    "seed": 12,
    "stop": " a",
    "include_stop": False,
    "ignore_eos": True,
    "min_tokens": 25,
    "logit_bias": {"65": 100},
    "frequency_penalty": 2,
    "presence_penalty": 2,
    "repetition_penalty": 2,
    "enable_thinking": True,
    "chat_template_kwargs": {"enable_thinking": True},
    "bad_words": ["a", "e"],
    "allowed_token_ids": [30, 31],
    "structured_outputs": {"choice": ["yes", "no"]},
    "top_n_sigma": 1.0,
    "top_h": 0.1,
    "typical_p": 0.1,
    "epsilon_cutoff": 0.2,
    "eta_cutoff": 0.2,
    "p_less": 1,
    "xtc_probability": 1,
    "xtc_threshold": 0.01,
    "smoothing_factor": 2,
    "smoothing_curve": 5,
    "dynatemp_range": 1,
    "dynatemp_exponent": 0.1,
    "guidance_scale": 8,
    "negative_prompt": "Tell me a story about a fox.",
    "contrastive_strength": 2,
    "contrastive_alpha": 1,
    "mirostat": 2,
    "mirostat_tau": 0.5,
    "mirostat_eta": 1.0,
    "adaptive_target": 0.1,
    "adaptive_decay": 0.0,
    "no_repeat_ngram_size": 1,
    "dry_multiplier": 8,
    "dry_base": 4,
    "dry_allowed_length": 1,
    "dry_penalty_last_n": 100,
    "dry_sequence_breakers": [],
}
#: What else is asked where the value alone would change nothing.
BESIDE: dict[str, dict[str, Any]] = {
    "include_stop": {"stop": " a"},
    "xtc_threshold": {"xtc_probability": 1},
    "smoothing_curve": {"smoothing_factor": 0.1},
    "dynatemp_exponent": {"dynatemp_range": 1},
    "negative_prompt": {"guidance_scale": 8},
    "contrastive_alpha": {"contrastive_strength": 0.1},
    "mirostat": {"mirostat_tau": 1.0},
    "mirostat_tau": {"mirostat": 2},
    "mirostat_eta": {"mirostat": 2, "mirostat_tau": 2.0},
    "adaptive_decay": {"adaptive_target": 0.4},
    "dry_base": {"dry_multiplier": 2, "dry_allowed_length": 1, "ignore_eos": True},
    "dry_allowed_length": {"dry_multiplier": 8, "ignore_eos": True},
    "dry_penalty_last_n": {"dry_multiplier": 8, "dry_allowed_length": 1, "dry_penalty_last_n": 1, "ignore_eos": True},
    "dry_sequence_breakers": {"dry_multiplier": 8, "dry_allowed_length": 1, "ignore_eos": True},
    "dry_multiplier": {"ignore_eos": True},
}


def same_as_a_chat(field: str) -> None:
    @row(field)
    def _(way: Way) -> None:
        beside = {"seed": 11, "temperature": 1.0, **BESIDE.get(field, {})}
        length = {"max_output_tokens": 30}
        answer = way.ask(STORY, **{**beside, field: CHANGES[field]}, **length)
        chat = way.chat(STORY, **{**beside, field: CHANGES[field]}, max_tokens=30, separate_reasoning=True)
        assert answer.output_text == (chat or "")
        assert answer.output != way.ask(STORY, **beside, **length).output
        assert way.refusal(**{field: ["x", 5]})[:2] == (400, field)


for name in CHANGES:
    same_as_a_chat(name)


@row("continue_final_message")
def _(way: Way) -> None:
    begun = [{"role": "user", "content": STORY}, {"role": "assistant", "content": "Once there was"}]
    answer = way.ask(begun, continue_final_message=True, temperature=0, max_output_tokens=6)
    assert answer.output_text.startswith(" a ")
    assert way.refusal(begun[:1], continue_final_message=True)[:2] == (400, "continue_final_message")


@row("context_length_exceeded_behavior")
def _(way: Way) -> None:
    answer = way.ask(context_length_exceeded_behavior="truncate", max_output_tokens=4000, temperature=0)
    assert answer.status == "completed"
    status, param, message = way.refusal(context_length_exceeded_behavior="error", max_output_tokens=4000)
    assert (status, param) == (400, "max_output_tokens") and "max_output_tokens" in message


@row("stop_token_ids")
def _(way: Way) -> None:
    ids = way.ask(STORY, temperature=0, max_output_tokens=12, return_token_ids=True).token_ids
    answer = way.ask(STORY, temperature=0, max_output_tokens=12, return_token_ids=True, stop_token_ids=[ids[4]])
    assert answer.token_ids == ids[: ids.index(ids[4]) + 1] and answer.status == "completed"
    assert way.refusal(stop_token_ids=["a"])[:2] == (400, "stop_token_ids")


@row("return_token_ids")
def _(way: Way) -> None:
    answer = way.ask(STORY, temperature=0, max_output_tokens=12, return_token_ids=True)
    logged = way.ask(STORY, temperature=0, max_output_tokens=12, **LOGPROBS)
    assert answer.token_ids == [entry.token_id for entry in logged.output[0].content[0].logprobs]
    assert len(answer.prompt_token_ids) == answer.usage.input_tokens and "token_ids" not in logged.model_extra
    assert way.refusal(return_token_ids=1)[:2] == (400, "return_token_ids")


@row("prompt_logprobs")
def _(way: Way) -> None:
    answer = way.ask(max_output_tokens=1, seed=1, prompt_logprobs=2)
    chat = way.client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": ANIMAL}], max_tokens=1, extra_body={"prompt_logprobs": 2}
    )
    assert answer.prompt_logprobs == chat.prompt_logprobs and len(answer.prompt_logprobs) == answer.usage.input_tokens
    assert way.refusal(prompt_logprobs=21)[:2] == (400, "prompt_logprobs")


# ---- refused by name, but for what asks for nothing


def refused(field: str, value: Any, *neutral: Any) -> None:
    @row(field)
    def _(way: Way) -> None:
        status, param, message = way.refusal(**{field: value})
        assert (status, param) == (400, field) and message.startswith(f"{field} is not supported: ")
        plain = way.ask(temperature=0, max_output_tokens=4)
        for nothing in (None, *neutral):
            assert way.ask(temperature=0, max_output_tokens=4, **{field: nothing}).output_text == plain.output_text


refused("previous_response_id", "resp_1")
refused("conversation", "conv_1")
refused("background", True, False)
refused("prompt", {"id": "pmpt_1"})
refused("context_management", [{"type": "compaction"}], [])
refused("moderation", {"model": "omni-moderation-latest"})


# ---- accepted, and without effect on a local engine


def no_effect(field: str, value: Any, *bad: Any) -> None:
    @row(field)
    def _(way: Way) -> None:
        assert field in NO_EFFECT or field not in FIELDS
        ask = {"seed": 1, "max_output_tokens": 8}
        assert way.ask(STORY, **ask, **{field: value}).output_text == way.ask(STORY, **ask).output_text
        for one in (5.5, *bad):
            assert way.refusal(**{field: one})[:2] == (400, field)


no_effect("user", "u")
no_effect("safety_identifier", "u")
no_effect("prompt_cache_key", "k")
no_effect("prompt_cache_retention", "24h")
no_effect(
    "prompt_cache_options", {"mode": "explicit", "ttl": "30m"}, {"prewarm": True}, {"comparison_response_id": "r"}
)
no_effect("store", True)
no_effect("service_tier", "auto")
no_effect("max_tool_calls", 3, 0)
no_effect("background_options", {"completion_window": "soonest"})
no_effect("image", {"context_compression": "auto"})
no_effect("access_programs", {"cyber": "standard"})


# ---- and no other


@pytest.mark.parametrize("field", sorted(ELSEWHERE))
def test_a_field_of_a_chat_is_refused_with_its_name_here(way: Way, field: str) -> None:
    status, param, message = way.refusal(**{field: 1})
    assert (status, param) == (400, field) and (not ELSEWHERE[field] or repr(ELSEWHERE[field]) in message)


def test_an_unknown_field_is_refused_with_the_nearest_name(way: Way) -> None:
    status, param, message = way.refusal(temprature=1)
    assert (status, param) == (400, "temprature") and "'temperature'" in message


def test_null_is_no_value_in_every_field(way: Way) -> None:
    fields = dict.fromkeys(name for name in ResponsesRequest.model_fields if name not in ("input", "model"))
    assert way.ask(**{**fields, "seed": 1}).output_text == way.ask(seed=1).output_text


def test_the_fields_of_a_chat_that_change_an_answer_are_in_the_table() -> None:
    assert set(CHANGES) <= set(PASSED)
