from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt

from llmlab.frames.tokens import logprobs_frame
from llmlab.plots.completion import Alternatives, alternatives, plot_logprobs, plot_top_logprobs

NAMES = {37: "<|im_end|>", 38: "<|endoftext|>"}


@pytest.fixture(autouse=True)
def nothing_global() -> Iterator[None]:
    """No plot changes a global style or leaves a figure of the test's open."""
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


def test_the_logprobs_drawn_are_those_of_the_completion(hard, assert_nothing_clipped) -> None:
    choice = hard.choices[0]
    ax = plot_logprobs(logprobs_frame(hard, names=NAMES))
    lines = {line.get_label(): line for line in ax.get_lines()}
    np.testing.assert_array_equal(lines["raw logprob"].get_ydata(), choice.tokens.logprob)
    np.testing.assert_array_equal(lines["sampling logprob"].get_ydata(), choice.tokens.sampling_logprob)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], -choice.tokens.entropy)
    low = np.nonzero(choice.tokens.logprob < np.log(0.1))[0]
    assert len(low) > 3
    np.testing.assert_array_equal(lines["surprise (p < 0.1)"].get_xdata(), low)
    labels = [tick.get_text() for tick in ax.get_xticklabels()]
    assert labels[:9] == ["<script>", "alert('x')", "</script>", "&amp;", "␣", "␣␣␣", "⇥", "\\r⏎", "⏎"]
    assert labels[-1] == "<|im_end|>"
    assert "\\u4e2d" in labels and "\\U0001f98a" in labels, "what the font lacks is an escape"
    assert ax.get_ylabel() == "logprob (nats)" and ax.get_xlabel() == "token"
    assert_nothing_clipped(ax)


def test_a_long_trace_numbers_its_positions(make_tokens, make_completion, assert_nothing_clipped) -> None:
    ax = plot_logprobs(logprobs_frame(make_completion(make_tokens([0, 1, 2] * 40))))
    assert ax.get_xlabel() == "position (tokens)"
    assert ax.figure.get_figwidth() <= 10, "a notebook's width"
    assert 0 < len(ax.texts) <= 12, "the most surprising ones are named all the same"
    assert_nothing_clipped(ax)


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_short_trace(make_tokens, make_completion, length: int, assert_nothing_clipped) -> None:
    ax = plot_logprobs(logprobs_frame(make_completion(make_tokens([0] * length))))
    assert_nothing_clipped(ax)


def test_surprises_side_by_side_are_not_written_on_each_other(make_tokens, make_completion) -> None:
    logprob = np.full(200, -0.1, np.float32)
    logprob[[50, 51, 52, 120]] = [-5.0, -7.0, -6.0, -4.0]
    frame = logprobs_frame(make_completion(make_tokens([0] * 200)))
    ax = plot_logprobs(frame.assign(logprob=logprob))
    assert [text.xy[0] for text in ax.texts] == [51, 120]  # the most surprising of neighbours


@pytest.mark.parametrize("rows", [1, 5])
def test_the_legend_lies_on_no_bar(rows: int, assert_nothing_clipped) -> None:
    flat = np.full(rows, 1 / rows)
    data = Alternatives(0, tuple("abcde"[:rows]), tuple(range(rows)), flat, flat, 0, 1)
    ax = plot_top_logprobs(data)
    assert_nothing_clipped(ax)
    legend = ax.get_legend().get_window_extent()
    assert not any(legend.overlaps(bar.get_window_extent()) for bar in ax.patches)
    assert not legend.overlaps(ax.title.get_window_extent()) and not legend.overlaps(ax._left_title.get_window_extent())


def test_what_is_not_known_is_not_drawn(make_tokens, make_completion, assert_nothing_clipped) -> None:
    nan = np.full(3, np.nan, np.float32)
    tokens = replace(make_tokens((0, 1, 2)), sampling_logprob=nan, entropy=nan)
    ax = plot_logprobs(logprobs_frame(make_completion(tokens)))
    assert ax.get_legend_handles_labels()[1] == ["raw logprob"]
    assert_nothing_clipped(ax)


