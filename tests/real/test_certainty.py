"""Certainty of the real model's answers to 200 sums: which measure tells the right ones from the wrong ones."""

from __future__ import annotations

import numpy as np
import pytest

from llmlab import certainty, metrics
from tests.real.arithmetic import sums

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]

QUESTIONS = 200


def test_semantic_entropy_tells_right_answers_from_wrong_ones(lab, record_property) -> None:
    prompts, truth = sums(QUESTIONS, seed=7)
    results = lab.complete(prompts, n=10, temperature=1.0, seed=7, max_tokens=8, stop="\n")
    found = certainty.measure(results, equivalence="normalised")
    frame = found.frame()
    correct = [answer.strip() == right for answer, right in zip(frame["answer"], truth, strict=True)]
    assert 0 < sum(correct) < QUESTIONS
    judged = found.evaluate(correct)
    print(judged.frame().round(3).to_string())
    row = judged.frame().query("score == 'semantic_entropy' and metric == 'auroc'").iloc[0]
    record_property("auroc", f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})")
    # Whatever it is, the figure is that of all pairs of a right and a wrong answer, and has an interval around it.
    right = np.array(correct)
    entropy = np.array([metrics.semantic_entropy(one.samples_frame(), equivalence="normalised") for one in results])
    less = entropy[right][:, None] - entropy[~right][None]
    assert row["value"] == pytest.approx(((less < -1e-9) + 0.5 * (np.abs(less) <= 1e-9)).mean())
    assert row["low"] < row["value"] < row["high"]
