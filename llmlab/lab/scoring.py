"""Scores given tokens after one prompt, or after each of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmlab.counterfactuals.answered import logits_backend
from llmlab.counterfactuals.score import score, to_score
from llmlab.errors import RequestError
from llmlab.results.result import Asker, Result, keep

__all__ = ["score_each", "score_one"]


def score_one(lab: Asker, messages: Any, given: Any, *, order: str | None, fields: Mapping[str, Any]) -> Result:
    """Scores what is given after one prompt; see `Model.score`."""
    return keep(lab, score(lab.backend, messages, given, order=order, fields=fields), parent=_parent(messages, given))


def score_each(
    lab: Asker,
    messages: Any,
    conversations: Sequence[Any] | None,
    prompts: Sequence[Any] | None,
    given: Any,
    *,
    order: str | None,
    fields: Mapping[str, Any],
) -> list[Result]:
    """Scores what is given after each of several prompts; returns one result for each, in their order.

    Args:
        lab: where the prompts are asked.
        messages: the caller's own, of which `conversations` are the items; None where there are raw prompts.
        conversations: several conversations or results; None where there are raw prompts.
        prompts: several raw prompts; None where there are conversations.
        given: a list has one item for each prompt; anything else is given after every one.
        order: as in `Model.score`.
        fields: as in `Model.score`.

    Raises:
        RequestError: the list that is given has another length; also as in `score`.
    """
    if conversations is not None and fields.get("prompt") is not None:
        raise RequestError("give messages or a prompt, not both", param="prompt")
    if prompts is not None and messages is not None:
        raise RequestError("give messages or a prompt, not both", param="prompt")
    if getattr(given, "ndim", 0) == 1 and given.dtype.kind not in "iu":
        given = given.tolist()  # a frame's column of texts
    asked = [(one, fields) for one in conversations or ()]
    asked += [(None, {**fields, "prompt": one}) for one in prompts or ()]
    # Integers are one list of token ids, which is given after every prompt.
    each = isinstance(given, list | tuple) and not all(isinstance(item, int) for item in given)
    if each and len(given) != len(asked):
        raise RequestError(
            f"given has {len(given)} items and there are {len(asked)} prompts: a list has one item for each prompt",
            param="given",
        )
    answers = given if each else [given] * len(asked)
    pairs = list(zip(asked, answers, strict=True))
    backend = logits_backend(lab.backend)
    done = backend.score_all([to_score(backend, one, answer, order=order, fields=own) for (one, own), answer in pairs])
    return [
        keep(lab, completion, parent=_parent(one, answer))
        for ((one, _), answer), completion in zip(pairs, done, strict=True)
    ]


def _parent(messages: Any, given: Any) -> Result | None:
    return next((one for one in (given, messages) if isinstance(one, Result)), None)
