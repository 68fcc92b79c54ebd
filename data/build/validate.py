"""Quick figures during training: the divergence over the laws, and how often other answers would be exactly right."""

from __future__ import annotations

import numpy as np

from data.build.corpus import EVAL_SEED, questions
from data.build.laws import truth
from data.build.scoring import Teacher

CHECKED = ("arithmetic", "arithmetic (no thinking)", "facts", "tools", "records", "words")


class Validation:
    """A fixed small set of questions that training does not see."""

    def __init__(self, *, per_domain: int = 60, per_law: int = 2) -> None:
        self._tests = {domain: questions(domain, EVAL_SEED + 77, per_domain) for domain in CHECKED}
        self._laws = truth(EVAL_SEED + 78, per_law=per_law)

    def run(self, teacher: Teacher) -> dict[str, float]:
        """The mean KL divergence over the laws in nats, and the share of exact answers in the other domains."""
        figures = {"kl": round(float(np.mean(teacher.divergences(self._laws))), 4)}
        return figures | {d: round(float(np.mean(teacher.score(held)[1])), 4) for d, held in self._tests.items()}
