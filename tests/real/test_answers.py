"""The distribution of answers of the real model, to yes/no and multiple-choice questions."""

from __future__ import annotations

import math

import numpy as np
import pytest

import llmlab

pytestmark = pytest.mark.real

YES_NO = ["Is Paris the capital of France? Answer yes or no.", "Is fire cold? Answer yes or no."]
CHOICE = [
    "Which planet is the largest?\nA) Mars\nB) Jupiter\nC) Venus\nD) Earth\nAnswer with the letter only.",
    "How many legs has a spider?\nA) 4\nB) 6\nC) 8\nAnswer with the letter only.",
]
QUESTIONS = YES_NO + CHOICE
#: Two-sided normal quantile of one in a thousand.
Z = 3.29
SETTINGS = {"temperature": 0.8, "top_p": 0.9}


@pytest.fixture(scope="module")
def wide(smollm2):
    """The real model with as many rows as a search likes."""
    made = llmlab.load(smollm2, dtype="float32", max_context=256, slots=32, quiet=True)
    yield made
    made.close()


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_of_one_token_are_the_next_token(wide, question):
    found = wide.answers(question, max_tokens=1, **SETTINGS)
    assert found.passes == 1 and found.stopped == "mass"
    p = np.exp(wide.next_token(question, **SETTINGS).frame(top=None)["sampling_logprob"].to_numpy())
    ids = [found.data.explored.ids(at)[0] for at in range(len(found.data.explored.text))]
    token = wide.next_token(question, **SETTINGS).frame(top=None)["token_id"].to_numpy()
    np.testing.assert_allclose(found.data.weighed[0].probability, p[np.argsort(token)][ids], atol=1e-4)


def kept(lab, question, *, seeds, max_tokens):
    """Whether what is drawn lies within the bounds of some events, widened by standard errors of the draws."""
    fields = SETTINGS | {"max_tokens": max_tokens}
    found = lab.answers(question, **fields)
    texts = [text for seed in range(seeds) for text in lab.chat(question, n=128, seed=seed, **fields).texts]
    best = found.frame()["text"].iloc[0]
    holds = []
    for bounds, test in (
        (found.probability({best}), lambda text: text == best),
        (found.begins(["Yes", "No"]), lambda text: text.startswith(("Yes", "No"))),
        (found.begins("B"), lambda text: text.startswith("B")),
        (found.probability(r"\)"), lambda text: ")" in text),
    ):
        share = float(np.mean([test(text) for text in texts]))
        middle = min(max(share, bounds.low), bounds.high)
        error = math.sqrt(max(middle * (1 - middle), 1 / len(texts)) / len(texts))
        holds.append(bounds.low - Z * error <= share <= bounds.high + Z * error)
    return holds


@pytest.mark.parametrize("question", [YES_NO[0], CHOICE[0]])
def test_the_bounds_hold_what_is_drawn(wide, question):
    assert all(kept(wide, question, seeds=4, max_tokens=3))


@pytest.mark.exhaustive
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_bounds_hold_twenty_thousand_draws(wide, question):
    assert all(kept(wide, question, seeds=157, max_tokens=2))


def test_mass_within_few_passes(wide):
    """0.99 of the answers of up to three tokens, under a usual setting; and how answers begin from the first pass."""
    for question in QUESTIONS:
        found = wide.answers(question, max_tokens=3, **SETTINGS)
        assert found.stopped == "mass" and found.passes <= 40, (question, found.passes)
        first = wide.answers(question, max_tokens=3, max_passes=1, **SETTINGS)
        for text in ("Yes", "No", "B"):
            low, high = first.begins(text)
            assert high - low < 0.005, (question, text)
            later = found.begins(text)
            assert low <= later.low + 1e-6 and later.high <= high + 1e-6


def test_a_grid_costs_no_pass(wide):
    found = wide.answers(CHOICE[0], max_tokens=3, **SETTINGS)
    grid = wide.answers(CHOICE[0], max_tokens=3, temperature=[0.2, 0.4, 0.6, 0.8], top_p=[0.5, 0.9])
    assert grid.passes == found.passes and grid.summary_frame()["unexplored"].max() <= 0.01


def test_a_grammar_changes_what_is_said(wide):
    """The model says No far more often than its masked self does, given that it says Yes or No and no more."""
    found = wide.answers("Is the sky blue?", structured_outputs={"choice": ["Yes", "No"]}, conditional=True)
    row = found.distance_frame().iloc[0]
    assert row.fits_high - row.fits_low < 1e-6 and row.total_variation_high - row.total_variation_low < 0.01
    # From the scores of the two answers, without a grammar.
    scored = wide.score("Is the sky blue?", ["Yes<|im_end|>", "No<|im_end|>"])
    p = np.exp([choice.tokens.logprob.sum(dtype=np.float64) for choice in scored.choices])
    frame = found.conditional_frame().set_index("text")
    np.testing.assert_allclose(frame["free_probability"][["Yes", "No"]], p, rtol=1e-2)
    share = p[1] / p.sum()
    assert frame["conditional_low"]["No"] - 0.01 <= share <= frame["conditional_high"]["No"] + 0.01
    assert frame["probability"]["No"] < 0.9 < share
