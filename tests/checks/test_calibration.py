from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy import stats

from llmlab import metrics
from llmlab.checks.calibration import Calibration, chosen, read_truth
from llmlab.embedded import demo_folder, demo_truth
from llmlab.errors import RequestError
from llmlab.lab.lab import Lab
from llmlab.protocol.backend import Backend

ROWS = [json.loads(line) for line in demo_truth().read_text("utf-8").splitlines()]
#: Answers of one token and of several, in several scripts; distributions over two to eleven answers.
SOME = [next(row for row in ROWS if row["name"] == name) for name in ("coin", "hello", "two dice", "lottery")]


@pytest.fixture(scope="module")
def report(demo) -> Calibration:
    return demo.check_calibration(SOME)


def test_no_probability_is_left_where_the_answers_have_all_of_it() -> None:
    columns = {"prompt": [0, 0], "distribution": ["coin"] * 2, "answer": ["Heads", "Tails"], "truth": [0.5, 0.5]}
    model = pd.array([0.23692636, 0.76307369], dtype="float64")  # as float32 has them
    assert model.sum() > 1
    answers = pd.DataFrame({**columns, "model": model, "logprob": np.log(model.to_numpy())})
    assert Calibration(answers, "a model").prompts_frame()["elsewhere"].tolist() == [0.0]


def test_it_agrees_with_the_evaluation_that_the_model_was_released_by(report) -> None:
    from data.build.evaluate import teacher

    want = teacher(demo_folder()).divergences(SOME)
    kl = report.prompts_frame().set_index("distribution")["kl"]
    np.testing.assert_allclose([kl[row["name"]] for row in SOME], want, atol=2e-5)
    assert report.kl == pytest.approx(np.mean(want), abs=2e-5)


def test_an_answer_is_its_whole_text_and_its_end(demo, report) -> None:
    frame = report.frame()
    part = frame[frame["distribution"] == "hello"]
    assert part["answer"].tolist() == list(SOME[1]["distribution"])
    assert part["truth"].tolist() == list(SOME[1]["distribution"].values())
    for answer, probability in zip(part["answer"], part["model"], strict=True):
        ids = [*demo.backend.encode(answer), demo.backend.end_ids[0]]
        scored = demo.score(SOME[1]["messages"], ids)
        assert probability == pytest.approx(math.exp(scored.choices[0].tokens.logprob.sum()), rel=1e-4)
    # And as the engine draws them: 64 answers, within five standard deviations.
    drawn = demo.chat(SOME[0]["messages"], n=64, seed=1, max_tokens=8).texts
    for row in frame[frame["distribution"] == "coin"].itertuples():
        assert abs(drawn.count(row.answer) - 64 * row.model) < 5 * math.sqrt(64 * row.model * (1 - row.model))


def test_the_frames(report) -> None:
    frame, prompts = report.frame(), report.prompts_frame()
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {
        "prompt": "int64", "distribution": "str", "answer": "str", "truth": "float64", "model": "float64",
        "logprob": "float64",
    }  # fmt: skip
    assert {name: str(dtype) for name, dtype in prompts.dtypes.items()} == {
        "distribution": "str", "prompts": "int64", "answers": "int64", "kl": "float64", "total_variation": "float64",
        "elsewhere": "float64", "entropy": "float64",
    }  # fmt: skip
    assert prompts["kl"].is_monotonic_decreasing
    assert sorted(prompts["distribution"]) == sorted(row["name"] for row in SOME)
    for row in prompts.itertuples():
        part = frame[frame["distribution"] == row.distribution]
        p, q = part["truth"].to_numpy(float), part["model"].to_numpy(float)
        assert row.kl == pytest.approx((p * np.log(p / q)).sum())
        assert row.elsewhere == pytest.approx(1 - q.sum()) and 0 <= row.elsewhere < 0.05
        assert row.total_variation == pytest.approx(0.5 * (np.abs(p - q).sum() + 1 - q.sum()))
        assert row.entropy == pytest.approx(stats.entropy(p)) and row.answers == len(part)
    assert report.total_variation == pytest.approx(prompts["total_variation"].mean())
    assert "4 distributions, 4 prompts, " in repr(report) and "<table" in report._repr_html_()


def test_one_of_a_thing_is_said_as_one(demo) -> None:
    one = demo.check_calibration([{"messages": "Name a colour.", "distribution": {"Blue": 1.0}}])
    assert repr(one).startswith("Calibration: demo · 1 distribution, 1 prompt, 1 answer · KL")
    assert one.plot().get_title(loc="left") == "demo: 1 distribution, 1 prompt"


