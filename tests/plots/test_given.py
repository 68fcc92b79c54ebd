"""A plot draws what it was asked for: several metrics in a panel each, and an error where one thing was several."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from llmlab import metrics, plots
from llmlab.errors import RequestError
from llmlab.frames.tokens import logprobs_frame, surprisal_frame
from llmlab.sweeps.sweep import Sweep
from tests.plots.test_counterfactual import a_tree, divergence_frame, orders_frame

NAMES = ["mean_logprob", "distinct_2"]


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def swept(demo) -> Sweep:
    return demo.sweep("Tell me a story.", temperature=[0.5, 1.0, 1.5], top_p=[0.7, 1.0], n=3, seed=7, max_tokens=6)


@pytest.mark.parametrize("kind", ["lines", "heatmap"])
@pytest.mark.parametrize("given", [False, True])
def test_each_metric_has_a_panel(swept, kind, given, assert_nothing_clipped) -> None:
    axes = plt.subplots(2, figsize=(6, 8), layout="constrained")[1] if given else None
    panels = swept.plot(NAMES, kind=kind, ax=axes)
    assert len(panels) == 2 and (not given or list(panels) == list(axes))
    for name, panel in zip(NAMES, panels, strict=True):
        own = swept.summary_frame(name, by=["temperature", "top_p"])["value"].to_numpy(float).reshape(3, 2)
        alone = swept.plot(name, kind=kind)
        for ax in (panel, alone):
            if kind == "lines":
                drawn = np.stack([container.lines[0].get_ydata() for container in ax.containers], axis=1)
                label = ax.get_ylabel()
            else:
                drawn = ax.collections[0].get_array().reshape(2, 3).T
                label = ax.collections[0].colorbar.ax.get_ylabel()
            np.testing.assert_allclose(np.asarray(drawn, float), own)
            assert label.startswith(name.replace("_", " ") if name == "mean_logprob" else "distinct-2")
    assert_nothing_clipped(panels[0])


def test_every_function_given_is_drawn(swept) -> None:
    given = {"one": metrics.majority_share, "two": lambda rows: 2 * metrics.majority_share(rows), "three": len}
    panels = swept.plot(metrics=given)
    assert [panel.get_ylabel() for panel in panels] == [f"{name}, n = 3" for name in given]
    one, two, three = ([line.lines[0].get_ydata() for line in panel.containers] for panel in panels)
    np.testing.assert_allclose(np.array(two, float), 2 * np.array(one, float))
    assert np.all(np.array(three, float) == 3)
    # Names choose among functions and columns, in the order asked for; a single one is drawn as before.
    panels = swept.plot(["distinct_1", "two"], metrics=given)
    assert [panel.get_ylabel() for panel in panels] == ["distinct-1 (share of tokens)", "two, n = 3"]
    assert swept.plot(metrics={"one": metrics.majority_share}).get_ylabel() == "one, n = 3"
    assert swept.plot(["two"], metrics=given).get_ylabel() == "two, n = 3"


def test_each_panel_says_what_it_averages_over(demo) -> None:
    swept = demo.sweep(["a", "b"], temperature=[0.5, 1.0], n=1, seed=1, max_tokens=2)
    assert [panel.get_title("left") for panel in swept.plot(NAMES)] == ["mean over prompt (2)"] * 2


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ([], "metric must be a name or a list of different names, got \\[\\]"),
        (["tokens", "tokens"], "metric must be a name or a list of different names"),
        (["tokens", "nothing"], "columns: there is no 'nothing'"),
    ],
)
def test_what_is_no_list_of_metrics(swept, metric: list[Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        swept.plot(metric)


def test_axes_are_as_many_as_metrics(swept) -> None:
    _, axes = plt.subplots(3)
    with pytest.raises(RequestError, match="ax must be 2 axes, one for each metric, got 3"):
        swept.plot(NAMES, ax=axes)
    with pytest.raises(RequestError, match="ax must be 2 axes, one for each metric, got 1"):
        swept.plot(NAMES, ax=axes[0])
    with pytest.raises(RequestError, match="ax must be one matplotlib Axes, got 3"):
        swept.plot("tokens", ax=axes)
    assert not any(ax.has_data() for ax in axes), "nothing is drawn before an error"


def test_a_frame_of_several_summaries_is_not_one_line(swept) -> None:
    by = ["temperature", "top_p"]
    both, axes = swept.summary_frame(NAMES, by=by), swept.axes
    panels = plots.plot_lines(both, x="temperature", by="top_p", axes=axes)
    assert [panel.get_ylabel()[:4] for panel in panels] == ["mean", "dist"]
    with pytest.raises(RequestError, match=r"summary has several rows for temperature 0.5, metric mean_logprob") as bad:
        plots.plot_lines(both, x="temperature", by=None, axes=axes)
    assert "summary_frame(by=['temperature'])" in str(bad.value)
    with pytest.raises(RequestError, match="summary has several rows for"):
        plots.plot_heatmap(pd.concat([both, both]), x="temperature", by="top_p", axes=axes)
    one = both[both["metric"] == "distinct_2"]
    for flat, tall, wrong in ((both, one, "likelihood"), (one, both, "diversity")):
        with pytest.raises(RequestError, match=f"{wrong} holds mean_logprob, distinct_2"):
            plots.plot_diversity(flat, tall, along="temperature", by="top_p", axes=axes)


def test_a_frame_of_several_answers_is_not_one_line(hard, story) -> None:
    both = pd.concat([logprobs_frame(hard), logprobs_frame(story)])
    for draw in (plots.plot_logprobs, plots.plot_entropy):
        with pytest.raises(
            RequestError, match=r"frame has several rows for position 0, and one is drawn; give the rows"
        ):
            draw(both)
    with pytest.raises(RequestError, match="frame has several rows for position 0"):
        plots.plot_surprisal(pd.concat([surprisal_frame(hard), surprisal_frame(story)]))
    with pytest.raises(RequestError, match="frame has several rows for order llmlab, position 0"):
        plots.plot_orders(pd.concat([orders_frame(5), orders_frame(5)]))
    tree = a_tree(2, 3).frame()
    with pytest.raises(RequestError, match="frame has several rows for node 0"):
        plots.plot_tree(pd.concat([tree, tree]))


def test_a_missing_column_is_named_with_what_has_it(hard) -> None:
    frame = logprobs_frame(hard)
    with pytest.raises(RequestError, match=r"frame has no column entropy; give Result.logprobs_frame\(\)") as bad:
        plots.plot_logprobs(frame.drop(columns="entropy"))
    assert bad.value.param == "frame"
    with pytest.raises(RequestError, match=r"frame must be a dataframe such as Result.logprobs_frame\(\), got"):
        plots.plot_logprobs(hard)
    with pytest.raises(RequestError, match="base: there is no 'vllm-ish'; there are llmlab"):
        plots.plot_orders(orders_frame(5), base="vllm-ish")
    with pytest.raises(RequestError, match="parameter: there is no 'top_p'"):
        plots.plot_sensitivity(divergence_frame([0.5], [(1,)]), parameter="top_p")


#: Run without the types' checks of the test suite, as a user's process is. Each line is a call that must be refused.
WRONG = """
import json, sys
from llmlab import plots, load
from llmlab.errors import RequestError
lab = load("demo", slots=4, max_context=128, quiet=True)
r = lab.chat("Name an animal.", n=2, max_tokens=4, seed=1, temperature=1.0)
frame, bits, step = r.logprobs_frame(), r.surprisal_frame(), lab.next_token("Name an animal.", temperature=1.0)
sw = lab.sweep("Name an animal.", temperature=[0.5, 1.5], top_p=[0.5, 1.0], n=1, seed=1, max_tokens=2)
diff, tree, check = r.diff(r.rerun(temperature=0.2)), r.tree(1), lab.check_sampler("Name an animal.", draws=20)
one, both = sw.summary_frame("tokens"), lab.compare(lab, r)
for call in json.load(sys.stdin):
    try:
        eval(call)
    except RequestError as error:
        print(json.dumps([error.param, str(error)]))
    else:
        print('["nothing raised", ""]')
