"""Quick measurements during training: the divergence of the known distributions, and the share of other exact answers."""

from __future__ import annotations

import numpy as np

from data.build.corpus import EVAL_SEED, questions
from data.build.distributions import truth
from data.build.scoring import Teacher

CHECKED = ("arithmetic", "arithmetic (no thinking)", "facts", "tools", "records", "words")


class Validation:
    """A fixed small set of questions that training does not see."""

    def __init__(self, *, per_domain: int = 60, per_distribution: int = 2) -> None:
        self._tests = {domain: questions(domain, EVAL_SEED + 77, per_domain) for domain in CHECKED}
        self._known = truth(EVAL_SEED + 78, per_distribution=per_distribution)

    def run(self, teacher: Teacher) -> dict[str, float]:
        """The mean KL divergence of the known distributions, in nats, and the share of exact answers in other domains."""
        figures = {"kl": round(float(np.mean(teacher.divergences(self._known))), 4)}
        return figures | {d: round(float(np.mean(teacher.score(held)[1])), 4) for d, held in self._tests.items()}
