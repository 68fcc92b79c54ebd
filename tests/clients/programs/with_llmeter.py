"""`llmeter`, a load tool: several clients at once, whole answers and streams."""

from __future__ import annotations

import asyncio

from cases import MODEL, STORY, case, report, url
from llmeter.endpoints import OpenAICompletionEndpoint, OpenAICompletionStreamEndpoint
from llmeter.runner import Runner

CLIENTS, REQUESTS, TOKENS = 4, 3, 12


def measured(kind: type) -> dict[str, object]:
    endpoint = kind(MODEL, api_key="none", base_url=url(), max_retries=0)
    payload = kind.create_payload(STORY, max_tokens=TOKENS, seed=7)
    runner = Runner(endpoint, clients=CLIENTS, n_requests=REQUESTS, payload=payload)
    result = asyncio.run(runner.run())
    return {
        "errors": [response.error for response in result.responses if response.error],
        "texts": [response.response_text for response in result.responses],
        "tokens": [response.num_tokens_output for response in result.responses],
        "first": [response.time_to_first_token for response in result.responses],
    }


@case
def whole():
    return measured(OpenAICompletionEndpoint)


@case
def streamed():
    return measured(OpenAICompletionStreamEndpoint)


report()
