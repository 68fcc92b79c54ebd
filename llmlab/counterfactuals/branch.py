"""Other ways on: a result continued from any of its positions, with any token in the place of the one drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.counterfactuals.rerun import changed_request, logits_backend
from llmlab.errors import RequestError
from llmlab.protocol.arguments import place
from llmlab.protocol.backend import GivenTokens
from llmlab.protocol.completion import Choice
from llmlab.results.result import lab_of
from llmlab.text.token_names import Token, TokenNames

if TYPE_CHECKING:
    from llmlab.results.result import Result

__all__ = ["branch", "kept"]


def branch(
    result: Result,
    choice: Choice,
    position: int,
    token: Token | None,
    *,
    order: str | None,
    changes: Mapping[str, Any],
) -> Result:
    """See `Result.branch`."""
    lab = lab_of(result)
    backend = logits_backend(lab)
    before = kept(choice, position)
    forced = [] if token is None else TokenNames(backend.token_bytes, result.names).spell(token, backend.encode)
    made = np.concatenate([before, np.array(forced, np.int32)]).astype(np.int32)
    request = changed_request(result, {"n": None, **changes})
    indices = range(request.n) if changes.get("n") is not None else (choice.index,)
    given = [GivenTokens(index, made, drawn=min(len(forced), 1)) for index in indices]
    seed = result.seed if request.seed is None else request.seed
    source = backend.continue_from(request, given, seed=seed, order=result.order if order is None else order)
    return lab.read(source, parent=result)


def kept(choice: Choice, position: int) -> np.ndarray:
    """The tokens of a choice before a position, which may be the one behind the last of them.

    Raises:
        IndexError: there is no such position.
        RequestError: it lies behind the end token; or the backend did not say which tokens it made.
    """
    tokens = choice.tokens
    at = place(position, among=tokens, choice=choice.index, after_last=True)
    if at and tokens.segment[at - 1] == "end":
        raise RequestError(
            f"choice {choice.index} ended with the token at position {at - 1}: that one can be replaced, "
            "but nothing follows it",
            param="position",
        )
    if (tokens.ids[:at] < 0).any():
        raise RequestError("the endpoint did not say which tokens these are, so that nobody can go on behind them")
    return tokens.ids[:at]
