from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt

from llmlab import metrics
from llmlab.errors import RequestError
from llmlab.plots.labels import value_names
from llmlab.plots.style import STYLES
from llmlab.plots.sweep import places
from llmlab.sweeps.sweep import Sweep


@pytest.fixture(autouse=True)
def nothing_global() -> Iterator[None]:
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


@pytest.fixture(scope="module")
def swept(demo) -> Sweep:
    return demo.sweep(
        ["Tell me a short story.", "Tell me a story about a fox."], temperature=[0.5, 1.0, 1.5], top_p=[0.7, 1.0],
        n=4, seed=7, max_tokens=8,
    )  # fmt: skip


@pytest.fixture(scope="module")
def odd(demo) -> Sweep:
    """Parameters that are off for one value, and values that are text."""
    return demo.sweep(
        "Name an animal.",
        top_k=[None, 1, 20],
        response_format=[None, {"type": "json_object"}],
        n=2,
        seed=7,
        max_tokens=4,
    )


def test_lines_with_their_intervals(swept, assert_nothing_clipped) -> None:
    ax = swept.plot("mean_entropy")
    summary = swept.summary_frame("mean_entropy", by=["temperature", "top_p"])
    lines = [container.lines[0] for container in ax.containers]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0.7", "1"]
    for line, top_p in zip(lines, (0.7, 1.0), strict=True):
        part = summary[summary["top_p"] == top_p]
        np.testing.assert_allclose(line.get_xdata(), [0.5, 1.0, 1.5])
        np.testing.assert_allclose(line.get_ydata(), part["value"].astype(float))
    bands = [band.get_paths()[0].vertices for band in ax.collections if len(band.get_paths()) == 1][:2]
    for band, top_p in zip(bands, (0.7, 1.0), strict=True):
        part = summary[summary["top_p"] == top_p]
        assert band[:, 1].min() == pytest.approx(part["low"].min()) and band[:, 1].max() == pytest.approx(
            part["high"].max()
        )
    assert ax.get_xlabel() == "temperature" and ax.get_ylabel() == "mean entropy (nats)"
    assert ax.get_title("left") == "mean over prompt (2)"
    assert_nothing_clipped(ax)


def test_a_heat_map_has_a_figure_in_each_cell(swept, assert_nothing_clipped) -> None:
    ax = swept.plot("perplexity", kind="heatmap", x="top_p", by="temperature")
    summary = swept.summary_frame("perplexity", by=["temperature", "top_p"])
    table = summary["value"].to_numpy(float).reshape(3, 2)
    np.testing.assert_allclose(ax.collections[0].get_array().reshape(3, 2), table)
    assert [text.get_text() for text in ax.texts] == [f"{value:.3g}" for value in table.ravel()]
    assert ax.get_xlabel() == "top_p" and ax.get_ylabel() == "temperature"
    assert ax.figure.axes[1].get_ylabel() == "perplexity"
    assert_nothing_clipped(ax)


def test_many_values_are_a_heat_map_of_themselves(demo, assert_nothing_clipped) -> None:
    many = [i / 10 for i in range(1, len(STYLES) + 3)]
    sweep = demo.sweep("Name an animal.", temperature=[0.5, 1.5], top_p=many, n=1, seed=1, max_tokens=2)
    ax = sweep.plot()
    assert len(ax.texts) == 2 * len(many)
    assert_nothing_clipped(ax)
    with pytest.raises(RequestError, match="top_p has 9 values, and 7 lines can be told apart"):
        sweep.plot(kind="lines")
    with pytest.raises(RequestError, match="top_p has 9 values"):
        sweep.plot_diversity()


def test_what_is_not_known_stays_white(swept, assert_nothing_clipped) -> None:
    cells = {at: done for at, done in swept.completions.items() if swept.grid.cells[at].point["temperature"] < 1.5}
    ax = Sweep(swept.grid, cells).plot(kind="heatmap")
    assert [text.get_text() for text in ax.texts].count("NA") == 2
    assert_nothing_clipped(ax)
    assert_nothing_clipped(Sweep(swept.grid, cells).plot())
    assert_nothing_clipped(Sweep(swept.grid, {}).plot())


def test_values_that_are_no_numbers_stand_side_by_side(odd, assert_nothing_clipped) -> None:
    ax = odd.plot(metrics={"commonest answer": metrics.majority_share})
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["off", "1", "20"]
    assert ax.get_ylabel() == "commonest answer, n = 2"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["none", '{"type": "json_object"}']
    assert_nothing_clipped(ax)
    ax = odd.plot("tokens", x="response_format", by="top_k")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["off", "1", "20"]
    assert_nothing_clipped(ax)


def test_diversity_against_likelihood(swept, assert_nothing_clipped) -> None:
    ax = swept.plot_diversity()
    by = ["temperature", "top_p"]
    flat = swept.summary_frame("mean_logprob", by=by)
    tall = swept.summary_frame([], metrics={"d": lambda rows: 1 - metrics.pairwise_bleu(rows)}, by=by)
    for container, top_p in zip(ax.containers, (0.7, 1.0), strict=True):
        here = (flat["top_p"] == top_p).to_numpy()
        np.testing.assert_allclose(container.lines[0].get_xdata(), flat["value"][here].astype(float))
        np.testing.assert_allclose(container.lines[0].get_ydata(), tall["value"][here].astype(float))
    assert ax.get_xlabel() == "mean logprob (nats per token)" and (
        ax.get_ylabel() == "diversity (1 − pairwise BLEU), n = 4"
    )
    assert "labelled by temperature" in ax.get_title("left") and "0.5" in {text.get_text() for text in ax.texts}
    assert_nothing_clipped(ax)
    other = swept.plot_diversity(diversity="distinct_2", likelihood="perplexity", along="top_p", by="temperature")
    assert other.get_ylabel() == "distinct-2 (share of pairs of tokens)" and other.get_xlabel() == "perplexity"
    assert_nothing_clipped(other)


