"""The ledger of one step: what each stage of the sampler did to a token's logit and probability."""

from __future__ import annotations

from llmlab.errors import RequestError
from llmlab.protocol.arguments import PlaceError, place
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.completion import Completion
from llmlab.results.next_token import NextToken

#: How far the logprob of the token that was drawn may lie from the one that was reported, before something is wrong:
#: far more than batches of another width differ by, and far less than other weights do.
_SAME = 0.05


def ledger(completion: Completion, backend: object, *, position: int, choice: int) -> NextToken:
    """The step in which a completion drew the token at `position`; see `Result.ledger`."""
    if not isinstance(backend, LogitsBackend):
        raise RequestError(f"{completion.model} was asked of an endpoint that gives no logits; llmlab.load a model")
    found = next((one for one in completion.choices if one.index == choice), None)
    if found is None:
        raise PlaceError(f"choice {choice} is not among the {len(completion.choices)} of this result", param="choice")
    tokens = found.tokens
    at = place(position, among=tokens, choice=choice)
    made = tokens.ids[:at]
    # What was given was read at once, before the first token was drawn; within it, a branch has its parent's figures.
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
    )
    step.drawn = int(tokens.ids[at])
    if step.drawn >= len(logits) or abs(step.logprobs[step.drawn] - tokens.logprob[at]) > _SAME:
        raise RequestError(
            f"{completion.model} did not make this result with the weights that are loaded now: the token at position "
            f"{at} had the logprob {tokens.logprob[at]:.4f}"
        )
    return step
