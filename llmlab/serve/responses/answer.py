"""A finished answer as the JSON of a Response: its output items, its usage, and the request's fields repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from llmlab.protocol.completion import Choice, Completion, Header
from llmlab.protocol.request import Request
from llmlab.protocol.wire import finish_reason, prompt_logprobs_json, prompt_token_ids, token_ids, usage
from llmlab.serve.responses.items_json import Json, name_of
from llmlab.serve.responses.request import ResponsesRequest


@dataclass(frozen=True, eq=False)
class Answer:
    """A completion, the request that was made, and the items of the output in the order in which they were made."""

    completion: Completion
    asked: ResponsesRequest
    output: Sequence[Json]

    @property
    def id(self) -> str:
        """The id of the Response."""
        return f"resp_{name_of(self.completion)}"

    @property
    def prompt_ids(self) -> Int32[np.ndarray, " L"]:
        """The tokens of the prompt."""
        return self.completion.prompt_ids

    @property
    def completion_tokens(self) -> int:
        """How many tokens were generated."""
        return self.completion.completion_tokens

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The only choice."""
        return self.completion.choices


def begun(header: Header, asked: ResponsesRequest) -> Json:
    """Returns the Response before its first token."""
    return {
        "id": f"resp_{name_of(header)}",
        "object": "response",
        "created_at": header.created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": header.model,
        "output": [],
        "usage": None,
        **_repeated(asked, header.request),
        "seed": header.seed,
        "system_fingerprint": header.system_fingerprint,
    }


def response_json(answer: Answer) -> Json:
    """Returns an answer as a `response` JSON object."""
    completion = answer.completion
    [choice] = completion.choices
    status: Json = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    if not is_cut(completion):
        status = {"status": "completed", "completed_at": int(completion.created + completion.timing.total)}
    return {
        **begun(completion, answer.asked),
        **status,
        "output": list(answer.output),
        "usage": _usage(completion),
        **prompt_token_ids(completion),
        **token_ids(choice.tokens, completion),
        **prompt_logprobs_json(completion),
    }


def is_cut(completion: Completion) -> bool:
    """Returns whether an answer ended at the limit of its length."""
    [choice] = completion.choices
    return finish_reason(choice.finish_reason) == "length"


def _usage(completion: Completion) -> Json | None:
    found = usage(completion, generated=completion.completion_tokens, reported=completion.reported_usage)
    if found is None:
        return None
    reasoning = sum(segment == "reasoning" for choice in completion.choices for segment in choice.tokens.segment)
    spent = found.get("prompt_tokens", len(completion.prompt_ids))
    made = found.get("completion_tokens", completion.completion_tokens)
    return {
        "input_tokens": spent,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": found.get("total_tokens", spent + made),
    }


def _repeated(asked: ResponsesRequest, chat: Request) -> Json:
    """The fields of the request that a Response repeats."""
    form = (asked.text or {}).get("format", {"type": "text"})
    reasoning = asked.reasoning or {}
    return {
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "max_tool_calls": asked.max_tool_calls,
        "metadata": asked.metadata or {},
        "parallel_tool_calls": asked.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "store": False,
        "temperature": chat.temperature,
        "text": {"format": form, **{key: inner for key, inner in (asked.text or {}).items() if key != "format"}},
        "tool_choice": asked.tool_choice or "auto",
        "tools": [{"parameters": None, "strict": None, **tool} for tool in asked.tools],
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": chat.top_p,
        "truncation": asked.truncation,
        **{name: getattr(asked, name) for name in ("user", "safety_identifier", "prompt_cache_key")},
    }
