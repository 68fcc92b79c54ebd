"""Every public frame: plain dtypes, so that NumPy, matplotlib, torch, seaborn and scikit-learn take its numbers."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

import llmlab
from llmlab.results.answer import Answer
from tests.completions import guessed_story, make_completion, make_tokens

#: A column's dtype is one of these, whatever the values are.
PLAIN = {"int64", "float64", "bool", "str", "object", "category"}


def public_frames() -> set[str]:
    """`Class.method` of every public method that returns a frame, found in the package itself."""
    found = set()
    for room in ("results", "counterfactuals", "sweeps", "checks", "audit", "lab", "certainty"):
        for info in pkgutil.walk_packages([f"{llmlab.__path__[0]}/{room}"], f"llmlab.{room}."):
            for name, kind in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
                if kind.__module__.startswith("llmlab.") and not name.startswith("_"):
                    found |= {
                        f"{kind.__name__}.{method}"
                        for method, value in vars(kind).items()
                        if inspect.isfunction(value) and (method == "frame" or method.endswith("_frame"))
                        and not method.startswith("_")
                    }  # fmt: skip
    return found


@pytest.fixture(scope="module")
def frames(demo) -> dict[str, pd.DataFrame]:
    story = demo.chat("Tell me a story.", n=3, seed=3, max_tokens=8, temperature=1.2)
    diff = story.rerun(temperature=0.7, top_p=0.9).diff()
    next_token = demo.next_token("Name a colour.", temperature=0.9, top_p=0.8)
    grid = next_token.sweep(temperature=[0.5, 1.0], top_k=[None, 5], seed=[1, None], ignore_eos=[True, False])
    sensitivity = story.sensitivity(max_tokens=[4, None])
    orders = demo.compare_orders("Tell me a story.", n=2, seed=3, max_tokens=6, temperature=1.2, top_p=0.9, min_p=0.05)
    sweep = demo.sweep("Name a colour.", temperature=[0.5, 1.5], top_p=[0.5, 1.0], max_tokens=[2, None], n=2, seed=1)
    sampled = demo.sweep("Name a colour.", temperature=[0.5, 1.5], max_tokens=2, n=4, seed=1)
    check = demo.check_sampler("Name a colour.", draws=200)
    truth = [{"messages": "Name a colour.", "distribution": {"Red": 0.5, "Blue": 0.5}}]
    calibration = demo.check_calibration(truth)
    beams = demo.beam_search("Name an animal.", beams=3, max_tokens=4)
    comparison = demo.compare(demo, story)
    choice = {"choice": ["Cat", "Dog"]}
    answers = demo.answers("Name an animal.", temperature=[0.5, 1.0], structured_outputs=choice)
    certainty = demo.sweep(["Name a cat.", "Name a dog."], n=3, seed=1, max_tokens=3, temperature=1.5).certainty()
    judged = certainty.evaluate([True, False], resamples=5)
    return {
        "Audit.frame": demo.audit(only=["top_k", "stop"], seed=1).frame(),
        "Answer.logprobs_frame": story.logprobs_frame(),
        "Answer.top_logprobs_frame": story.top_logprobs_frame(),
        "Answer.surprisal_frame": story.surprisal_frame(),
        "Answer.draft_frame": Answer(guessed_story(3)).draft_frame(),
        "Result.prompt_logprobs_frame": story.prompt_logprobs_frame(),
        "NextToken.frame": next_token.frame(),
        "NextTokens.frame": story.next_tokens(choice=1).frame(top=3),
        "NextTokens.kept_frame": story.next_tokens(choice=1).kept_frame(top_k=9),
        "Result.kept_frame": story.kept_frame(),
        "TokenList.frame": demo.tokenize("Name a colour.").frame(),
        "NextToken.stages_frame": next_token.stages_frame(),
        "NextToken.flip_points_frame": next_token.flip_points_frame(" Blue"),
        "NextTokenGrid.frame": grid.frame(),
        "NextTokenGrid.summary_frame": grid.summary_frame(),
        "Diff.frame": diff.frame(),
        "Diff.tokens_frame": diff.tokens_frame(),
        "Diff.why_frame": diff.why_frame(),
        "Tree.frame": story.tree(2, 2).frame(),
        "Sensitivity.frame": sensitivity.frame(),
        "Orders.frame": orders.frame(),
        "Orders.pairs_frame": orders.pairs_frame(),
        "Orders.summary_frame": orders.summary_frame(),
        "Estimates.reweight_frame": sampled.reweight_frame(temperature=[0.7, 1.0]),
        "Estimates.paired_frame": sampled.paired_frame(along="temperature"),
        "Answer.samples_frame": story.samples_frame(),
        "Certainty.frame": certainty.frame(),
        "Certainty.samples_frame": certainty.samples_frame(),
        "Certainty.classes_frame": certainty.classes_frame(),
        "Evaluation.frame": judged.frame(),
        "Evaluation.reliability_frame": judged.reliability_frame(),
        "Evaluation.rejection_frame": judged.rejection_frame(),
        "AnswerSets.frame": certainty.answer_sets(["Tom", "Rex"], coverage=0.5).frame(certainty, ["Tom", "Rex"]),
        "PTrue.frame": demo.p_true("Name a cat.", "Tom").frame(),
        "SweepFrames.frame": sweep.frame(metrics={"mine": lambda tokens: None}),
        "SweepFrames.summary_frame": sweep.summary_frame(),
        "SweepFrames.samples_frame": sweep.samples_frame(),
        "SearchResult.frame": beams.frame(),
        "SearchResult.tokens_frame": beams.tokens_frame(),
        "Comparison.frame": comparison.frame(),
        "Comparison.texts_frame": comparison.texts_frame(),
        "Comparison.classes_frame": comparison.classes_frame(),
        "Comparison.entropy_frame": comparison.entropy_frame(ranges=3),
        "Drift.frame": demo.drift(story, dtypes=["int8"]).frame(),
        "Answers.frame": answers.frame(),
        "Answers.summary_frame": answers.summary_frame(),
        "Answers.probability_frame": answers.probability_frame({"cat": "Cat"}),
        "Answers.begins_frame": answers.begins_frame({"cat": "Cat"}),
        "Answers.bounds_frame": answers.bounds_frame({"cat": "Cat"}),
        "Answers.conditional_frame": answers.conditional_frame(),
        "Answers.distance_frame": answers.distance_frame(),
        "SamplerCheck.frame": check.frame(),
        "Calibration.frame": calibration.frame(),
        "Calibration.prompts_frame": calibration.prompts_frame(),
        "Calibration.reliability_frame": calibration.reliability_frame(),
    }


@pytest.fixture(scope="module")
def remote_frames() -> dict[str, pd.DataFrame]:
    """Frames of an endpoint that says little."""
    tokens = make_tokens((0, 1, 2))
    nan, unknown = np.full(3, np.nan, np.float32), np.full(3, -1, np.int32)
    silent = replace(tokens, ids=unknown, entropy=nan, sampling_logprob=nan, rank=unknown, kept=unknown)
    answer = Answer(make_completion(silent))
    return {
        "remote.logprobs_frame": answer.logprobs_frame(),
        "remote.top_logprobs_frame": answer.top_logprobs_frame(),
        "remote.surprisal_frame": answer.surprisal_frame(),
    }


def test_no_public_frame_is_left_out(frames):
    assert set(frames) == public_frames()


def test_numbers_of_every_frame_make_a_numeric_array(frames, remote_frames):
    for name, frame in {**frames, **remote_frames}.items():
        assert len(frame), name
        assert {str(dtype) for dtype in frame.dtypes} <= PLAIN, name
        numbers = frame.select_dtypes("number")
        assert numbers.to_numpy().dtype in ("int64", "float64"), name
        for column in frame.columns:  # an object holds texts, bytes or switches, and no number
            values = frame[column].tolist() if frame[column].dtype == object else []
            assert not any(isinstance(value, int | float) and not isinstance(value, bool) for value in values), name
        with np.errstate(over="ignore"):
            assert np.exp(numbers.to_numpy(dtype=float)).shape == (len(frame), len(numbers.columns))
            assert np.exp(numbers.to_numpy()).dtype == np.float64
        assert np.isfinite(numbers.mean(skipna=True).to_numpy()).dtype == bool


def test_a_pivot_of_a_sweep_and_of_a_grid_is_an_image(frames):
    pivots = {
        name: frame.pivot_table(index="top_p" if "top_p" in frame else "top_k", columns="temperature", values=value)
        for name, frame, value in (
            ("sweep", frames["SweepFrames.frame"], "mean_entropy"), ("tokens", frames["SweepFrames.frame"], "tokens"),
            ("grid", frames["NextTokenGrid.summary_frame"], "kept"),
        )
    }  # fmt: skip
    for name, pivot in pivots.items():
        assert pivot.shape == (2, 2) and pivot.to_numpy().dtype in ("int64", "float64"), name
        assert plt.imshow(pivot).get_array().shape == (2, 2)
    plt.close("all")


def test_what_is_written_to_parquet_comes_back(frames, tmp_path):
    for name, frame in frames.items():
        frame.to_parquet(tmp_path / "frame.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "frame.parquet"), frame, obj=name)


@pytest.mark.reference
def test_torch_takes_the_numbers_of_every_frame(frames, remote_frames):
    torch = pytest.importorskip("torch")
    for name, frame in {**frames, **remote_frames}.items():
        numbers = frame.select_dtypes("number").to_numpy()
        taken = torch.tensor(numbers)
        assert taken.shape == numbers.shape and taken.dtype in (torch.int64, torch.float64), name
        np.testing.assert_array_equal(taken.numpy(), numbers)


@pytest.mark.reference
def test_seaborn_and_scikit_learn_take_the_numbers_of_every_frame(frames, remote_frames):
    seaborn, linear_model = pytest.importorskip("seaborn"), pytest.importorskip("sklearn.linear_model")
    for name, frame in {**frames, **remote_frames}.items():
        numbers = frame.select_dtypes("number").replace([np.inf, -np.inf], np.nan)
        assert seaborn.heatmap(numbers).collections[0].get_array().size == numbers.size, name
        plt.close("all")
        known = numbers.dropna(axis="columns", how="all").dropna()
        if len(known) > 1:
            fit = linear_model.LinearRegression().fit(known, known.iloc[:, 0])
            np.testing.assert_allclose(fit.predict(known), known.iloc[:, 0], atol=1e-4, err_msg=name)
    sweep = frames["SweepFrames.frame"]
    pivot = sweep.pivot_table(index="top_p", columns="temperature", values="mean_entropy")
    assert seaborn.heatmap(pivot, annot=True).collections[0].get_array().size == pivot.size
    seaborn.lineplot(sweep, x="temperature", y="mean_entropy", hue="top_p")
    seaborn.stripplot(frames["Answer.logprobs_frame"], x="segment", y="logprob")
    plt.close("all")
