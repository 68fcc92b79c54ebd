"""Asks a model whether answers are true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmlab.certainty.p_true import PTrue, asked
from llmlab.errors import RequestError
from llmlab.lab.scoring import score_each
from llmlab.protocol.arguments import flag
from llmlab.results.result import Asker


def ask_true(
    lab: Asker,
    questions: Any,
    answers: Any,
    *,
    ideas: Any,
    options: Any,
    raw: bool,
    order: str,
    fields: Mapping[str, Any],
) -> PTrue:
    """The log-probabilities of the two options after each answer, all of them scored together; see `Lab.p_true`."""
    for name in ("messages", "prompt"):
        if fields.get(name) is not None:
            raise RequestError(f"{name} cannot be given here: the prompt is made of questions and answers", param=name)
    asked_for, given, prompts, both = asked(questions, answers, ideas, options)
    raw = flag("raw", raw)
    # After a colon a base model begins with a space; a chat template ends where the answer begins.
    texts = [f" {one}" if raw else one for one in both]
    results = []
    if prompts:
        conversations, raw_prompts = (None, list(prompts)) if raw else (list(prompts), None)
        several = [texts] * len(prompts)
        results = score_each(
            lab, None if raw else conversations, conversations, raw_prompts, several, order=order, fields=fields
        )
    found = [[choice.tokens.logprob.sum(dtype=np.float64) for choice in result.choices] for result in results]
    return PTrue(asked_for, given, prompts, np.array(found, np.float64).reshape(len(prompts), 2))
