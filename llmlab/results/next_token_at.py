"""The decoding step at any position of a completion, from the model that made it."""

from __future__ import annotations

from llmlab.errors import RequestError
from llmlab.protocol.arguments import PlaceError, place
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.completion import Completion
from llmlab.results.next_token import NextToken

__all__ = ["next_token_at"]

#: How far the recomputed logprob of a sampled token may lie from the reported one, in nats: far more than the rounding
#: of another batch size, and far less than the difference between two checkpoints.
_SAME = 0.05


def next_token_at(completion: Completion, backend: object, *, position: int, choice: int) -> NextToken:
    """The step at which a completion sampled the token at `position`.

    The model repeats the decoding steps that made the completion, so that the logits are those of then to the bit.

    Args:
        completion: what the backend's model answered.
        backend: a `LogitsBackend`.
        position: of the token; a negative one counts from the end.
        choice: the index of the choice.

    Raises:
        PlaceError: there is no such position or choice.
        RequestError: the backend gives no logits, or the completion was made with other weights.
    """
    if not isinstance(backend, LogitsBackend):
        raise RequestError(f"{completion.model} was asked of an endpoint that gives no logits; llmlab.load a model")
    found = next((one for one in completion.choices if one.index == choice), None)
    if found is None:
        raise PlaceError(f"choice {choice} is not among the {len(completion.choices)} of this result", param="choice")
    tokens = found.tokens
    at = place(position, among=tokens, choice=choice)
    made, drawn = tokens.ids[:at], int(tokens.ids[at])
    # Given tokens were read in one pass, before the first one was sampled. The logprobs of the given tokens themselves
    # are those of the completion that they were taken from, which sampled them step by step.
    given = found.given if at >= found.given else 0
    logits = backend.step_logits(completion.prompt_ids, made, given=given, rows=len(completion.choices))
    step = NextToken(
        logits,
        backend=backend,
        request=completion.request,
        prompt_ids=completion.prompt_ids,
        made=made,
        order=completion.order,
        seed=completion.seed,
        choice=choice,
        drawn=drawn,
    )
    if drawn >= len(logits) or abs(step.logprobs[drawn] - tokens.logprob[at]) > _SAME:
        raise RequestError(
            f"{completion.model} did not make this result with the weights that are loaded now: the token at position "
            f"{at} had the logprob {tokens.logprob[at]:.4f}"
        )
    return step
