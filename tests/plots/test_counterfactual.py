"""Pictures of counterfactuals: what is drawn is what the frames hold, and nothing of it is cut off."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from llmlab.counterfactuals.diff import Diff
from llmlab.counterfactuals.orders import ORDERS_COLUMNS
from llmlab.counterfactuals.tree import Node, Tree
from llmlab.frames.schema import build
from llmlab.plots import completion, counterfactual
from llmlab.results.answer import Answer
from llmlab.text.token_names import TokenNames
from tests.completions import HARD, NAMES, STORY, VOCABULARY


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def divergence_frame(values, positions, *, tokens=30):
    """A row a value and choice; -1 for a choice that stays the same."""
    rows = [(value, k, at) for value, row in zip(values, positions, strict=True) for k, at in enumerate(row)]
    numeric = isinstance(values[0], float)
    columns = {
        "temperature": [row[0] for row in rows],
        "choice": [row[1] for row in rows],
        "same": [row[2] < 0 for row in rows],
        "position": [row[2] for row in rows],
        "tokens": [tokens] * len(rows),
    }
    kinds = {"temperature": "number" if numeric else "text", "choice": "index", "same": "flag", "position": "count"}
    return build(columns, {**kinds, "tokens": "index"})


def labels(ax):
    return {text.get_text() for text in ax.get_legend().get_texts()}


def line(ax, name):
    found = next(one for one in ax.get_lines() if one.get_label() == name)
    return np.asarray(found.get_xdata(), float), np.asarray(found.get_ydata(), float)


def test_sensitivity(assert_nothing_clipped):
    frame = divergence_frame([0.0, 0.5, 1.0], [(0, 4, 2), (9, -1, 12), (-1, -1, -1)])
    ax = counterfactual.plot_sensitivity(frame, parameter="temperature", own=1.0)
    assert_nothing_clipped(ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("temperature", "position (tokens)")
    x, y = line(ax, "first difference")
    assert sorted(zip(x, y, strict=True)) == [(0.0, 0), (0.0, 2), (0.0, 4), (0.5, 9), (0.5, 12)]
    assert line(ax, "no difference (its length)")[1].tolist() == [30] * 4
    assert line(ax, "median over choices")[1].tolist() == [2, 12, 30]
    assert "as it was: 1" in labels(ax)


def test_sensitivity_over_names_and_of_one_choice(assert_nothing_clipped):
    ax = counterfactual.plot_sensitivity(
        divergence_frame(["vllm", "llama.cpp"], [(3,), (-1,)]), parameter="temperature"
    )
    assert_nothing_clipped(ax)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["vllm", "llama.cpp"]
    assert "median over choices" not in labels(ax)


def test_the_medians_of_names_are_not_joined(assert_nothing_clipped):
    frame = divergence_frame(["vllm", "$x$"], [(3, 5), (-1, 9)])
    ax = counterfactual.plot_sensitivity(frame, parameter="temperature")
    assert_nothing_clipped(ax)
    median = next(one for one in ax.get_lines() if one.get_label() == "median over choices")
    assert (median.get_linestyle(), median.get_marker()) == ("None", "_")


def test_no_top_k_is_its_largest_value(assert_nothing_clipped):
    frame = divergence_frame([5.0, 0.0, 1.0], [(2, 4), (-1, -1), (0, 0)]).rename(columns={"temperature": "top_k"})
    ax = counterfactual.plot_sensitivity(frame, parameter="top_k", own=0)
    assert_nothing_clipped(ax)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "5", "off"]
    assert line(ax, "median over choices")[1].tolist() == [0, 3, 30]
    assert line(ax, "as it was: off")[0].tolist() == [2, 2]


def test_whole_numbers_lie_where_they_are_and_seeds_side_by_side(assert_nothing_clipped):
    positions = [(2, 4), (0, 0), (3, 3)]
    frame = divergence_frame([40.0, 16_384.0, 3.0], positions)
    whole = frame.assign(temperature=frame["temperature"].astype("int64"))
    ax = counterfactual.plot_sensitivity(whole.rename(columns={"temperature": "top_k"}), parameter="top_k", own=0)
    assert_nothing_clipped(ax)
    assert line(ax, "median over choices")[0].tolist() == [3, 40, 16_384]
    assert "as it was: off" not in labels(ax), "off is no place between numbers"
    ax = counterfactual.plot_sensitivity(whole.rename(columns={"temperature": "seed"}), parameter="seed", own=40)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["40", "16384", "3"]
    assert line(ax, "as it was: 40")[0].tolist() == [0, 0]
    some = whole.assign(temperature=whole["temperature"].where(whole["temperature"] > 3))
    ax = counterfactual.plot_sensitivity(some.rename(columns={"temperature": "max_tokens"}), parameter="max_tokens")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["40", "16384", "none"]


def orders_frame(T=12):
    rng = np.random.default_rng(0)
    columns = {name: [] for name in ORDERS_COLUMNS}
    for at in range(T):
        token = HARD[at % len(HARD)]
        for number, order in enumerate(("llmlab", "vllm", "sglang", "llama.cpp")):
            other = number == 3 and at == 5
            row = (0, at, "x", token, VOCABULARY[token], order, -1.0, 5, 1.0, number * rng.uniform(0, 0.2), "x")
            for name, value in zip(ORDERS_COLUMNS, (*row, 2 if other else token), strict=True):
                columns[name].append(value)
    return build(columns, ORDERS_COLUMNS)


@pytest.mark.parametrize("T", [1, 12, 80])
def test_orders(assert_nothing_clipped, T):
    frame = orders_frame(T)
    ax = counterfactual.plot_orders(frame)
    assert_nothing_clipped(ax)
    for order in ("vllm", "sglang", "llama.cpp"):
        own = frame[frame["order"] == order]["total_variation"].to_numpy(float)
        np.testing.assert_allclose(line(ax, order)[1], own)
    assert ("draws another token" in labels(ax)) is (T > 5)
    assert "llmlab" in ax.get_ylabel() and "0..1" in ax.get_ylabel()
    assert ax.get_xlabel() == ("token" if T <= 60 else "position (tokens)")


@pytest.mark.parametrize("ids", [STORY, HARD, HARD * 4, (37,)], ids=["story", "hard", "long", "end"])
def test_certainty_and_surprisal(make_completion, make_tokens, assert_nothing_clipped, ids):
    answer = Answer(make_completion(make_tokens(ids)))
    ax = completion.plot_entropy(answer.logprobs_frame())
    assert_nothing_clipped(ax)
    tokens = answer.choices[0].tokens
    np.testing.assert_allclose(line(ax, "entropy, raw")[1], tokens.entropy, rtol=1e-6)
    np.testing.assert_allclose(line(ax, "entropy, sampling")[1], tokens.sampling_entropy, rtol=1e-6)
    (right,) = [other for other in ax.figure.axes if other is not ax]
    tops = [bar.get_y() + bar.get_height() for bar in right.patches]
    np.testing.assert_allclose(tops, tokens.kept)
    assert "nats" in ax.get_ylabel() and "log scale" in right.get_ylabel()
    ax = completion.plot_surprisal(answer.surprisal_frame())
    assert_nothing_clipped(ax)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], -tokens.logprob / math.log(2), rtol=1e-6)
    assert "bits" in ax.get_ylabel()


def test_what_an_endpoint_does_not_say_is_left_out(make_completion, make_tokens, assert_nothing_clipped):
    frame = Answer(make_completion(make_tokens(STORY))).logprobs_frame()
    for name in ("entropy", "sampling_entropy", "kept"):
        frame[name] = np.nan
    ax = completion.plot_entropy(frame)
    assert_nothing_clipped(ax)
    assert len(ax.figure.axes) == 1 and not ax.get_lines()
    assert [text.get_text() for text in ax.texts] == ["entropy not known: the endpoint does not say"]
    bits = Answer(make_completion(make_tokens(STORY))).surprisal_frame()
    bits["bits"] = np.nan
    ax = completion.plot_surprisal(bits)
    assert_nothing_clipped(ax)
    assert [text.get_text() for text in ax.texts] == ["surprisal not known: the endpoint does not say"]
    assert [text.get_text() for text in completion.plot_surprisal(bits[:0]).texts] == ["no tokens"]


def a_tree(depth, width, *, dead=()):
    """A full tree over tokens that are hard to show; the first way was taken, `dead` nodes cannot be drawn."""
    nodes, level = [], [(-1, 0.0, 0.0)]
    for deep in range(1, depth + 1):
        following = []
        for parent, path, drawn in level:
            for rank in range(width):
                at = len(nodes)
                logprob = math.log(0.6 / 2**rank)
                sampling = -math.inf if at in dead else math.log(0.7 / 2**rank)
                taken = rank == 0 and (parent < 0 or nodes[parent].taken)
                token = HARD[at % len(HARD)]
                nodes.append(
                    Node(
                        parent, deep, token, rank + 1, logprob, sampling, path + logprob, drawn + sampling, taken, False
                    )
                )
                following.append((at, path + logprob, drawn + sampling))
        level = following
    return Tree(tuple(nodes), position=5, context="a", names=TokenNames(VOCABULARY, NAMES))


@pytest.mark.parametrize(("depth", "width"), [(1, 1), (1, 20), (3, 3), (4, 3)])
def test_trees(assert_nothing_clipped, depth, width):
    tree = a_tree(depth, width, dead=(1,))
    ax = tree.plot(leaves=30)
    assert_nothing_clipped(ax)
    shown, hidden = tree.most_likely(30)
    assert len(shown) + hidden == len(tree) and ("left out" in ax.get_xlabel()) is (hidden > 0)
    assert len(ax.get_lines()) == len(shown)
    dashed = [one for one in ax.get_lines() if one.get_linestyle() == "--"]
    assert len(dashed) == sum(math.isinf(tree.nodes[at].path_sampling_logprob) for at in shown)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [str(5 + deep) for deep in range(depth)]
    names = [text for text in ax.texts if " | " not in text.get_text()]
    heights = sorted(text.xy[1] for text in names if text.xy[0] == depth)
    assert np.diff(heights).min(initial=1) >= 0.99, "no two ends share a line"


def test_long_names_in_a_deep_tree_end_before_the_next(assert_nothing_clipped):
    tree = Tree(
        tuple(Node(deep - 2, deep, 0, 1, -0.1, -0.1, -0.1 * deep, -0.1 * deep, True, False) for deep in range(1, 13)),
        position=0,
        context="",
        names=TokenNames((b" responsibilities!",), {}),
    )
    ax = tree.plot()
    assert_nothing_clipped(ax)
    renderer = ax.figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in ax.texts if " | " not in text.get_text()]
    assert len(boxes) == 12
    assert all(left.x1 <= right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


def test_a_large_tree_is_no_page_of_text():
    tree = a_tree(5, 4)
    shown, hidden = tree.most_likely(20)
    lines = repr(tree).splitlines()
    assert len(lines) == len(shown) + 2 < 60 and lines[-1] == f"… and {hidden:,} less likely tokens: frame() has them"
    assert sum("← taken" in line for line in lines) == 5  # the likeliest way was taken
    assert len(repr(a_tree(2, 2)).splitlines()) == 1 + 6


def test_long_names_of_values_stand_apart(assert_nothing_clipped):
    values = [f'{{"type": "json_schema", "json_schema": {{"name": "number {at}"}}}}' for at in range(3)]
    ax = counterfactual.plot_sensitivity(divergence_frame(values, [(3, 4)] * 3), parameter="temperature")
    assert_nothing_clipped(ax)
    ticks = ax.get_xticklabels()
    assert [tick.get_text()[:4] for tick in ticks] == ["0: {", "1: {", "2: {"] and ticks[0].get_rotation() == 30
    assert ax.get_window_extent().height > 0.4 * ax.figure.bbox.height


def test_positions_are_whole_numbers():
    frame = divergence_frame([0.0, 0.5], [(0, 1), (1, 0)], tokens=1)
    ax = counterfactual.plot_sensitivity(frame, parameter="temperature")
    assert all(float(tick).is_integer() for tick in ax.get_yticks())


@pytest.mark.parametrize("kind", ["entropy", "surprisal", "logprobs"])
def test_long_tokens_leave_room_for_the_picture(make_completion, make_tokens, assert_nothing_clipped, kind):
    def draw(ids):
        answer = Answer(make_completion(make_tokens(ids)))
        frame = answer.surprisal_frame() if kind == "surprisal" else answer.logprobs_frame()
        frame["bytes"] = [label.encode() for label in label_of(ids)]
        return getattr(completion, f"plot_{kind}")(frame)

    def label_of(ids):
        return tuple("WWWWWWWWWWWWWWWWWW" if i == 8 else "fox" for i in ids)

    short, long = draw([7] * 12), draw([7, 8] * 6)
    for ax in (short, long):
        assert_nothing_clipped(ax)
    assert long.get_window_extent().height > 0.7 * short.get_window_extent().height


def test_marks_grow_finer_and_those_of_the_legend_do_not(make_completion, make_tokens):
    for T, size in ((20, 4.0), (240, 1.9)):
        answer = Answer(make_completion(make_tokens([7] * T)))
        ax = completion.plot_entropy(answer.logprobs_frame())
        assert ax.get_lines()[0].get_markersize() == pytest.approx(size, abs=0.2)
        assert ax.get_legend().legend_handles[0].get_markersize() == pytest.approx(4.0)


def test_the_most_likely_ways_are_the_ones_that_are_drawn():
    tree = a_tree(3, 3)
    shown, _ = tree.most_likely(2)
    ends = sorted(
        (at for at in range(len(tree)) if tree.nodes[at].depth == 3), key=lambda at: -tree.nodes[at].path_logprob
    )
    assert {at for at in shown if tree.nodes[at].depth == 3} == set(ends[:2])


def test_the_axes_that_are_given_are_used(make_completion, make_tokens):
    answer = Answer(make_completion(make_tokens(STORY)))
    for draw in (
        lambda ax: counterfactual.plot_orders(orders_frame(), ax=ax),
        lambda ax: completion.plot_entropy(answer.logprobs_frame(), ax=ax),
        lambda ax: completion.plot_surprisal(answer.surprisal_frame(), ax=ax),
        lambda ax: counterfactual.plot_sensitivity(divergence_frame([0.0], [(1,)]), parameter="temperature", ax=ax),
        lambda ax: counterfactual.plot_tree(a_tree(2, 2).frame(), ax=ax),
        lambda ax: Diff(answer, answer).plot(ax=ax),
    ):
        _, ax = plt.subplots()
        assert draw(ax) is ax


def test_a_diff_draws_both_runs_along_their_aligned_tokens(make_completion, make_tokens, assert_nothing_clipped):
    before, after = make_completion(make_tokens((0, 1, 2, 37))), make_completion(make_tokens((0, 1, 8, 9, 37), key=1))
    diff = Diff(before, after)
    frame = diff.tokens_frame()
    ax = diff.plot()
    assert_nothing_clipped(ax)
    np.testing.assert_allclose(line(ax, "before")[1], frame["logprob"].to_numpy(float, na_value=np.nan))
    np.testing.assert_allclose(line(ax, "after")[1], frame["logprob_after"].to_numpy(float, na_value=np.nan))
    assert line(ax, "first difference")[0].tolist() == [2, 2] and diff.first_differences[0].position == 2
    shown = [text.get_text() for text in ax.get_xticklabels()]
    assert shown == ["Once", "␣upon", "␣a → ␣cat", "– → .", "<|im_end|>"]
    with pytest.raises(IndexError, match="choice 1 is outside the 1 choice"):
        diff.plot(choice=1)


def test_a_diff_without_a_difference_or_without_logprobs(make_completion, make_tokens, assert_nothing_clipped):
    same = make_completion(make_tokens(STORY))
    ax = Diff(same, same).plot()
    assert labels(ax) == {"before", "after"} and not any(" → " in text.get_text() for text in ax.get_xticklabels())
    blind = Diff(same, same).tokens_frame()
    blind[["logprob", "logprob_after"]] = np.nan
    ax = counterfactual.plot_diff(blind)
    assert_nothing_clipped(ax)
    assert ax.get_legend() is None and "logprobs" in ax.texts[0].get_text()