"""
CALLS = {
    "plots.plot_logprobs(frame, choice=[0, 1])": "choice",
    "plots.plot_logprobs(frame, choice='0')": "choice",
    "plots.plot_logprobs(frame, choice=0.0)": "choice",
    "plots.plot_logprobs(frame, surprise=[0.1, 0.2])": "surprise",
    "plots.plot_logprobs(frame, surprise=2)": "surprise",
    "plots.plot_logprobs([frame, frame])": "frame",
    "plots.plot_entropy(frame, choice=(0, 1))": "choice",
    "plots.plot_entropy(bits)": "frame",
    "plots.plot_surprisal(bits, choice=None)": "choice",
    "plots.plot_surprisal(frame)": "frame",
    "plots.plot_top_logprobs([plots.alternatives(r.choices[0], 0)])": "data",
    "plots.alternatives(r.choices[0], [0, 1])": "position",
    "plots.alternatives(r.choices[0], 0, top=[1])": "top",
    "r.plot_logprobs(choice=[0, 1])": "choice",
    "r.plot_entropy(choice='all')": "choice",
    "r.plot_surprisal(choice=2)": "choice",
    "r.plot_top_logprobs([0, 1])": "position",
    "r.plot_top_logprobs(0, choice=[0])": "choice",
    "r.plot_logprobs(ax=[])": "ax",
    "diff.plot(choice=[0])": "choice",
    "plots.plot_diff(diff)": "frame",
    "plots.plot_diff(diff.tokens_frame(), choice='a')": "choice",
    "tree.plot(leaves=[3])": "leaves",
    "tree.plot(leaves=0)": "leaves",
    "plots.plot_tree(tree)": "frame",
    "plots.plot_search(frame)": "frame",
    "plots.plot_comparison(frame)": "frame",
    "plots.plot_comparison_tokens(frame)": "frame",
    "plots.plot_comparison_tokens(both.frame(), text='a')": "text",
    "plots.plot_comparison_tokens(both.frame(), choice=[0])": "choice",
    "plots.plot_comparison(both.frame(), names='ab')": "names",
    "both.plot_tokens(text=9)": "text",
    "plots.plot_answers(frame, unexplored=0.1)": "frame",
    "plots.plot_bounds(frame, x='passes')": "frame",
    "plots.plot_rejection(frame)": "frame",
    "plots.plot_reliability(frame)": "frame",
    "check.plot(top=[3])": "top",
    "plots.plot_check(check)": "frame",
    "plots.plot_check(check.frame(), draws=[20])": "draws",
    "plots.plot_check(check.frame(), heading=['a', 'b'])": "heading",
    "plots.plot_calibration(check, check)": "frame",
    "plots.plot_orders(frame)": "frame",
    "plots.plot_sensitivity(frame, parameter=['a', 'b'])": "frame",
    "step.plot_temperatures(0.5)": "temperatures",
    "step.plot_temperatures(top=[3])": "top",
    "step.plot_stages([0, 1])": "token",
    "step.plot_truncation(order=['llmlab'])": "order",
    "step.plot_penalties(top=[3])": "top",
    "plots.plot_truncation([step.truncation()])": "data",
    "plots.plot_temperatures(step)": "data",
    "plots.plot_stages(step)": "data",
    "plots.plot_penalties(step)": "data",
    "sw.plot({'a': len})": "metric",
    "sw.plot(3)": "metric",
    "sw.plot(['tokens', 3])": "metric",
    "sw.plot(metrics=[len])": "metrics",
    "sw.plot(metrics=len)": "metrics",
    "sw.plot(x=['temperature', 'top_p'])": "x",
    "sw.plot(by=['top_p'])": "by",
    "sw.plot(kind=['lines'])": "kind",
    "sw.plot(over=['prompts'])": "over",
    "sw.plot(confidence=[0.9])": "confidence",
    "sw.plot_diversity(diversity=['distinct_1', 'distinct_2'])": "diversity",
    "sw.plot_diversity(diversity={'a': len, 'b': len})": "diversity",
    "sw.plot_diversity(likelihood=['mean_logprob', 'perplexity'])": "columns",
    "sw.plot_diversity(along=['temperature'])": "x",
    "plots.plot_lines(sw, x='temperature', by='top_p', axes=sw.axes)": "summary",
    "plots.plot_lines(one, x=['temperature'], by='top_p', axes=sw.axes)": "x",
    "plots.plot_lines(one, x='temperature', by=['top_p'], axes=sw.axes)": "by",
    "plots.plot_lines(one, x='temperature', by='top_p', axes=['temperature'])": "axes",
    "plots.plot_heatmap(one, x='temperature', by=None, axes=sw.axes)": "by",
    "plots.plot_heatmap(one, x='top_k', by='top_p', axes=sw.axes)": "x",
    "plots.plot_diversity(one, sw, along='temperature', by='top_p', axes=sw.axes)": "diversity",
}


def test_several_where_one_is_drawn_and_other_things_are_refused_by_name() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", WRONG], input=json.dumps(list(CALLS)), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    said = dict(zip(CALLS, map(json.loads, run.stdout.splitlines()), strict=True))
    wrong = {call: said[call] for call, param in CALLS.items() if said[call][0] != param}
    assert not wrong
