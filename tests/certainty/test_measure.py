"""Certainty of results, of sweeps and of frames: the same measures, one row per prompt."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from llmlab import certainty, metrics
from llmlab.certainty.measure import CERTAINTY_COLUMNS
from llmlab.protocol.completion import ToolCall
from llmlab.results.answer import Answer
from llmlab.results.result import Result
from tests.completions import make_completion, make_tokens

QUESTIONS = ["Name an animal.", "Name a colour.", "Name a fruit."]


@pytest.fixture(scope="module")
def results(demo) -> list[Result]:
    return demo.chat(QUESTIONS, n=6, seed=5, temperature=1.3, max_tokens=6)


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "prompt": ["b", "a", "b", "b", "a", "b"],
            "text": ["Two", "yes", "two.", "three", "No", "three"],
            "sampling_logprob": np.log([0.5, 0.6, 0.1, 0.2, 0.3, 0.2]),
            "tokens": [2, 1, 3, 2, 1, 2],
        }
    )


def test_one_row_for_each_prompt_by_hand(frame) -> None:
    found = certainty.measure(frame, equivalence="normalised", similarity="jaccard")
    assert len(found) == 2 and repr(found) == "Certainty: 2 prompts, 6 samples; frame() has the measures"
    rows = found.frame().set_index("prompt")
    assert list(rows.columns) == list(CERTAINTY_COLUMNS) and list(rows.index) == ["b", "a"]
    b = rows.loc["b"]
    # Two classes with two samples each; the first one is taken, and its first sample.
    assert (b["samples"], b["classes"], b["answer"]) == (4, 2, "Two")
    assert b["self_consistency"] == 0.5 and b["answer_probability"] == pytest.approx(0.6)
    assert b["answer_logprob"] == pytest.approx(math.log(0.5)) and b["answer_perplexity"] == pytest.approx(math.sqrt(2))
    assert b["semantic_entropy"] == pytest.approx(-(math.log(0.6) + math.log(0.2)) / 2)
    share = np.array([0.75, 0.25])
    assert b["weighted_semantic_entropy"] == pytest.approx(-(share * np.log(share)).sum())
    assert b["discrete_semantic_entropy"] == pytest.approx(math.log(2))
    own = frame[frame["prompt"] == "b"]
    assert b["predictive_entropy"] == pytest.approx(metrics.predictive_entropy(own))
    assert b["length_normalised_entropy"] == pytest.approx(metrics.predictive_entropy(own, length_normalised=True))
    assert b["lexical_similarity"] == pytest.approx(1 / 6)  # one pair of six is equal, and the others share no word
    assert b["eigenvalue_laplacian"] == pytest.approx(3) and b["degree_uncertainty"] == pytest.approx(1 - 6 / 16)
    assert b["sentence_sar"] == pytest.approx(metrics.sentence_sar(own, similarity="jaccard"))
    again = certainty.measure(frame, equivalence="normalised", distinct=False).frame()
    assert again["answer_probability"][0] == pytest.approx(0.6) and again["semantic_entropy"][0] < b["semantic_entropy"]


def test_samples_and_classes(frame) -> None:
    found = certainty.measure(frame, equivalence="normalised")
    assert found.samples_frame()["answer_class"].tolist() == [0, 0, 0, 1, 1, 1]
    classes = found.classes_frame()
    assert classes[["prompt", "answer_class", "text", "samples"]].to_numpy().tolist() == [
        ["b", 0, "Two", 2], ["b", 1, "three", 2], ["a", 0, "yes", 1], ["a", 1, "No", 1],
    ]  # fmt: skip
    assert classes["share"].tolist() == [0.5] * 4
    assert classes["probability"].tolist() == pytest.approx([0.6, 0.2, 0.6, 0.3])
    assert found.prompt_numbers().tolist() == [0, 0, 1, 1]


def test_results_sweeps_and_frames_have_the_same_measures(demo, results) -> None:
    found = certainty.measure(results, relevance="jaccard").frame()
    assert found["prompt"].tolist() == [0, 1, 2] and {"token_sar", "sar"} <= set(found.columns)
    for at, result in enumerate(results):
        one = result.certainty(relevance="jaccard").frame()
        pd.testing.assert_frame_equal(one, found.drop(columns="prompt").iloc[[at]].reset_index(drop=True))
        samples, tokens = result.samples_frame(), result.logprobs_frame()
        sums = tokens.groupby("choice")["sampling_logprob"].sum().to_numpy()
        np.testing.assert_allclose(samples["sampling_logprob"], sums)
        np.testing.assert_allclose(samples["logprob"], tokens.groupby("choice")["logprob"].sum())
        assert one["semantic_entropy"][0] == metrics.semantic_entropy(samples)
        assert one["length_normalised_entropy"][0] == pytest.approx(metrics.length_normalised_entropy(tokens))
        assert one["token_sar"][0] == metrics.token_sar(tokens, similarity="jaccard")
        assert one["sar"][0] == metrics.sar(tokens, similarity="rouge_l", relevance="jaccard")
    swept = demo.last_sweep.certainty(relevance="jaccard").frame()
    pd.testing.assert_frame_equal(swept.drop(columns="prompt"), found.drop(columns="prompt"))
    assert swept["prompt"].tolist() == QUESTIONS
    by_frame = certainty.measure(demo.last_sweep.samples_frame()).frame()
    pd.testing.assert_frame_equal(by_frame, swept.drop(columns=["token_sar", "sar"]))


def test_a_sweep_has_a_row_for_each_cell(demo) -> None:
    sweep = demo.sweep("Name an animal.", temperature=[0.0, 1.5], top_p=[0.5, 1.0], n=5, seed=2, max_tokens=6)
    found = sweep.certainty().frame()
    assert found[["temperature", "top_p"]].to_numpy().tolist() == [[0, 0.5], [0, 1], [1.5, 0.5], [1.5, 1]]
    greedy, hot = found.iloc[1], found.iloc[3]
    # At temperature 0 all samples are one, whose probability there is 1.
    assert greedy["classes"] == 1 and greedy["self_consistency"] == 1 and greedy["semantic_entropy"] == 0
    assert greedy["answer_probability"] == 1 and hot["semantic_entropy"] > 0.3 and hot["classes"] > 1
    assert list(sweep.samples_frame().columns[:4]) == ["temperature", "top_p", "choice", "text"]
    means = sweep.summary_frame(metrics={"agreement": metrics.pairwise_agreement})
    assert len(means) == 4


def test_what_an_endpoint_does_not_say_is_not_known() -> None:
    silent = replace(make_tokens((0, 1)), sampling_logprob=np.full(2, np.nan, np.float32))
    found = Answer(make_completion(silent, silent)).certainty().frame().iloc[0]
    assert found["discrete_semantic_entropy"] == 0 and found["self_consistency"] == 1
    assert found[["semantic_entropy", "predictive_entropy", "sentence_sar", "answer_logprob"]].isna().all()
    assert math.isnan(found["answer_probability"]) and math.isnan(found["answer_perplexity"])
    done = make_completion(make_tokens(()), make_tokens(()))
    unlisted = replace(done, choices=tuple(replace(choice, text="x") for choice in done.choices))
    frame = Answer(unlisted).samples_frame()
    assert frame["tokens"].isna().all() and frame["sampling_logprob"].isna().all()
    assert math.isnan(Answer(unlisted).certainty().frame()["length_normalised_entropy"][0])


def test_tool_calls_are_part_of_an_answer() -> None:
    done = make_completion(make_tokens((0,)), make_tokens((0,)), make_tokens((0,)))
    calls = [
        ToolCall(f"call_{at}", "add", arguments) for at, arguments in enumerate(('{"a": 1}', '{"a":1}', '{"a": 2}'))
    ]
    said = [replace(choice, text="", tool_calls=(call,)) for choice, call in zip(done.choices, calls, strict=True)]
    answer = Answer(replace(done, choices=tuple(said)))
    assert answer.samples_frame().columns[2] == "tool_calls"
    assert answer.certainty().frame()["classes"].tolist() == [2]


def test_answers_are_judged(frame) -> None:
    found = certainty.measure(frame, equivalence="normalised")
    by_function = found.evaluate(lambda row: row["answer"] == "Two", resamples=10)
    by_list = found.evaluate([True, False], resamples=10)
    pd.testing.assert_frame_equal(by_function.frame(), by_list.frame())
    own = by_list.frame().set_index(["score", "metric"])["value"]
    assert own["predictive_entropy", "auroc"] == 0 and own["answer_probability", "auroc"] == 0.5
    with_more = certainty.evaluate(
        found.frame().assign(correct=[True, False], p_true=[0.9, 0.2], mine=[1, 2]), uncertainty=["mine"], resamples=10
    )
    assert with_more.scores[-2:] == ["p_true", "mine"]
    more = with_more.frame().set_index(["score", "metric"])
    assert more.loc[("p_true", "brier"), "value"] == pytest.approx((0.01 + 0.04) / 2)
    assert more.loc[("mine", "auroc"), "value"] == 1


def made(rng: np.random.Generator, prompts: int, samples: int = 10) -> tuple[pd.DataFrame, list[str]]:
    """Questions of different difficulty: the right answer is sampled with a probability of its own."""
    rows, truth = [], []
    for prompt in range(prompts):
        right = rng.beta(1.5, 0.8)
        prob = np.concatenate([[right], (1 - right) * rng.dirichlet(np.ones(4))])
        texts = rng.permutation(list("vwxyz"))
        truth.append(str(texts[0]))
        rows += [(prompt, texts[at], -1.0, 1) for at in rng.choice(5, samples, p=prob)]
    return pd.DataFrame(rows, columns=["prompt", "text", "sampling_logprob", "tokens"]), truth


def test_sets_hold_the_right_answer_as_often_as_stated() -> None:
    rng, held = np.random.default_rng(11), []
    for _ in range(40):
        frame, truth = made(rng, 40)
        sets = certainty.measure(frame).answer_sets(truth, coverage=0.75)
        fresh, answers = made(rng, 40)
        found = sets.frame(certainty.measure(fresh), answers)
        held.append(found["right"].sum() / 40)
        assert sets.complete and (found["share"] >= sets.share - 1e-9).all()
    # The shares have ties, so that the sets may hold it more often. Three standard errors of 1600 prompts.
    assert np.mean(held) > 0.75 - 3 * math.sqrt(0.75 * 0.25 / 1600) - 0.01
    assert np.mean(held) < 0.9


def test_sets_by_hand() -> None:
    shares = [(9, 1), (8, 2), (7, 3), (6, 4)]
    rows = [(at, text, -1.0, 1) for at, (a, b) in enumerate(shares) for text in "a" * a + "b" * b]
    found = certainty.measure(pd.DataFrame(rows, columns=["prompt", "text", "sampling_logprob", "tokens"]))
    # Scores 0.1, 0.2, 0.3 and 0.6: the third of them is at ceil(5 * 0.6).
    sets = found.answer_sets(["a", "a", "a", "b"], coverage=0.6)
    assert sets.share == pytest.approx(0.7) and sets.complete
    assert sets.frame(found)[["prompt", "text"]].to_numpy().tolist() == [[0, "a"], [1, "a"], [2, "a"]]
    wide = found.answer_sets(["a", "a", "a", "b"], coverage=0.8)
    assert wide.share == pytest.approx(0.4)
    assert wide.frame(found, ["b"] * 4)["right"].tolist() == [False, False, False, False, True]
    # A right answer that was never sampled leaves no set that would hold it.
    never = found.answer_sets(["a", "a", "a", "c"], coverage=0.8)
    assert not never.complete and never.share == 0 and len(never.frame(found)) == 8
    assert "which sets of sampled answers do not reach" in repr(never)


def test_plots_show_the_frames() -> None:
    rng = np.random.default_rng(3)
    frame, truth = made(rng, 80)
    found = certainty.measure(frame).evaluate(lambda row: row["answer"] == truth[row["prompt"]], resamples=50)
    ax = found.plot_rejection("self_consistency")
    own = found.rejection_frame("self_consistency")
    line = next(line for line in ax.get_lines() if line.get_label() == "self consistency")
    np.testing.assert_allclose(line.get_ydata(), own["accuracy"])
    assert [line.get_label() for line in ax.get_lines()][:2] == ["best possible order", "random order"]
    assert len(found.plot_rejection().get_lines()) == 5 and ax.get_title(loc="left") == "80 questions"
    ax = found.plot_reliability("self_consistency", bins=5)
    points = found.reliability_frame("self_consistency", bins=5)
    np.testing.assert_allclose(ax.containers[0].lines[0].get_xydata(), points[["confidence", "accuracy"]])
    assert ax.get_lines()[0].get_label() == "calibrated"
    plt.close("all")
