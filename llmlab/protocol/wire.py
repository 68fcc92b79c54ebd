"""Completions in the API's own shapes: the types of the `openai` package, with this project's extension fields.

Extension fields stand beside the API's: `seed` on the response; `reasoning_content` on a message, where the request
separates the reasoning; `reasoning` and `tool_calls` beside `content` in the logprobs; `token_id`, `sampling_logprob`,
`rank`, `entropy`, `kept`, `lead` and `overhang` on a token; `token_id` and `sampling_logprob` on an alternative. JSON
has no infinity: minus infinity is -9999.0, and a figure that is not known is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmlab.protocol.completion import Choice, Completion, Header, TokenBytes, Tokens, ToolCall

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

#: What stands for minus infinity in JSON.
NEVER = -9999.0

#: The lists of the logprobs, by the kind of text whose tokens they hold; the last two are extensions.
LISTS = ("content", "reasoning", "tool_calls")

_REASONS = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "interrupted": "length"}


def chat_completion(completion: Completion) -> ChatCompletion:
    """The whole answer as an `openai.types.chat.ChatCompletion`; an interrupted choice says `length`."""
    from openai.types.chat import ChatCompletion

    # As the package itself reads an answer: a figure that an endpoint did not send is null where the type has a number.
    return ChatCompletion.construct(**whole(completion))


def whole(completion: Completion) -> dict[str, Any]:
    """The same as JSON has it."""
    return {
        **envelope(completion, kind="chat.completion"),
        "seed": completion.seed,
        "choices": [_choice(choice, completion) for choice in completion.choices],
        "usage": usage(completion, made=completion.completion_tokens, reported=completion.reported_usage),
    }


def envelope(header: Header, *, kind: str) -> dict[str, Any]:
    """What a whole answer and each chunk of a streamed one begin with."""
    return {
        "id": header.id,
        "object": kind,
        "created": header.created,
        "model": header.model,
        "system_fingerprint": header.system_fingerprint,
    }


def usage(header: Header, *, made: int, reported: Mapping[str, int] | None = None) -> dict[str, int] | None:
    """Tokens of the prompt (once, for all choices) and of all choices together, end tokens included.

    As an endpoint `reported` them, or counted here; None where neither can be.
    """
    if reported is not None:
        return dict(reported)
    prompt = len(header.prompt_ids)
    if not prompt:
        return None
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def finish_reason(reason: str) -> str:
    """How the API spells why a choice ended."""
    return _REASONS[reason]


def call(tool_call: ToolCall) -> dict[str, Any]:
    """An entry of `message.tool_calls`."""
    function = {"name": tool_call.name, "arguments": tool_call.arguments}
    return {"id": tool_call.id, "type": "function", "function": function}


def listed(tokens: Tokens, header: Header) -> dict[str, list[dict[str, Any]]]:
    """The tokens as the entries of `logprobs`, each in its list; the end token is in none.

    `content` covers what the message's content holds: the reasoning too, where the request does not separate it.
    """
    alternatives = header.request.top_logprobs or 0
    kinds = {"content": "content", "tool_call": "tool_calls"}
    kinds["reasoning"] = "reasoning" if header.request.separate_reasoning else "content"
    lists: dict[str, list[dict[str, Any]]] = {name: [] for name in LISTS}
    for t, segment in enumerate(tokens.segment):
        if segment in kinds:
            lists[kinds[segment]].append(_token(tokens, t, alternatives, header.control_tokens))
    return lists


def _choice(choice: Choice, completion: Completion) -> dict[str, Any]:
    request = completion.request
    # Where a call is all there is, the API has no content rather than an empty one.
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.tool_calls:
        message |= {"content": choice.text or None, "tool_calls": [call(each) for each in choice.tool_calls]}
    if request.separate_reasoning or (choice.reasoning and choice.reasoning not in choice.text):
        message["reasoning_content"] = choice.reasoning or None
    return {
        "index": choice.index,
        "message": message,
        "finish_reason": finish_reason(choice.finish_reason),
        "logprobs": {**listed(choice.tokens, completion), "refusal": None} if request.logprobs else None,
    }


def _token(tokens: Tokens, t: int, alternatives: int, names: Mapping[int, str]) -> dict[str, Any]:
    return {
        **_spelled(tokens.bytes[t], int(tokens.ids[t]), names),
        "logprob": _number(tokens.logprob[t]),
        "sampling_logprob": _number(tokens.sampling_logprob[t]),
        "rank": _count(tokens.rank[t]),
        "entropy": _number(tokens.entropy[t]),
        "kept": _count(tokens.kept[t]),
        "lead": int(tokens.lead[t]),
        "overhang": int(tokens.overhang[t]),
        "top_logprobs": [
            {
                **_spelled(tokens.top_bytes[t][a], int(tokens.top_ids[t, a]), names),
                "logprob": _number(tokens.top_logprob[t, a]),
                "sampling_logprob": _number(tokens.top_sampling_logprob[t, a]),
            }
            for a in range(min(alternatives, tokens.top_ids.shape[1]))
        ],
    }


def _spelled(data: TokenBytes, token_id: int, names: Mapping[int, str]) -> dict[str, Any]:
    """A token without text goes by its name; that its bytes are null tells it from a text that reads the same."""
    known = _count(token_id)
    if data is None:
        return {"token": names.get(token_id, f"<id {token_id}>"), "bytes": None, "token_id": known}
    return {"token": data.decode("utf-8", "replace"), "bytes": list(data), "token_id": known}


def _number(value: Any) -> float | None:
    number = float(value)
    if math.isnan(number):
        return None
    return NEVER if number == -math.inf else number


def _count(value: Any) -> int | None:
    return None if value < 0 else int(value)
