"""Scores beside the truth: brute force, tables made by hand, simulations with a known answer, and scikit-learn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from llmlab import certainty, metrics
from llmlab.certainty.scores import exact_interval
from llmlab.errors import RequestError


@pytest.fixture
def judged() -> pd.DataFrame:
    """60 questions with a score that ties often, and a probability."""
    rng = np.random.default_rng(8)
    confidence = rng.integers(0, 11, 60) / 10
    return pd.DataFrame(
        {"p": confidence, "semantic_entropy": 1 - confidence, "correct": rng.random(60) < 0.2 + 0.6 * confidence}
    )


def test_auroc_is_the_share_of_pairs_in_order(judged) -> None:
    right, wrong = (judged["p"][judged["correct"] == flag] for flag in (True, False))
    pairs = [(a > b) + 0.5 * (a == b) for a in right for b in wrong]
    assert metrics.auroc(judged, confidence="p") == pytest.approx(np.mean(pairs))
    assert metrics.auroc(judged, uncertainty="p") == pytest.approx(1 - np.mean(pairs))
    assert metrics.auroc(judged, uncertainty="semantic_entropy") == pytest.approx(np.mean(pairs))
    infinite = judged.assign(p=[math.inf, *judged["p"][1:]])
    assert metrics.auroc(infinite, confidence="p") == metrics.auroc(
        judged.assign(p=[9, *judged["p"][1:]]), confidence="p"
    )
    assert math.isnan(metrics.auroc(judged.assign(correct=1), confidence="p"))
    # Scores that differ by rounding tie.
    noise = np.random.default_rng(0).normal(size=60) * 1e-14
    assert metrics.auroc(judged.assign(p=judged["p"] + noise), confidence="p") == metrics.auroc(judged, confidence="p")
    far = pd.DataFrame({"p": [-math.inf, -math.inf, 0.0, 5e-9, math.inf, math.inf], "correct": [0, 1, 0, 1, 0, 1]})
    assert metrics.auroc(far, confidence="p") == pytest.approx((0.5 + 2 + 2.5) / 9)


def test_the_rejection_ratio_by_hand() -> None:
    frame = pd.DataFrame({"u": [0.1, 0.2, 0.3, 0.4], "correct": [1, 0, 1, 0]})
    # The mean quality of the 1, 2, 3 and 4 most certain, of the best order, and at random.
    score, best = np.mean([1, 1 / 2, 2 / 3, 1 / 2]), np.mean([1, 1, 2 / 3, 1 / 2])
    found = metrics.prediction_rejection_ratio(frame, uncertainty="u")
    assert found == pytest.approx((score - 0.5) / (best - 0.5))
    half = metrics.prediction_rejection_ratio(frame, uncertainty="u", max_rejection=0.5)
    assert half == pytest.approx((np.mean([2 / 3, 1 / 2]) - 0.5) / (np.mean([2 / 3, 1 / 2]) - 0.5))
    assert metrics.prediction_rejection_ratio(frame, confidence="correct") == pytest.approx(1)
    assert math.isnan(metrics.prediction_rejection_ratio(frame.assign(correct=1), uncertainty="u"))


def test_ties_are_rejected_in_a_random_order() -> None:
    quality, scores = [0.2, 1.0, 0.5, 0.0, 0.7], [1, 1, 1, 2, 2]

    def area(order) -> float:
        return float(np.mean(np.cumsum([quality[at] for at in order]) / np.arange(1, 6)))

    areas = [
        area(order)
        for order in itertools.permutations(range(5))
        if sorted(order, key=lambda i: scores[i]) == list(order)
    ]
    best = area(sorted(range(5), key=lambda at: -quality[at]))
    chance = float(np.mean(quality))
    frame = pd.DataFrame({"u": scores, "correct": quality})
    found = metrics.prediction_rejection_ratio(frame, uncertainty="u")
    assert found == pytest.approx((np.mean(areas) - chance) / (best - chance))
    # One score for all is chance.
    assert metrics.prediction_rejection_ratio(frame.assign(u=0), uncertainty="u") == pytest.approx(0)


def test_brier_score(judged) -> None:
    assert metrics.brier_score(judged, confidence="p") == pytest.approx(((judged["p"] - judged["correct"]) ** 2).mean())


def test_an_evaluation_has_the_metrics_of_each_score(judged) -> None:
    found = certainty.evaluate(judged, probability=["p"], resamples=200)
    frame = found.frame().set_index(["score", "metric"])
    assert frame["kind"].to_dict() == {
        ("semantic_entropy", "auroc"): "uncertainty", ("semantic_entropy", "prr"): "uncertainty",
        ("p", "auroc"): "probability", ("p", "prr"): "probability", ("p", "ece"): "probability",
        ("p", "brier"): "probability",
    }  # fmt: skip
    assert set(frame["questions"]) == {60} and set(frame["right"]) == {judged["correct"].sum()}
    value = frame["value"].to_dict()
    assert value["semantic_entropy", "auroc"] == pytest.approx(metrics.auroc(judged, confidence="p"))
    assert value["p", "prr"] == pytest.approx(metrics.prediction_rejection_ratio(judged, confidence="p"))
    assert value["p", "ece"] == pytest.approx(metrics.expected_calibration_error(judged, confidence="p"))
    assert value["p", "brier"] == pytest.approx(metrics.brier_score(judged, confidence="p"))
    assert (frame["low"] <= frame["value"]).all() and (frame["low"] < frame["high"]).all()
    assert "highest AUROC: semantic_entropy" in repr(found) and "<table" in found._repr_html_()
    # The same seed gives the same intervals, and a higher level longer ones.
    again = certainty.evaluate(judged, probability=["p"], resamples=200).frame().set_index(["score", "metric"])
    pd.testing.assert_frame_equal(frame, again)
    wide = certainty.evaluate(judged, probability=["p"], resamples=200, confidence=0.99).frame()
    assert (wide["high"].to_numpy() - wide["low"].to_numpy() >= (frame["high"] - frame["low"]).to_numpy()).all()


def test_the_intervals_are_those_of_resampled_questions(judged) -> None:
    """Each resample by the metrics themselves."""
    found = certainty.evaluate(judged, probability=["p"], resamples=100, seed=4).frame().set_index(["score", "metric"])
    draws = np.random.default_rng(4).integers(0, 60, (100, 60))
    for name, metric in {
        "auroc": lambda f: metrics.auroc(f, confidence="p"),
        "prr": lambda f: metrics.prediction_rejection_ratio(f, confidence="p"),
        "ece": lambda f: metrics.expected_calibration_error(f, confidence="p"),
        "brier": lambda f: metrics.brier_score(f, confidence="p"),
    }.items():
        low, high = np.quantile([metric(judged.iloc[at]) for at in draws], [0.025, 0.975])
        assert found.loc[("p", name), ["low", "high"]].tolist() == pytest.approx([low, high]), name


def test_intervals_of_the_auroc_hold_it() -> None:
    """Two normal scores whose means are one apart: the AUROC is Phi(1 / sqrt 2)."""
    truth, rng, held = stats.norm.cdf(1 / math.sqrt(2)), np.random.default_rng(1), 0
    for _ in range(150):
        correct = rng.random(80) < 0.5
        frame = pd.DataFrame({"score": rng.normal(size=80) + correct, "correct": correct})
        row = certainty.evaluate(frame, certainty=["score"], resamples=300).frame().iloc[0]
        held += row["low"] <= truth <= row["high"]
    assert held / 150 > 0.88  # 95% less three standard errors, and what the percentile interval is short of


def test_a_score_that_some_questions_lack(judged) -> None:
    holes = judged.assign(semantic_entropy=judged["semantic_entropy"].where(judged.index > 9))
    row = certainty.evaluate(holes, resamples=10).frame().iloc[0]
    assert row["questions"] == 50 and row["value"] == pytest.approx(metrics.auroc(holes[10:], confidence="p"))
    none = certainty.evaluate(judged.assign(semantic_entropy=math.nan), resamples=10)
    assert none.frame()[["value", "low", "high"]].isna().all(axis=None) and not len(none.rejection_frame())
    one_kind = certainty.evaluate(judged.assign(correct=True), resamples=10).frame()
    assert one_kind[["value", "low", "high"]].isna().all(axis=None)


def test_reliability_by_hand() -> None:
    frame = pd.DataFrame({"p_true": [0.05, 0.1, 0.15, 0.9, 0.95, 1.0], "correct": [0, 1, 0, 1, 1, 1]})
    found = certainty.evaluate(frame).reliability_frame(bins=10)
    assert found["bin_low"].tolist() == pytest.approx([0, 0.1, 0.8, 0.9])
    assert found["questions"].tolist() == [2, 1, 1, 2]
    assert found["confidence"].tolist() == pytest.approx([0.075, 0.15, 0.9, 0.975])
    assert found["accuracy"].tolist() == [0.5, 0, 1, 1]
    for row in found.itertuples():
        exact = stats.binomtest(round(row.accuracy * row.questions), row.questions).proportion_ci(method="exact")
        assert (row.low, row.high) == pytest.approx((exact.low, exact.high))
    assert exact_interval(3, 9, confidence=0.8) == pytest.approx(
        tuple(stats.binomtest(3, 9).proportion_ci(0.8, method="exact"))
    )


def test_rejection_by_hand() -> None:
    frame = pd.DataFrame({"u": [0.1, 0.2, 0.2, 0.4], "correct": [1, 0, 1, 0]})
    found = certainty.evaluate(frame, uncertainty=["u"], resamples=50).rejection_frame("u")
    assert found["answered"].tolist() == [4, 3, 2, 1] and found["rejected"].tolist() == [0, 0.25, 0.5, 0.75]
    assert found["accuracy"].tolist() == pytest.approx([1 / 2, 2 / 3, 3 / 4, 1])
    assert found["oracle"].tolist() == pytest.approx([1 / 2, 2 / 3, 1, 1])
    assert found["random"].tolist() == [0.5] * 4
    assert (found["low"] <= found["accuracy"]).all() and (found["accuracy"] <= found["high"]).all()


def test_the_conformal_threshold_is_a_rank() -> None:
    scores = np.arange(1, 10.0)  # nine of them
    assert metrics.conformal_threshold(scores, coverage=0.9) == 9
    assert metrics.conformal_threshold(scores, coverage=0.5) == 5
    assert metrics.conformal_threshold(scores, coverage=0.91) == math.inf
    assert metrics.conformal_threshold(scores[::-1], coverage=0.1) == 1
    assert metrics.conformal_threshold(np.zeros(0), coverage=0.5) == math.inf


def test_a_right_answer_is_kept_as_often_as_stated() -> None:
    rng = np.random.default_rng(6)
    kept = []
    for _ in range(400):
        correct = rng.random(121) < 0.6
        score = rng.normal(size=121) + correct
        frame = pd.DataFrame({"score": score, "correct": correct})
        limit = certainty.evaluate(frame[:-1], certainty=["score"], resamples=1).threshold("score", keep=0.8)
        fresh = rng.normal(size=200) + 1  # right answers to new questions
        kept.append((fresh >= limit).mean())
    # Between 0.8 and 0.8 + 1 / (right + 1), with about 72 right ones.
    assert 0.8 - 0.01 < np.mean(kept) < 0.8 + 1 / 60 + 0.01


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda f: metrics.auroc(f), "auroc reads one score: give confidence= or uncertainty="),
        (lambda f: metrics.auroc(f, confidence="p", uncertainty="p"), "auroc reads one score"),
        (lambda f: metrics.auroc(f, confidence="q"), "auroc reads the column 'q', and the frame has p, sem"),
        (lambda f: metrics.auroc(f, confidence="correct", correct="p"), "p must hold True and False, or 1 and 0"),
        (lambda f: metrics.prediction_rejection_ratio(f, confidence="p", max_rejection=0), "must be above 0 and at"),
        (lambda f: metrics.prediction_rejection_ratio(f, confidence="p", max_rejection=0.001), "rejects none of 60"),
        (lambda f: metrics.brier_score(f.assign(p=2.0), confidence="p"), "a confidence lies between 0 and 1, got 2"),
        (lambda f: metrics.conformal_threshold(np.ones(1), coverage=1), "coverage must lie between 0 and 1, got 1"),
        (lambda f: metrics.conformal_threshold(np.full(1, math.nan), coverage=0.5), "scores must not be NaN"),
        (lambda f: certainty.evaluate(f, correct="right"), "has no column 'right' that says which answers were right"),
        (
            lambda f: certainty.evaluate(f.assign(correct=0.5)),
            "correct must hold True and False, or 1 and 0, for every",
        ),
        (lambda f: certainty.evaluate(f, uncertainty=["q"]), "uncertainty: the frame has no score 'q'"),
        (lambda f: certainty.evaluate(f[["correct"]]), "the frame has no score: name its columns"),
        (lambda f: certainty.evaluate(f, confidence=1), "confidence must lie between 0 and 1, got 1"),
        (lambda f: certainty.evaluate(f, resamples=0), "resamples"),
        (lambda f: certainty.evaluate(f).reliability_frame("semantic_entropy"), "there is no 'semantic_entropy' here;"),
        (lambda f: certainty.evaluate(f).rejection_frame("q"), "there is no 'q' here; there are semantic_entropy"),
        (lambda f: certainty.evaluate(f).threshold("semantic_entropy", keep=1), "keep must lie between 0 and 1"),
        (lambda f: certainty.evaluate(f).plot_rejection([]), "score must name at least one score"),
    ],
)
def test_what_is_wrong_is_named(judged, call, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        call(judged)


@pytest.mark.reference
def test_scikit_learn_finds_the_same() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(20):
        confidence = rng.integers(0, 21, 150) / 20
        correct = rng.random(150) < confidence
        frame = pd.DataFrame({"confidence": confidence, "correct": correct})
        assert metrics.auroc(frame, confidence="confidence") == pytest.approx(
            sklearn.roc_auc_score(correct, confidence)
        )
        assert metrics.brier_score(frame) == pytest.approx(sklearn.brier_score_loss(correct, confidence))
