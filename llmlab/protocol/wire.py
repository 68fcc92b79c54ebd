"""Completions as API JSON and as the types of the `openai` package, with this project's extension fields.

The extension fields: `seed` of the response; `prompt_token_ids` of the response and `token_ids` of a choice, if the
request has `return_token_ids`; `reasoning_content` of a message, if the request separates the reasoning; `reasoning`,
`tool_calls` and `end` beside `content` in the logprobs; `token_id`, `sampling_logprob`, `rank`, `entropy`, `kept`,
`lead` and `overhang` of a token, and `kept_logprobs` if the request has it; `token_id` and `sampling_logprob` of an
alternative. JSON has no infinity: minus
infinity is -9999.0. Unknown values are null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmlab.protocol.completion import Choice, Completion, Header, TokenBytes, Tokens, ToolCall, drawable, listed

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

#: Stands for minus infinity in JSON, as in OpenAI's API.
MINUS_INFINITY = -9999.0

#: The lists of the logprobs, one per segment of the answer; all after the first are extensions.
LOGPROB_LISTS = ("content", "reasoning", "tool_calls", "end")

_REASONS = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "interrupted": "length"}


def chat_completion(completion: Completion) -> ChatCompletion:
    """Returns the answer as an `openai.types.chat.ChatCompletion`; an interrupted choice has finish_reason "length"."""
    from openai.types.chat import ChatCompletion

    # Without validation, as the package itself reads an answer: unknown values are null where the type has a number.
    return ChatCompletion.construct(**completion_json(completion))


def completion_json(completion: Completion) -> dict[str, Any]:
    """Returns the answer as a `chat.completion` JSON object."""
    return {
        **envelope(completion, kind="chat.completion"),
        "seed": completion.seed,
        **prompt_token_ids(completion),
        "choices": [_choice(choice, completion) for choice in completion.choices],
        **prompt_logprobs_json(completion),
        "usage": usage(completion, generated=completion.completion_tokens, reported=completion.reported_usage),
    }


def prompt_logprobs_json(header: Header) -> dict[str, list[dict[str, Any] | None]]:
    """Returns the field `prompt_logprobs` as vLLM has it, or no field where it is not known.

    It has an entry for each of the prompt's tokens: token id -> logprob, rank and text, of the token itself and of the
    likeliest ones. That of the first token is null, because nothing comes before it.
    """
    tokens, count = header.prompt_tokens, header.request.prompt_logprobs
    if tokens is None or count is None:
        return {}
    found: list[dict[str, Any] | None] = [None]
    for t in range(len(tokens)):
        own = (int(tokens.ids[t]), tokens.bytes[t], tokens.logprob[t], int(tokens.rank[t]))
        # As many as are asked for; there may be fewer.
        ranks = range(1, min(count, tokens.top_ids.shape[1]) + 1)
        top = zip(tokens.top_ids[t].tolist(), tokens.top_bytes[t], tokens.top_logprob[t], ranks, strict=False)
        found.append(
            {
                str(token): {
                    "logprob": number_json(logprob),
                    "rank": rank,
                    "decoded_token": spelling(data, token, header.control_tokens)["token"],
                }
                for token, data, logprob, rank in (own, *top)
            }
        )
    return {"prompt_logprobs": found}


def envelope(header: Header, *, kind: str) -> dict[str, Any]:
    """Returns the fields that a whole answer and each chunk of a streamed one have in common; `kind` is `object`."""
    return {
        "id": header.id,
        "object": kind,
        "created": header.created,
        "model": header.model,
        "system_fingerprint": header.system_fingerprint,
    }


def prompt_token_ids(header: Header) -> dict[str, list[int]]:
    """Returns the prompt's token ids as a field of the answer, if the request asks for them."""
    return {"prompt_token_ids": header.prompt_ids.tolist()} if header.request.return_token_ids else {}


def token_ids(tokens: Tokens, header: Header) -> dict[str, list[int]]:
    """Returns the ids of generated tokens, end tokens included, as a field of a choice, if the request wants them."""
    return {"token_ids": tokens.ids.tolist()} if header.request.return_token_ids else {}


def usage(header: Header, *, generated: int, reported: Mapping[str, int] | None = None) -> dict[str, int] | None:
    """Returns the API's `usage`: tokens of the prompt, counted once, and `generated` tokens of all choices together.

    Numbers that an endpoint `reported` are returned as they are. None if the prompt's tokens are not known either.
    """
    if reported is not None:
        return dict(reported)
    prompt = len(header.prompt_ids)
    if not prompt:
        return None
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


