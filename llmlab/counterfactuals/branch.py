"""Branches: an answer continued from any of its positions, with any token in place of the one that was drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int32

from llmlab.counterfactuals.answered import Answered, logits_backend
from llmlab.counterfactuals.rerun import changed_request
from llmlab.errors import RequestError
from llmlab.protocol.arguments import place
from llmlab.protocol.backend import Backend, GivenTokens, Stream
from llmlab.protocol.completion import Choice
from llmlab.text.token_names import Token, TokenNames

__all__ = ["branch", "tokens_before"]


def branch(
    done: Answered,
    backend: Backend,
    choice: Choice,
    position: int,
    token: Token | None,
    *,
    order: str | None,
    changes: Mapping[str, Any],
) -> Stream:
    """Starts a continuation of a choice from a position; returns its stream. See `Result.branch`."""
    model = logits_backend(backend)
    before = tokens_before(choice, position)
    names = TokenNames(model.token_bytes, done.control_tokens)
    forced = [] if token is None else names.spell(token, model.encode)
    made = np.concatenate([before, np.array(forced, np.int32)]).astype(np.int32)
    request = changed_request(done, {"n": None, **changes})
    indices = range(request.n) if changes.get("n") is not None else (choice.index,)
    given = [GivenTokens(index, made, drawn=min(len(forced), 1)) for index in indices]
    seed = done.seed if request.seed is None else request.seed
    return model.continue_from(request, given, seed=seed, order=done.order if order is None else order)


def tokens_before(choice: Choice, position: int) -> Int32[np.ndarray, " T"]:
    """The tokens of a choice that come before `position`; `position` may be one past the last token.

    Raises:
        IndexError: there is no such position.
        RequestError: the position is after the end token, or the ids of the tokens are not known.
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
        raise RequestError("the endpoint did not return the ids of these tokens, so they cannot be continued")
    return tokens.ids[:at]
