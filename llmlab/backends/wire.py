"""Completions in the API's own shapes: the types of the `openai` package, with this project's extension fields.

Extension fields stand beside the API's: `seed` on the response; `token_id`, `sampling_logprob`, `rank`, `entropy`,
`kept`, `lead` and `overhang` on a token; `token_id` and `sampling_logprob` on an alternative. JSON has no infinity:
minus infinity is -9999.0, and a figure that is not known is null.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llmlab.backends.protocol import Choice, Completion, TokenBytes, Tokens

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

#: What stands for minus infinity in JSON.
NEVER = -9999.0

_REASONS = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "interrupted": "length"}


def chat_completion(completion: Completion) -> ChatCompletion:
    """The whole answer as an `openai.types.chat.ChatCompletion`; an interrupted choice says `length`."""
    from openai.types.chat import ChatCompletion

    return ChatCompletion.model_validate(
        {
            "id": completion.id,
            "object": "chat.completion",
            "created": completion.created,
            "model": completion.model,
            "system_fingerprint": completion.system_fingerprint,
            "seed": completion.seed,
            "choices": [_choice(choice, completion) for choice in completion.choices],
            "usage": usage(completion),
        }
    )


def usage(completion: Completion) -> dict[str, int]:
    """Tokens of the prompt (once, for all choices) and of all choices together, end tokens included."""
    prompt, made = len(completion.prompt_ids), completion.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def token_logprobs(tokens: Tokens, *, alternatives: int) -> list[dict[str, Any]]:
    """`logprobs.content`: an entry for every token that has a part in the content, the end token left out."""
    return [_token(tokens, t, alternatives) for t in range(len(tokens)) if tokens.segment[t] != "end"]


def _choice(choice: Choice, completion: Completion) -> dict[str, Any]:
    request = completion.request
    logprobs = None
    if request.logprobs:
        logprobs = {"content": token_logprobs(choice.tokens, alternatives=request.top_logprobs or 0), "refusal": None}
    return {
        "index": choice.index,
        "message": {"role": "assistant", "content": choice.text, "refusal": None},
        "finish_reason": _REASONS[choice.finish_reason],
        "logprobs": logprobs,
    }


def _token(tokens: Tokens, t: int, alternatives: int) -> dict[str, Any]:
    return {
        **_spelled(tokens.bytes[t]),
        "token_id": int(tokens.ids[t]),
        "logprob": _number(tokens.logprob[t]),
        "sampling_logprob": _number(tokens.sampling_logprob[t]),
        "rank": _count(tokens.rank[t]),
        "entropy": _number(tokens.entropy[t]),
        "kept": _count(tokens.kept[t]),
        "lead": int(tokens.lead[t]),
        "overhang": int(tokens.overhang[t]),
        "top_logprobs": [
            {
                **_spelled(tokens.top_bytes[t][a]),
                "token_id": int(tokens.top_ids[t, a]),
                "logprob": _number(tokens.top_logprob[t, a]),
                "sampling_logprob": _number(tokens.top_sampling_logprob[t, a]),
            }
            for a in range(min(alternatives, tokens.top_ids.shape[1]))
        ],
    }


def _spelled(data: TokenBytes) -> dict[str, Any]:
    return {"token": (data or b"").decode("utf-8", "replace"), "bytes": None if data is None else list(data)}


def _number(value: Any) -> float | None:
    number = float(value)
    if math.isnan(number):
        return None
    return NEVER if number == -math.inf else number


def _count(value: Any) -> int | None:
    return None if value < 0 else int(value)
