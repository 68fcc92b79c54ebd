"""Whatever clients send to `/v1/responses`: an answer, or one clear error."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmlab.serve.handler import Handler
from llmlab.serve.responses.fields import PASSED
from llmlab.serve.responses.request import ResponsesRequest
from llmlab.serve.routes.responses import RESPONSES
from tests.serve.bodies import error_of, http
from tests.serve.mutations import SCHEMA, requests
from tests.serve.puppet import wait

PARAMETERS = {"type": "object", "properties": {"sides": {"type": "integer"}}, "required": ["sides"]}
ROLL = {"type": "function", "name": "roll", "description": "Roll dice.", "parameters": PARAMETERS, "strict": True}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "roll", "arguments": '{"sides": 6}'}
HI = [{"role": "user", "content": "Hi"}]

#: Between them, every field that a chat does not have; each makes one token.
VALID = [
    {
        "input": "Hi", "instructions": "Be brief.", "temperature": 0.5, "top_p": 0.9, "top_k": 10, "min_p": 0.1,
        "frequency_penalty": 0.5, "presence_penalty": -0.5, "repetition_penalty": 1.1, "seed": 7, "stop": ["a", "\n\n"],
        "logit_bias": {"65": 5, "66": -100}, "max_output_tokens": 1, "stop_token_ids": [5], "return_token_ids": True,
        "bad_words": ["x"], "allowed_token_ids": [20, 21, 22],
    },
    {
        "input": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}, {"type": "input_text", "text": "é🦊"}]},
        ],
        "model": "demo", "include": ["message.output_text.logprobs"], "top_logprobs": 3, "prompt_logprobs": 1,
        "logprob_token_ids": [7],
        "stream": True, "stream_options": {"include_obfuscation": False}, "max_output_tokens": 1,
        "context_length_exceeded_behavior": "error", "enable_thinking": True, "min_tokens": 1, "ignore_eos": True,
        "user": "u", "metadata": {"k": "v"}, "store": False, "service_tier": "auto", "safety_identifier": "u",
        "prompt_cache_key": "k", "prompt_cache_retention": "24h", "prompt_cache_options": {"mode": "explicit"},
        "truncation": "auto", "max_tool_calls": 3, "background": False, "context_management": [],
        "previous_response_id": None, "conversation": None, "prompt": None, "moderation": None,
        "background_options": {}, "image": {}, "access_programs": {},
    },
    {
        "input": [
            {"role": "user", "content": "Roll."},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Six sides."}]},
            CALL,
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "4"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It was"}]},
        ],
        "continue_final_message": True, "include_stop": False, "stop": "x", "max_output_tokens": 1,
        "chat_template_kwargs": {"enable_thinking": True},
    },
    {
        "input": [*HI, CALL, {"type": "function_call_output", "call_id": "c1", "output": "4"}], "tools": [ROLL],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "roll"}]},
        "parallel_tool_calls": False, "max_output_tokens": 1, "stream": True,
    },
    {
        "input": HI, "tools": [ROLL], "tool_choice": {"type": "function", "name": "roll"}, "max_output_tokens": 1,
        "reasoning": {"effort": "low", "summary": "auto"},
    },
    {
        "input": HI, "max_output_tokens": 1,
        "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "who", "schema": SCHEMA}},
    },
    {"input": HI, "max_output_tokens": 1, "text": {"format": {"type": "json_object"}}},
    {"input": HI, "max_output_tokens": 1, "structured_outputs": {"regex": "[a-z]+"}},
]  # fmt: skip


def post(server, data):
    sent = {"content-type": "application/json"}
    return http.post(f"{server.url}/v1/responses", content=data, headers=sent, timeout=60, verify=False)


def test_what_is_mutated_is_valid_to_begin_with(server):
    assert {name for body in VALID for name in body} >= set(ResponsesRequest.model_fields) - set(PASSED)
    for body in VALID:
        answer = post(server, json.dumps(body).encode())
        assert answer.status_code == 200, answer.text


@pytest.mark.slow
def test_thousands_of_mutated_requests(demo):
    """In-process, through the code that the server answers with: what nobody foresaw is raised here."""

    def answer(data):
        conversation = Handler(demo.backend, RESPONSES)
        reply = conversation.start(data)
        body = b"".join(reply.parts)
        conversation.leave()
        return data, reply.status, body

    with ThreadPoolExecutor(24) as threads:
        answers = list(threads.map(answer, requests(4000, seed=5, valid=VALID), timeout=400))
    statuses = Counter(status for _, status, _ in answers)
    print(f"\n{dict(statuses)}")
    assert statuses.total() == statuses[200] + statuses[400] + statuses[404] == 4000
    assert statuses[200] > 100 and statuses[400] > 1000
    for data, status, body in answers:
        if status != 200:
            error = json.loads(body)["error"]
            assert error["param"] is not None and len(body) < 5000, (data, body)
            # No name of the chat request that it became.
            assert not error["message"].startswith(("messages", "response_format", "max_tokens ")), (data, body)


def test_mutated_requests_over_the_socket(server):
    statuses: Counter[int] = Counter()
    with http.Client(timeout=60, headers={"content-type": "application/json"}) as client:
        for data in requests(300, seed=6, valid=VALID):
            answer = client.post(f"{server.url}/v1/responses", content=data)
            statuses[answer.status_code] += 1
            if answer.status_code != 200:
                assert answer.status_code in (400, 404) and error_of(answer)["param"] is not None, data
    assert statuses[400] > 100 and statuses[200] > 10
    wait(lambda: server.admission.inside == 0)