def finish_reason(reason: str) -> str:
    """Returns a finish reason as the API spells it."""
    return _REASONS[reason]


def tool_call_json(tool_call: ToolCall) -> dict[str, Any]:
    """Returns an entry of `message.tool_calls`."""
    function = {"name": tool_call.name, "arguments": tool_call.arguments}
    return {"id": tool_call.id, "type": "function", "function": function}


def logprobs_json(tokens: Tokens, header: Header) -> dict[str, list[dict[str, Any]]]:
    """Returns the lists of `logprobs`: an entry for each token, in the list of its segment.

    `content` lists the tokens of the message's content, which contains the reasoning if the request does not separate
    it.
    """
    alternatives, named = header.request.top_logprobs or 0, header.request.logprob_token_ids or ()
    kinds = {"content": "content", "tool_call": "tool_calls", "end": "end"}
    kinds["reasoning"] = "reasoning" if header.request.separate_reasoning else "content"
    lists: dict[str, list[dict[str, Any]]] = {name: [] for name in LOGPROB_LISTS}
    for t, segment in enumerate(tokens.segment):
        if segment in kinds:
            columns = listed(tokens, t, most=alternatives, named=named)
            entry = _token(tokens, t, columns, header.control_tokens)
            if header.request.kept_logprobs:
                entry["kept_logprobs"] = _kept(tokens, t, header.control_tokens)
            lists[kinds[segment]].append(entry)
    return lists


def _choice(choice: Choice, completion: Completion) -> dict[str, Any]:
    request = completion.request
    # If there is only a call, the API has null as content, not an empty text.
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.tool_calls:
        message |= {"content": choice.text or None, "tool_calls": [tool_call_json(call) for call in choice.tool_calls]}
    if request.separate_reasoning or (choice.reasoning and choice.reasoning not in choice.text):
        message["reasoning_content"] = choice.reasoning or None
    return {
        "index": choice.index,
        "message": message,
        "finish_reason": finish_reason(choice.finish_reason),
        "logprobs": {**logprobs_json(choice.tokens, completion), "refusal": None} if request.logprobs else None,
        **token_ids(choice.tokens, completion),
    }


def _token(tokens: Tokens, t: int, columns: Sequence[int], names: Mapping[int, str]) -> dict[str, Any]:
    return {
        **spelling(tokens.bytes[t], int(tokens.ids[t]), names),
        "logprob": number_json(tokens.logprob[t]),
        "sampling_logprob": number_json(tokens.sampling_logprob[t]),
        "rank": _count(tokens.rank[t]),
        "entropy": number_json(tokens.entropy[t]),
        "kept": _count(tokens.kept[t]),
        "lead": int(tokens.lead[t]),
        "overhang": int(tokens.overhang[t]),
        "top_logprobs": [
            {
                **spelling(tokens.top_bytes[t][a], int(tokens.top_ids[t, a]), names),
                "logprob": number_json(tokens.top_logprob[t, a]),
                "sampling_logprob": number_json(tokens.top_sampling_logprob[t, a]),
            }
            for a in columns
        ],
    }


def _kept(tokens: Tokens, t: int, names: Mapping[int, str]) -> list[dict[str, Any]] | None:
    """The tokens that could be drawn at a position; null where not all of them are known."""
    found = drawable(tokens, t)
    if found is None:
        return None
    return [
        {
            **spelling(each.data, each.token_id, names),
            "logprob": number_json(each.logprob),
            "sampling_logprob": number_json(each.sampling_logprob),
        }
        for each in found
    ]


def spelling(data: TokenBytes, token_id: int, names: Mapping[int, str]) -> dict[str, Any]:
    """Returns a token's text, bytes and id. A control token's text is its name, and its bytes are null."""
    known = _count(token_id)
    if data is None:
        return {"token": names.get(token_id, f"<id {token_id}>"), "bytes": None, "token_id": known}
    return {"token": data.decode("utf-8", "replace"), "bytes": list(data), "token_id": known}


def number_json(value: Any) -> float | None:
    """Returns a statistic as JSON has it: null where it is not known, -9999.0 for minus infinity."""
    number = float(value)
    if math.isnan(number):
        return None
    return MINUS_INFINITY if number == -math.inf else number


def _count(value: Any) -> int | None:
    return None if value < 0 else int(value)
