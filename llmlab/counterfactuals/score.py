"""Teacher forcing: what a model thinks of tokens that are given to it, a text's, a prompt's, or its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Integer

from llmlab.counterfactuals.rerun import changed_request, logits_backend
from llmlab.errors import RequestError, short
from llmlab.frames.schema import PROMPT_COLUMNS, build
from llmlab.protocol.arguments import listed
from llmlab.protocol.backend import GivenTokens, LogitsBackend
from llmlab.protocol.checks import FieldError, check_text
from llmlab.protocol.request import PromptRequest, Request
from llmlab.results.result import Result, lab_of
from llmlab.text.token_names import TokenNames

if TYPE_CHECKING:
    import pandas as pd

    from llmlab.lab.lab import Lab

__all__ = ["Scored", "prompt_frame", "score"]

#: What can be scored: a text, token ids, a result; or several texts, or several lists of ids, a choice each.
Scored: TypeAlias = "str | Sequence[int] | Integer[np.ndarray, ' T'] | Sequence[str] | Sequence[Sequence[int]] | Result"

#: Fields that say how an answer is drawn to its end; there is nothing to draw.
_NOT_HERE = ("max_tokens", "max_completion_tokens", "n", "stop", "include_stop", "stream", "stream_options")
_MOST = 128


def score(lab: Lab, messages: Any, given: Scored | None, *, order: str | None, fields: Mapping[str, Any]) -> Result:
    """See `Lab.score`."""
    backend = logits_backend(lab)
    check_given(fields)
    if isinstance(messages, Result):
        if given is not None:
            raise RequestError(
                "messages: a result's own tokens are scored with nothing else given; what came before them is in its "
                "`request`, lab.score(result.request, given)",
                param="messages",
            )
        messages, given = None, messages
    if isinstance(given, Result):
        return _own(lab, backend, messages, given, order=order, fields=fields)
    request = lab.request(messages, **fields)
    if given is None:
        request, choices = _prompt(backend, request)
    else:
        texts = _several(given)
        choices = [GivenTokens(index, _ids(backend, text)) for index, text in enumerate(texts)]
        request = request.replace(n=len(choices))
    found = backend.score(request, choices, seed=request.seed, order=order or "llmlab")
    return lab.keep(found)


def check_given(fields: Mapping[str, Any]) -> None:
    """Nothing is drawn: fields that say how it ends have no meaning.

    Raises:
        RequestError: there is one.
    """
    for name in _NOT_HERE:
        if fields.get(name) is not None:
            raise RequestError(f"{name} says how tokens are drawn, and here they are given", param=name)


def _own(
    lab: Lab, backend: LogitsBackend, messages: Any, result: Result, *, order: str | None, fields: Mapping[str, Any]
) -> Result:
    """A result's tokens, after its own prompt or after another."""
    changes = dict(fields) if messages is None else {"messages": messages, **fields}
    if messages is None or not isinstance(messages, Request):
        request = changed_request(result, changes)
    else:
        request = lab.request(messages, **fields)
    choices = [GivenTokens(choice.index, choice.tokens.ids, choice.finish_reason) for choice in result.choices]
    for one in choices:
        if (one.ids < 0).any():
            raise RequestError("the endpoint did not say which tokens these are: score the text", param="given")
    found = backend.score(request, choices, seed=result.seed, order=order or result.order)
    return lab.keep(found, parent=result)


def _prompt(backend: LogitsBackend, request: Request) -> tuple[PromptRequest, list[GivenTokens]]:
    """A raw prompt's tokens from the second on, after the first."""
    if not isinstance(request, PromptRequest):
        raise RequestError(
            "given is missing: what is to be scored after these messages, a text, token ids or a result", param="given"
        )
    ids = backend.render(request)
    if len(ids) < 2:
        raise RequestError(
            "prompt: one token alone has no figures, for nothing comes before it; give at least two", param="prompt"
        )
    return request.replace(prompt=(int(ids[0]),)), [GivenTokens(0, ids[1:])]


def _several(given: Any) -> list[Any]:
    """What is given as a list of texts or of token ids, one a choice."""
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
    elif isinstance(given, Result):
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


def prompt_frame(result: Result) -> pd.DataFrame:
    """See `Result.prompt_logprobs_frame`."""
    lab = lab_of(result)
    backend, ids = logits_backend(lab), result.prompt_ids
    figures = ("logprob", "rank", "entropy", "margin")
    columns: dict[str, list[Any]] = {name: [np.nan] for name in figures}  # nothing comes before the first token
    if len(ids) > 1:
        request = PromptRequest(prompt=(int(ids[0]),))
        tokens = backend.score(request, [GivenTokens(0, ids[1:].astype(np.int32))], seed=0).choices[0].tokens
        columns = {name: [np.nan, *getattr(tokens, name).tolist()] for name in figures}
    named = TokenNames(backend.token_bytes, result.names).columns(ids.tolist())
    return build({**columns, **named, "position": range(len(ids))}, PROMPT_COLUMNS)