def test_calibration_errors() -> None:
    answers = pd.DataFrame(
        {
            "prompt": [0, 0, 1, 1],
            "distribution": ["a", "a", "b", "b"],
            "answer": ["x", "y", "x", "y"],
            "truth": [0.6, 0.4, 0.9, 0.1],
            "model": [0.7, 0.25, 0.8, 0.2],
        }
    )
    report = Calibration(answers, "toy")
    assert report.ece() == pytest.approx((0.1 + 0.1) / 2), "of x and x: 0.7 and 0.8 lie in bins of their own"
    assert report.ece(bins=1) == pytest.approx(0), "together 1.5 is said, and 1.5 is true"
    assert report.classwise_ece() == pytest.approx((0.1 + 0.15 + 0.1 + 0.1) / 4)
    bins = report.reliability_frame(bins=4)
    assert bins["low"].tolist() == [0, 0.5, 0.75] and bins["answers"].tolist() == [2, 1, 1]
    assert bins["model"].tolist() == pytest.approx([0.225, 0.7, 0.8])
    assert bins["truth"].tolist() == pytest.approx([0.25, 0.6, 0.9])


def test_under_other_parameters_the_distribution_sampled_from_is_compared(demo, report) -> None:
    cold = demo.check_calibration(SOME[:1], temperature=0)
    assert sorted(cold.frame()["model"]) == pytest.approx([0, 1], abs=1e-6)
    assert cold.kl == math.inf and cold.total_variation == pytest.approx(0.5, abs=1e-3)
    warm = demo.check_calibration(SOME[:1], temperature=1.5)
    assert warm.frame()["model"].sum() < report.frame()["model"][:2].sum(), "more goes elsewhere"


def test_the_embedded_truth_is_the_default(demo, tmp_path) -> None:
    rows = read_truth(None)
    assert len(rows) == len(ROWS) == 336 and len({row.name for row in rows}) == 36
    few = chosen(rows, prompts_per_distribution=2)
    assert len(few) == 72 and chosen(rows, prompts_per_distribution=None) == rows
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({k: v for k, v in SOME[0].items() if k != "name"}) + "\n\n", encoding="utf-8")
    found = demo.check_calibration(path)
    assert found.frame()["distribution"].unique().tolist() == ["distribution 0"]
    assert metrics.kl_divergence(found.frame(), p="truth", q="model") == pytest.approx(found.kl)


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        ([], "truth is empty: give at least one prompt"),
        ([{"messages": "a"}], r"truth\[0\] needs messages and a distribution"),
        ([{"messages": "a", "distribution": {"x": 0.5}}], r"truth\[0\].distribution sums to 0.5, not to 1"),
        ([{"messages": "a", "distribution": {"x": 1.5}}], r"truth\[0\].distribution must map answers to probabilities"),
        ([SOME[0], {"messages": "a", "distribution": []}], r"truth\[1\].distribution must map"),
    ],
)
def test_a_truth_that_is_none(demo, truth, said) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        demo.check_calibration(truth)
    assert caught.value.param == "truth"


def test_other_errors(demo, tmp_path) -> None:
    path = tmp_path / "truth.jsonl"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(RequestError, match="truth.jsonl is not JSON lines"):
        demo.check_calibration(path)
    with pytest.raises(RequestError, match="prompts_per_distribution must be at least 1, got 0"):
        demo.check_calibration(SOME, prompts_per_distribution=0)

    class Remote(Backend):
        name = "far"

        def complete(self, request, *, order="llmlab"): ...
        def stream(self, request, *, order="llmlab"): ...
        def describe(self): ...

    with pytest.raises(RequestError, match="far is an endpoint that scores no given answers"):
        Lab(Remote()).check_calibration(SOME)


def test_the_plot(report, assert_nothing_clipped) -> None:
    ax = report.plot()
    frame = report.frame()
    dots = next(line for line in ax.get_lines() if line.get_label() == "answer of a prompt")
    np.testing.assert_allclose(dots.get_xydata(), frame[["model", "truth"]].astype(float))
    assert ax.get_xlabel() == "model's probability of the whole answer" and ax.get_ylabel() == "true probability"
    assert_nothing_clipped(ax)
    figure, axes = plt.subplots(1, 2, layout="constrained", figsize=(12, 5))
    assert report.plot(ax=axes[1], bins=5) is axes[1] and not axes[0].has_data()
    assert_nothing_clipped(axes[1])
    plt.close("all")
