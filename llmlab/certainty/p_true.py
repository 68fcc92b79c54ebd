"""P(True): the model is asked whether an answer is true, and the probability that it says so is its confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.errors import RequestError, short
from llmlab.frames.schema import build
from llmlab.protocol.arguments import listed
from llmlab.text.numbers import count

if TYPE_CHECKING:
    import pandas as pd

P_TRUE_COLUMNS: dict[str, str] = {
    "question": "text",
    "answer": "text",
    "p_true": "number",
    "logprob_true": "number",
    "logprob_false": "number",
    "listed": "number",
}


@dataclass(frozen=True, eq=False)
class PTrue:
    """How likely the model thinks that answers are true; `lab.p_true` returns it.

    Attributes:
        questions: the questions.
        answers: the answers that it was asked about, one per question.
        prompts: what it was asked.
        logprobs: the log-probabilities of the two options after each prompt, in nats, float64 [questions, 2].
    """

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    prompts: tuple[str, ...]
    logprobs: np.ndarray

    def frame(self) -> pd.DataFrame:
        """One row per question.

        Columns: question, answer, p_true (the probability of "true" among the two options), logprob_true, logprob_false
        (of the options in the model's own distribution, in nats), listed (the probability of both together: where it is
        small, the model answers something else).
        """
        return build(
            {
                "question": self.questions,
                "answer": self.answers,
                "p_true": p_true(self.logprobs),
                "logprob_true": self.logprobs[:, 0],
                "logprob_false": self.logprobs[:, 1],
                "listed": np.exp(self.logprobs).sum(axis=1),
            },
            P_TRUE_COLUMNS,
        )

    def __len__(self) -> int:
        return len(self.questions)

    def __repr__(self) -> str:
        mean = f", mean p_true {p_true(self.logprobs).mean():.3f}" if len(self) else ""
        return f"PTrue: {count(len(self), 'answer')}{mean}; frame() has them"


def p_true(logprobs: np.ndarray) -> np.ndarray:
    """The probability of the first of two options, of both together, float64 [N].

    Args:
        logprobs: their log-probabilities, in nats [N, 2].

    Source: Kadavath et al. 2022, "Language models (mostly) know what they know", arXiv:2207.05221.
    """
    found: np.ndarray = np.exp(logprobs[:, 0] - np.logaddexp(logprobs[:, 0], logprobs[:, 1]))
    return found


def asked(
    questions: Any, answers: Any, ideas: Any, options: Any
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, str]]:
    """The questions, the answers, the prompts that ask whether they are true, and the two options.

    Raises:
        RequestError: they are not texts, or not as many answers (and lists of ideas) as questions.

    Source: Kadavath et al. 2022, sections 3.2 and 3.3, for the words of the prompt.
    """
    asked_for = _texts("questions", [questions] if isinstance(questions, str) else questions)
    given = _texts("answers", [answers] if isinstance(answers, str) else answers)
    if len(given) != len(asked_for):
        raise RequestError(
            f"answers has {len(given)} texts and there are {count(len(asked_for), 'question')}; give one for each",
            param="answers",
        )
    both = _texts("options", options)
    if len(both) != 2:
        raise RequestError(f"options must be two texts, for true and for false, got {short(options)}", param="options")
    thoughts: list[Any] = [()] * len(asked_for)
    if ideas is not None:
        thoughts = listed("ideas", ideas, of="lists of texts")
        if isinstance(questions, str) and all(isinstance(one, str) for one in thoughts):
            thoughts = [thoughts]
        if len(thoughts) != len(asked_for):
            raise RequestError(
                f"ideas has {len(thoughts)} lists and there are {count(len(asked_for), 'question')}; give one for each",
                param="ideas",
            )
    prompts = tuple(
        prompt_of(question, answer, _texts("ideas", own))
        for question, answer, own in zip(asked_for, given, thoughts, strict=True)
    )
    return asked_for, given, prompts, (both[0], both[1])


def prompt_of(question: str, answer: str, ideas: Sequence[str]) -> str:
    """What the model is asked about one answer."""
    brainstormed = "Here are some brainstormed ideas:\n" + "\n".join(ideas) + "\n" if ideas else ""
    return (
        f"Question: {question}\n{brainstormed}Possible answer: {answer}\n"
        "Is the possible answer:\n (A) True\n (B) False\nThe possible answer is:"
    )


def _texts(name: str, value: Any) -> tuple[str, ...]:
    value = value.tolist() if hasattr(value, "tolist") else value  # of a frame's column
    found = () if isinstance(value, str) else tuple(listed(name, value, of="texts"))
    if isinstance(value, str) or not all(isinstance(one, str) for one in found):
        raise RequestError(f"{name} must be a list of texts, got {short(value)}", param=name)
    return found
