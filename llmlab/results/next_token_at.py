"""The decoding step at any position of a completion, from the model that made it; or the first one after a prompt."""

from __future__ import annotations

from functools import partial

from llmlab.errors import ContextLengthError, RequestError
from llmlab.protocol.arguments import PlaceError, place
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.completion import Choice, Completion
from llmlab.protocol.request import Request
from llmlab.results.next_token import NextToken
from llmlab.results.step_request import trail_of
from llmlab.sampling.orders import compares_prompts

__all__ = ["SAME", "choice_of", "first_token", "model_of", "next_token_at", "other_weights"]

#: How far the recomputed logprob of a sampled token may lie from the reported one, in nats: far more than the rounding
#: of another batch size, and far less than the difference between two checkpoints.
SAME = 0.05


def first_token(backend: LogitsBackend, request: Request, *, order: str = "llmlab") -> NextToken:
    """The distribution of the first token after a request's prompt; runs the model once.

    Raises:
        RequestError: the order is unknown, or the request has a grammar that cannot be compiled.
        ContextLengthError: the prompt does not fit.
    """
    prompt = backend.render(request)
    try:
        logits = backend.next_logits(prompt, model=request.model)
    except ContextLengthError as error:
        # The backend was given token ids, and cannot know which field they came from.
        raise ContextLengthError(error.message, param=request.subject) from None
    found = NextToken(logits, backend=backend, request=request, prompt_ids=prompt, order=order)
    backend.allowed_tokens(request, prompt=prompt, made=found.made)  # a grammar that cannot be compiled fails now
    return found


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
    model, found = model_of(completion, backend), choice_of(completion, choice)
    tokens = found.tokens
    at = place(position, among=tokens, choice=choice)
    made, drawn = tokens.ids[:at], int(tokens.ids[at])
    # Given tokens were read in one pass, before the first one was sampled. The logprobs of the given tokens themselves
    # are those of the completion that they were taken from, which sampled them step by step.
    given = found.given if at >= found.given else 0
    rows, name = len(completion.choices), completion.request.model
    step_logits = partial(model.step_logits, completion.prompt_ids, made, given=given, rows=rows, model=name)
    after = None
    if compares_prompts(completion.order, model.sampling_params(completion.request, seed=0)):
        logits, after = step_logits(negative=model.negative_prompt(completion.request, completion.prompt_ids))
    else:
        logits = step_logits()
    step = NextToken(
        logits,
        backend=model,
        request=completion.request,
        prompt_ids=completion.prompt_ids,
        made=made,
        order=completion.order,
        seed=completion.seed,
        choice=choice,
        drawn=drawn,
        trail=trail_of(model, completion.request, prompt_ids=completion.prompt_ids, made=made, after=after),
    )
    if drawn >= len(logits) or abs(step.logprobs[drawn] - tokens.logprob[at]) > SAME:
        raise other_weights(completion, position=at, logprob=float(tokens.logprob[at]))
    return step


def model_of(completion: Completion, backend: object) -> LogitsBackend:
    """Returns the backend as one that gives logits.

    Raises:
        RequestError: it is an endpoint.
    """
    if not isinstance(backend, LogitsBackend):
        raise RequestError(f"{completion.model} was asked of an endpoint that gives no logits; llmlab.load a model")
    return backend


def choice_of(completion: Completion, choice: int) -> Choice:
    """The choice with an index.

    Raises:
        PlaceError: there is none.
    """
    found = next((one for one in completion.choices if one.index == choice), None)
    if found is None:
        raise PlaceError(f"choice {choice} is not among the {len(completion.choices)} of this result", param="choice")
    return found


def other_weights(completion: Completion, *, position: int, logprob: float) -> RequestError:
    """The error for a token whose logprob is not the one that was reported when it was sampled."""
    return RequestError(
        f"{completion.model} did not make this result with the weights that are loaded now: the token at position "
        f"{position} had the logprob {logprob:.4f}"
    )