def test_a_picture_of_nothing_says_so(make_tokens, make_completion, assert_nothing_clipped) -> None:
    tokens = make_tokens((0, 1, 2))
    nan, nans = np.full(3, np.nan, np.float32), np.full_like(tokens.top_logprob, np.nan)
    silent = replace(tokens, logprob=nan, sampling_logprob=nan, entropy=nan)
    silent = replace(silent, top_logprob=nans, top_sampling_logprob=nans)
    completion = make_completion(silent)
    for ax, what in (
        (plot_logprobs(logprobs_frame(completion)), "logprobs"),
        (plot_top_logprobs(alternatives(completion.choices[0], 0)), "probab"),
    ):
        assert_nothing_clipped(ax)
        assert any(what in text.get_text() and "the endpoint does not say" in text.get_text() for text in ax.texts)
    assert ax.get_xlim() == (0, 1)


def test_a_probability_of_zero_is_an_arrow_at_the_foot(make_tokens, make_completion, assert_nothing_clipped) -> None:
    tokens = make_tokens((0, 1, 2))
    sampling = tokens.sampling_logprob.copy()
    sampling[1] = -np.inf
    ax = plot_logprobs(logprobs_frame(make_completion(replace(tokens, sampling_logprob=sampling))))
    arrows = [line for line in ax.get_lines() if line.get_marker() == "v" and len(line.get_xdata())]
    assert [line.get_xdata().tolist() for line in arrows] == [[1]]
    assert np.isfinite(ax.get_ylim()).all()
    assert_nothing_clipped(ax)


def test_alternatives_draw_both_distributions_and_mark_the_sampled_token(hard, assert_nothing_clipped) -> None:
    tokens = hard.choices[0].tokens
    ax = plot_top_logprobs(alternatives(hard.choices[0], 9, top=6, names=NAMES))
    raw, sampling = ax.containers
    np.testing.assert_allclose([bar.get_width() for bar in raw][:6], np.exp(tokens.top_logprob[9, :6]), rtol=1e-6)
    np.testing.assert_allclose([bar.get_width() for bar in sampling][:6], np.exp(tokens.top_sampling_logprob[9, :6]))
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    # The last bars are what the six leave to all other tokens.
    assert len(raw) == len(sampling) == 7 and labels[-1] == "all others"
    assert raw[6].get_width() == pytest.approx(1 - np.exp(tokens.top_logprob[9, :6].astype(float)).sum())
    assert [sum(bar.get_width() for bar in bars) for bars in (raw, sampling)] == pytest.approx([1, 1])
    marked = [label for label in labels if label.startswith("▸ ")]
    assert marked == ["▸ <F0><9F>"]
    assert ax.get_xlabel() == "probability"
    assert ax.yaxis_inverted(), "the best on top"
    assert_nothing_clipped(ax)


def test_a_sampled_token_beyond_the_alternatives_is_added(story) -> None:
    tokens = story.choices[0].tokens
    assert tokens.rank[3] > 20
    data = alternatives(story.choices[0], 3, top=4)
    assert len(data.labels) == 5 and data.sampled == 4 and data.rank == tokens.rank[3]
    assert data.labels[4] == "␣time"
    np.testing.assert_allclose(data.prob[4], np.exp(tokens.logprob[3]))
    assert alternatives(story.choices[0], -1, names=NAMES).position == len(tokens) - 1


@pytest.mark.parametrize("position", [11, -12])
def test_a_position_that_is_not_there(story, position: int) -> None:
    with pytest.raises(IndexError, match="outside the 11 tokens of choice 0"):
        alternatives(story.choices[0], position)


def test_an_endpoint_without_the_distribution_sampled_from(story, assert_nothing_clipped) -> None:
    tokens = story.choices[0].tokens
    nan = np.full_like(tokens.top_sampling_logprob, np.nan)
    blind = replace(
        tokens,
        top_sampling_logprob=nan,
        sampling_logprob=np.full_like(tokens.logprob, np.nan),
        rank=np.full_like(tokens.rank, -1),
    )
    ax = plot_top_logprobs(alternatives(replace(story.choices[0], tokens=blind), 0))
    assert [container.get_label() for container in ax.containers] == ["raw"]
    assert "rank" not in ax.get_title(loc="left")
    assert_nothing_clipped(ax)


def test_the_axes_given_are_drawn_on(story, assert_nothing_clipped) -> None:
    draws: list[Callable[..., Any]] = [
        lambda ax: plot_logprobs(logprobs_frame(story), ax=ax),
        lambda ax: plot_top_logprobs(alternatives(story.choices[0], 0), ax=ax),
    ]
    for draw in draws:
        figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
        assert draw(axes[1]) is axes[1]
        assert not axes[0].has_data() and axes[1].has_data()
        assert plt.get_fignums() == [figure.number]
        assert_nothing_clipped(axes[1])
        plt.close(figure)