def test_labels_that_would_lie_on_each_other_are_left_out(demo) -> None:
    sweep = demo.sweep("Name an animal.", temperature=[0, 0.01, 0.02, 0.03, 2.0], n=2, seed=7, max_tokens=3)
    written = [text.get_text() for text in sweep.plot_diversity(diversity="distinct_1").texts]
    assert "0 … 0.03" in written or {"0", "2"} <= set(written)
    assert len(written) <= 3


def test_labels_stay_off_the_legend(demo, assert_nothing_clipped) -> None:
    long = [["a"], ["the fox went over there"], ["c"]]
    sweep = demo.sweep("Tell me a story.", stop=long, temperature=[0.5, 1.0], n=3, max_tokens=12, seed=1)
    ax = sweep.plot_diversity()
    assert_nothing_clipped(ax)
    legend = ax.get_legend().get_window_extent()
    assert ax.texts and not any(text.get_window_extent().overlaps(legend) for text in ax.texts)


def test_the_axes_given_are_drawn_on(swept, assert_nothing_clipped) -> None:
    draws: list[Any] = [
        lambda ax: swept.plot(ax=ax),
        lambda ax: swept.plot(kind="heatmap", ax=ax),
        lambda ax: swept.plot_diversity(ax=ax),
    ]
    for draw in draws:
        figure, axes = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
        assert draw(axes[1]) is axes[1]
        assert not axes[0].has_data() and axes[1].has_data() and plt.get_fignums() == [figure.number]
        assert_nothing_clipped(axes[1])
        plt.close(figure)


def test_what_cannot_be_drawn(demo, swept) -> None:
    single = demo.sweep("Name an animal.", n=1, seed=1, max_tokens=2)
    with pytest.raises(RequestError, match="no swept parameter to plot against"):
        single.plot()
    one = demo.sweep("Name an animal.", temperature=[0.5, 1], n=1, seed=1, max_tokens=2)
    with pytest.raises(RequestError, match="a heat map needs two swept parameters"):
        one.plot(kind="heatmap")
    with pytest.raises(RequestError, match="x: there is no 'top_k'; there are temperature"):
        one.plot(x="top_k")
    with pytest.raises(RequestError, match="columns: there is no 'text'"):
        one.plot("text")
    assert swept.plot(x="prompt").get_xlabel() == "prompt"


def test_two_sweeps_on_one_axes_can_be_told_apart(demo, assert_nothing_clipped) -> None:
    fields = {"temperature": 1.5, "n": 3, "seed": 7, "max_tokens": 4}
    sweeps = [demo.sweep("Tell me a short story.", **{name: [0.1, 1.0]}, **fields) for name in ("top_p", "min_p")]
    for draw in ("plot", "plot_diversity"):
        _, ax = plt.subplots(layout="constrained")
        for swept in sweeps:
            getattr(swept, draw)(ax=ax)
        assert_nothing_clipped(ax)
        lines = [container.lines[0] for container in ax.containers]
        assert len({(line.get_color(), line.get_marker()) for line in lines}) == 2
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["top_p", "min_p"]


def test_names_of_values_are_short_and_each_its_own(demo, assert_nothing_clipped) -> None:
    schemas = [
        {"type": "json_schema", "json_schema": {"name": "an_object_of_some_kind", "schema": {"type": kind}}}
        for kind in ("object", "array")
    ]
    swept = demo.sweep("Give me JSON.", response_format=schemas, temperature=[0.5, 1.0], n=1, seed=1, max_tokens=4)
    for options in ({}, {"x": "temperature"}, {"kind": "heatmap"}):
        ax = swept.plot(x=options.pop("x", "response_format"), **options)
        assert_nothing_clipped(ax)
        assert ax.get_window_extent().height > 0.35 * ax.figure.bbox.height
    names = value_names("response_format", ["a" * 40, "b" * 40, "a" * 41, None, 0.25])
    assert names == ("0: " + "a" * 25 + "…", "b" * 25 + "…", "2: " + "a" * 25 + "…", "none", "0.25")


def test_a_metric_without_a_figure_says_so(demo, assert_nothing_clipped) -> None:
    one = demo.sweep("Name an animal.", temperature=[0.5, 1.0], n=1, seed=1, max_tokens=1)
    for ax in (one.plot("distinct_2"), one.plot_diversity()):
        assert_nothing_clipped(ax)
        (said,) = (text.get_text() for text in ax.texts)
        assert said.startswith("no value of di") and "too few or too short completions" in said
    assert not one.plot("mean_entropy").texts


def test_figures_close_together_are_spelled_out(demo) -> None:
    swept = demo.sweep("Name an animal.", temperature=[0.5, 1.0], n=1, seed=1, max_tokens=1)
    ax = swept.plot(metrics={"close": lambda rows: 1.1053 + 1e-7 * rows["temperature"].mean()})
    ax.figure.canvas.draw()
    assert not ax.yaxis.get_offset_text().get_text()
    ax.set_yscale("log")
    assert swept.plot("perplexity", ax=ax) is ax  # an axis without such a formatter is left as it is


def test_where_values_lie() -> None:
    assert places("temperature", (0.5, 1.0)).at == {0.5: 0.5, 1.0: 1.0}
    off = places("top_k", (0, 5))
    assert not off.numeric and off.names == ("off", "5") and off.at == {0: 0.0, 5: 1.0}
    assert places("top_k", (3, 5)).numeric and not places("prompt", (0, 1)).numeric
    assert places("enable_thinking", (None, True, False)).names == ("none", "True", "False")
