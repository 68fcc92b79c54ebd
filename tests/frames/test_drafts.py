"""What was guessed of an answer: the frame, the plot, and how it is kept in a file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import llmlab
from llmlab.errors import RequestError
from llmlab.frames import parquet
from llmlab.frames.drafts import acceptance_rate, draft_frame
from llmlab.plots import plot_draft
from tests.completions import guessed_story


def test_passes_and_right_guesses_are_counted_for_each_choice():
    frame = draft_frame(guessed_story(2))
    first, second = (frame[frame["choice"] == choice].reset_index(drop=True) for choice in (0, 1))
    assert first["guesses"].tolist() == [0, 4, 0, 0, 2, 3, 0, 0, 0, 1, 0] == second["guesses"].tolist()
    assert first["passes"].tolist() == [1, 2, 2, 2, 3, 4, 4, 4, 4, 5, 6] == second["passes"].tolist()
    assert acceptance_rate(first) == 5 / 10 and np.isnan(acceptance_rate(first[:1]))


def test_a_choice_of_which_nothing_was_guessed_took_a_pass_for_each_token():
    done = guessed_story(2)
    done = replace(done, choices=(done.choices[0], replace(done.choices[1], guessed=None)))
    other = draft_frame(done).query("choice == 1")
    assert other["passes"].tolist() == list(range(1, 12)) and not other["guessed"].any()
    with pytest.raises(RequestError, match="draft=4"):
        draft_frame(replace(done, choices=done.choices[1:]))


def test_it_is_kept_in_a_file(tmp_path):
    done = guessed_story(2)
    mixed = replace(done, choices=(replace(done.choices[0], guessed=None), done.choices[1]))
    for each in (done, mixed):
        parquet.save(tmp_path / "kept.parquet", [each], kind="result")
        (found,) = parquet.load(tmp_path / "kept.parquet", kind="result").completions
        assert draft_frame(found).equals(draft_frame(each))
        assert [choice.guessed is None for choice in found.choices] == [x.guessed is None for x in each.choices]


def test_the_plot_has_a_point_for_each_pass():
    ax = plot_draft(draft_frame(guessed_story()))
    plain, line = ax.get_lines()
    assert plain.get_label() == "one token a pass"
    assert line.get_xydata().tolist() == [[0, 0], [1, 1], [2, 4], [3, 5], [4, 9], [5, 10], [6, 11]]
    assert ax.get_title(loc="left") == "11 tokens, 5 of 10 guesses right"


def test_a_lab_that_guesses_answers_as_one_that_does_not(demo):
    lab = llmlab.load("demo", draft=3, max_context=512, slots=8, quiet=True)
    try:
        asked = {
            "messages": "Count from 1 to 9. Again: 1, 2, 3, 4",
            "n": 2,
            "seed": 5,
            "max_tokens": 24,
            "ignore_eos": True,
        }
        found = lab.chat(**asked, temperature=0.6)
        assert found.texts == demo.chat(**asked, temperature=0.6).texts
        frame = found.draft_frame()
        assert frame.groupby("choice").size().tolist() == [24, 24]
        assert 0 < frame["guessed"].sum() <= frame["guesses"].sum()
        assert found.acceptance_rate == frame["guessed"].sum() / frame["guesses"].sum()
        # A branch's given tokens were not guessed, and its own are.
        branch = found.branch(5)
        assert not branch.draft_frame()["guessed"][:5].any() and len(branch.draft_frame()) == len(branch.tokens)
        # A schema's tokens are drawn one by one.
        strict = lab.chat("A number", response_format={"type": "json_object"}, max_tokens=8)
        with pytest.raises(RequestError, match="no token was guessed"):
            strict.draft_frame()
    finally:
        lab.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"draft": True}, "draft must be an integer from 0 to 16, got True"),
        ({"draft": -1}, "draft must be an integer from 0 to 16, got -1"),
        ({"draft": 17}, "draft must be an integer from 0 to 16, got 17"),
        ({"draft": 4, "mesh": "auto"}, "draft= guesses tokens on one device only: leave out mesh="),
    ],
)
def test_what_cannot_be_guessed_is_said_before_anything_is_loaded(options, said):
    with pytest.raises(RequestError) as caught:
        llmlab.load("demo", quiet=True, **options)
    assert caught.value.param == "draft" and said in str(caught.value)
