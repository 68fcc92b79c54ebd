"""What metrics would be under settings that were not run, against every answer of a small space, weighed exactly."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmlab
from llmlab.errors import RequestError
from llmlab.lab.lab import Lab
from llmlab.sweeps.sweep import Sweep
from llmlab.testing import tiny_checkpoint

IDS = [40, 65, 70, 99]
LONG = 3
#: Four tokens, three at a time: 64 answers in all.
SPACE: dict[str, Any] = {"logit_bias": dict.fromkeys(IDS, 100), "ignore_eos": True, "max_tokens": LONG}
TARGETS = [0.6, 0.7, 0.8, 0.9, 1.1, 1.2, 1.35, 1.5]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "m", scale=6.0)
    lab = llmlab.load(folder, slots=128, max_context=64, quiet=True)
    yield lab
    lab.close()


def exactly(lab: Lab, prompt: str, **fields: Any) -> tuple[np.ndarray, np.ndarray]:
    """The probability of each of the 64 answers under some settings, and the mean raw logprob of its tokens."""
    every = [list(ids) for ids in itertools.product(IDS, repeat=LONG)]
    space = {name: value for name, value in SPACE.items() if name != "max_tokens"}
    scored = lab.score(prompt, every, **space, **fields)
    tokens = [choice.tokens for choice in scored.choices]
    with np.errstate(invalid="ignore"):
        probability = np.exp([one.sampling_logprob.astype(np.float64).sum() for one in tokens])
    return np.nan_to_num(probability), np.array([one.logprob.astype(np.float64).mean() for one in tokens])


def first_is(frame: Any) -> float:
    return float(frame["token_id"].iloc[0] == IDS[1])


def test_intervals_hold_the_truth(lab: Lab) -> None:
    """200 intervals of a mean, and 200 of a share, at 95 %, of which few are refused."""
    truth = {}
    for target in TARGETS:
        probability, mean = exactly(lab, "Once", temperature=target)
        assert probability.sum() == pytest.approx(1, abs=1e-4)
        first = np.repeat(np.array(IDS) == IDS[1], len(IDS) ** (LONG - 1))
        truth[target] = {"mean_logprob": (probability * mean).sum(), "first": (probability * first).sum()}
    held, given = dict.fromkeys(truth[1.1], 0), dict.fromkeys(truth[1.1], 0)
    for seed in range(25):
        swept = lab.sweep("Once", temperature=[1.0], n=96, seed=seed, metrics={"first": first_is}, **SPACE)
        found = swept.reweight_frame(["mean_logprob", "first"], temperature=TARGETS)
        assert (found["missing"] < 1e-9).all()
        for row in found[found["problem"] == ""].itertuples():
            given[row.metric] += 1
            held[row.metric] += row.low <= truth[row.temperature][row.metric] <= row.high
    for metric, count in given.items():
        assert count >= 180 and held[metric] >= 0.93 * count, (held, given)


def test_several_settings_are_one_mixture(lab: Lab) -> None:
    """With shared noise, and over two prompts: within a few of its own standard errors of the truth."""
    prompts = ["Once", "Why?"]
    expected = np.mean([(p * f).sum() for p, f in (exactly(lab, one, temperature=0.9) for one in prompts)])
    swept = lab.sweep(prompts, temperature=[0.6, 1.4], n=128, seed=3, **SPACE)
    found = swept.reweight_frame("mean_logprob", temperature=0.9).iloc[0]
    assert found["low"] - 0.05 < expected < found["high"] + 0.05 and found["completions"] == 512
    assert 50 < found["effective"] <= 512


def test_a_setting_that_was_run_alone_has_its_own_mean(lab: Lab) -> None:
    swept = lab.sweep("Once", temperature=[1.0], n=64, seed=5, **SPACE)
    found = swept.reweight_frame(temperature=1.0).set_index("metric")
    plain = swept.summary_frame(["mean_logprob", "tokens"]).set_index("metric")
    np.testing.assert_allclose(found.loc[plain.index, "value"], plain["value"], rtol=1e-4)
    assert (found["effective"].round(3) == 64).all()
    again = swept.reweight_frame("mean_logprob")
    assert again["temperature"].tolist() == [1.0], "what was swept and is not asked about stays as it was swept"


def test_what_no_answer_reaches_is_refused_with_its_probability(lab: Lab) -> None:
    swept = lab.sweep("Once", top_k=[2], temperature=1.0, n=128, seed=1, **SPACE)
    found = swept.reweight_frame("mean_logprob", top_k=[2, 3, 4])
    assert found["problem"].str.contains("no setting of the sweep can draw").tolist() == [False, True, True]
    assert found["value"].isna().tolist() == [False, True, True]
    narrow, _ = exactly(lab, "Once", top_k=2, temperature=1.0)
    for k in (3, 4):
        wide, _ = exactly(lab, "Once", top_k=k, temperature=1.0)
        expected = wide[narrow == 0].sum()
        assert found.set_index("top_k").loc[k, "missing"] == pytest.approx(expected, abs=0.1)
    both = lab.sweep("Once", top_k=[2, 4], temperature=1.0, n=128, seed=1, **SPACE)
    assert (both.reweight_frame("mean_logprob", top_k=[2, 3, 4])["problem"] == "").all()


def test_useless_weights_are_refused(lab: Lab) -> None:
    swept = lab.sweep("Once", temperature=[0.25], n=32, seed=1, **SPACE)
    far = swept.reweight_frame("mean_logprob", temperature=[0.25, 2.0])
    assert far["problem"].tolist()[0] == "" and far["value"].isna().tolist() == [False, True]
    assert "effective answers of 32" in far["problem"][1] or "most of the weight" in far["problem"][1]


def test_paired_differences(lab: Lab) -> None:
    swept = lab.sweep(["Once", "Why?"], temperature=[0.9, 1.0, 1.1], top_k=[3, 4], n=64, seed=2, **SPACE)
    found = swept.paired_frame(["mean_logprob", "tokens"], along="temperature")
    assert len(found) == 2 * 2 * 2 and (found["completions"] == 128).all()
    means = swept.summary_frame("mean_logprob", by=["temperature", "top_k"]).set_index(["temperature", "top_k"])
    for row in found[found["metric"] == "mean_logprob"].itertuples():
        expected = (
            means.loc[(row.temperature_after, row.top_k), "value"] - means.loc[(row.temperature, row.top_k), "value"]
        )
        assert row.difference == pytest.approx(expected) and row.low <= row.difference <= row.high
        assert row.variance_ratio < 0.5
    assert found[found["metric"] == "tokens"]["variance_ratio"].isna().all(), "nothing varies"
    alone = lab.sweep("Once", temperature=[0.9, 1.0], independent=True, n=4, seed=2, **SPACE)
    with pytest.raises(RequestError, match="noise of their own"):
        alone.paired_frame()


def test_a_saved_sweep_and_a_grammar(lab: Lab, tmp_path: Path) -> None:
    swept = lab.sweep(
        "Once", temperature=[1.0, 1.5], n=32, seed=2, max_tokens=4, structured_outputs={"regex": "[ab]{3}"}
    )
    expected = swept.reweight_frame("mean_logprob", temperature=1.2)
    assert expected["problem"].tolist() == [""] and expected["missing"][0] < 1e-9
    swept.save(tmp_path / "swept.parquet")
    again = Sweep.load(tmp_path / "swept.parquet", lab=lab).reweight_frame("mean_logprob", temperature=1.2)
    np.testing.assert_allclose(again["value"], expected["value"], rtol=1e-5)
    with pytest.raises(RequestError, match="has no lab"):
        Sweep.load(tmp_path / "swept.parquet").reweight_frame(temperature=1.2)


def test_wrong_arguments(lab: Lab) -> None:
    swept = lab.sweep("Once", temperature=[1.0], n=4, seed=2, **SPACE)
    for fields, said in (
        ({"max_tokens": 3}, "max_tokens is not a field of the sampler"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": []}, "temperature must be a list of values, got an empty one"),
        ({"columns": "nothing"}, "there is no column 'nothing'"),
        ({"confidence": 1}, "confidence must lie between 0 and 1"),
        ({"mirostat": 2}, "mirostat"),
    ):
        with pytest.raises(RequestError, match=said):
            swept.reweight_frame(**fields)
    with pytest.raises(RequestError, match="along must be one of temperature"):
        swept.paired_frame(along="top_p")
    longer = lab.sweep("Once", n=2, seed=2, **{**SPACE, "max_tokens": [1, 2]})
    with pytest.raises(RequestError, match="this sweep varies max_tokens"):
        longer.reweight_frame(temperature=1.2)
