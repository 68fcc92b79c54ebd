"""Teacher forcing: the logprobs of given tokens, of a text, of a prompt, or of an answer's own tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Integer

from llmlab.counterfactuals.answered import Answered, logits_backend
from llmlab.counterfactuals.rerun import changed_request
from llmlab.errors import RequestError, short
from llmlab.frames.schema import PROMPT_COLUMNS, build
from llmlab.protocol.arguments import listed
from llmlab.protocol.backend import Backend, GivenTokens, LogitsBackend, Scoring
from llmlab.protocol.checks import FieldError, check_text
from llmlab.protocol.completion import Completion
from llmlab.protocol.request import PromptRequest, Request, build_request
from llmlab.text.token_names import TokenNames

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Scored", "prompt_frame", "score", "to_score"]

#: What can be scored: a text, token ids or an answer; or several texts or lists of ids, one choice each.
Scored: TypeAlias = (
    "str | Sequence[int] | Integer[np.ndarray, ' T'] | Sequence[str] | Sequence[Sequence[int]] | Answered"
)

#: Fields that decide how an answer is sampled to its end: here nothing is sampled.
_NOT_HERE = ("max_tokens", "max_completion_tokens", "n", "stop", "include_stop", "stream", "stream_options")
_MOST = 128


def score(
    backend: Backend, messages: Any, given: Scored | None, *, order: str | None, fields: Mapping[str, Any]
) -> Completion:
    """Scores given tokens after a prompt; see `Lab.score`. Tokens of an answer keep its prompt, seed and order."""
    return logits_backend(backend).score_all([to_score(backend, messages, given, order=order, fields=fields)])[0]


def to_score(
    backend: Backend, messages: Any, given: Scored | None, *, order: str | None, fields: Mapping[str, Any]
) -> Scoring:
    """Returns what the backend is to score, which `score` asks of it at once."""
    model = logits_backend(backend)
    check_given(fields)
    if isinstance(messages, Answered):
        if given is not None:
            raise RequestError(
                "messages: a result's own tokens are scored with nothing else given; what came before them is in its "
                "`request`, lab.score(result.request, given)",
                param="messages",
            )
        messages, given = None, messages
    if isinstance(given, Answered):
        return _again(messages, given, order=order, fields=fields)
    request = build_request(messages, **fields)
    if given is None:
        request, choices = _prompt(model, request)
    else:
        texts = _several(given)
        choices = [GivenTokens(index, _ids(model, text)) for index, text in enumerate(texts)]
        request = request.replace(n=len(choices))
    return Scoring(request, choices, request.seed, order or "llmlab")


def check_given(fields: Mapping[str, Any]) -> None:
    """Checks that no field is given that decides how an answer is sampled to its end.

    Raises:
        RequestError: there is such a field.
    """
    for name in _NOT_HERE:
        if fields.get(name) is not None:
            raise RequestError(f"{name} says how tokens are drawn, and here they are given", param=name)


def _again(messages: Any, done: Answered, *, order: str | None, fields: Mapping[str, Any]) -> Scoring:
    """An answer's tokens, after its own prompt or after another."""
    changes = dict(fields) if messages is None else {"messages": messages, **fields}
    if messages is None or not isinstance(messages, Request):
        request = changed_request(done, changes)
    else:
        request = build_request(messages, **fields)
    choices = [GivenTokens(choice.index, choice.tokens.ids, choice.finish_reason) for choice in done.choices]
    for one in choices:
        if (one.ids < 0).any():
            raise RequestError("the endpoint did not return the ids of these tokens: score the text", param="given")
    return Scoring(request, choices, done.seed, order or done.order)


def _prompt(backend: LogitsBackend, request: Request) -> tuple[PromptRequest, list[GivenTokens]]:
    """The request that scores a raw prompt's tokens from the second on, and these tokens."""
    if not isinstance(request, PromptRequest):
        raise RequestError(
            "given is missing: the text, token ids or result to score after these messages", param="given"
        )
    ids = backend.render(request)
    if len(ids) < 2:
        raise RequestError(
            "prompt: a single token has no logprob, because nothing comes before it; give at least two", param="prompt"
        )
    return request.replace(prompt=(int(ids[0]),)), [GivenTokens(0, ids[1:])]


def _several(given: Any) -> list[Any]:
    """What is given as a list of texts or of lists of token ids, one per choice."""
    if isinstance(given, str):
        return [given]
    texts = listed("given", given, of="token ids, or of texts,")
    if not texts or isinstance(texts[0], int | float | np.number):
        return [texts]
    if len(texts) > _MOST:
        raise RequestError(f"given holds {len(texts)} texts; at most {_MOST} at a time", param="given")
    return texts


def _ids(backend: LogitsBackend, given: Any) -> np.ndarray:
    if isinstance(given, str):
        try:
            ids = backend.encode(check_text(given))
        except FieldError as bad:
            raise RequestError(f"given {bad}", param="given") from None
    elif isinstance(given, Answered):
        raise RequestError("given: results are scored one at a time", param="given")
    else:
        given = listed("given", given, of="token ids, or a text,")
        known = range(len(backend.token_bytes))
        strange = [i for i in given if not isinstance(i, int | np.integer) or isinstance(i, bool) or i not in known]
        if strange:
            raise RequestError(
                f"given: {short(strange[0])} is not a token id of the vocabulary (0..{len(known) - 1})", param="given"
            )
        ids = [int(i) for i in given]
    if not ids:
        raise RequestError(f"given: there is not a single token in {short(given)}", param="given")
    return np.array(ids, np.int32)


def prompt_frame(done: Answered, backend: Backend) -> pd.DataFrame:
    """The logprobs of an answer's prompt tokens; see `Result.prompt_logprobs_frame`."""
    model, ids = logits_backend(backend), done.prompt_ids
    statistics = ("logprob", "rank", "entropy", "margin")
    columns: dict[str, list[Any]] = {name: [np.nan] for name in statistics}  # nothing comes before the first token
    if len(ids) > 1:
        request = PromptRequest(prompt=(int(ids[0]),))
        tokens = model.score(request, [GivenTokens(0, ids[1:].astype(np.int32))], seed=0).choices[0].tokens
        columns = {name: [np.nan, *getattr(tokens, name).tolist()] for name in statistics}
    named = TokenNames(model.token_bytes, done.control_tokens).columns(ids.tolist())
    return build({**columns, **named, "position": range(len(ids))}, PROMPT_COLUMNS)
