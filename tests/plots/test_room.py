"""Every plot can be read at the width of a paper's column, and its sizes are those that the user has set."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.text import Text

from llmlab import plots
from llmlab.counterfactuals.diff import ALIGNED_COLUMNS
from llmlab.distributions.stages import Cut, PenaltyShifts, TemperatureDistributions, TokenStages, TruncationCurve
from llmlab.frames.drafts import draft_frame
from llmlab.frames.schema import build
from llmlab.frames.tokens import logprobs_frame, surprisal_frame
from llmlab.plots.style import slot
from tests.completions import _assert_nothing_clipped, guessed_story, make_completion, make_tokens
from tests.plots.test_answers import answers_frame, bounds_frame
from tests.plots.test_certainty import judged_frames
from tests.plots.test_counterfactual import a_tree, divergence_frame, orders_frame
from tests.plots.test_search import search_frame

LABELS = (
    "␣responsibilities",
    "␣a",
    "Once",
    "␣unbelievable",
    "\\u4e2d",
    "<|im_end|>",
    "␣there",
    "␣fox",
    "␣bird",
    "␣sun",
)
SHIFTS = {"repetition": -1.25, "frequency": -0.5, "presence": -1.0}


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def answer(tokens: int) -> Any:
    return make_completion(make_tokens([t % 36 for t in range(tokens)], key=3))


def summary(axes: dict[str, Any], *names: str) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    points = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    rows = [{**point, "metric": name, "value": rng.uniform(0.1, 0.9)} for point in points for name in names]
    frame = pd.DataFrame(rows)
    return frame.assign(low=frame["value"] - 0.1, high=frame["value"] + 0.1)


def swept(*, lines: int = 5, values: int = 6, text: str = "") -> tuple[dict[str, Any], pd.DataFrame]:
    by = [f"{text}{at}" for at in range(lines)] if text else [round(0.5 + at / 10, 2) for at in range(lines)]
    axes = {"temperature": [0.25 * at for at in range(1, values + 1)], "top_p": by}
    return axes, summary(axes, "mean_logprob")


def drawn_lines(ax: Axes, **options: Any) -> Axes:
    axes, frame = swept(**options)
    return plots.plot_lines(frame, x="temperature", by="top_p", axes=axes, ax=ax)


def drawn_map(ax: Axes, x: str = "temperature", by: str = "top_p", **options: Any) -> Axes:
    axes, frame = swept(**options)
    return plots.plot_heatmap(frame, x=x, by=by, axes=axes, ax=ax)


def drawn_diversity(ax: Axes) -> Axes:
    axes, flat = swept(lines=3)
    tall = flat.assign(metric="distinct_2", value=flat["value"][::-1].to_numpy())
    return plots.plot_diversity(flat, tall, along="temperature", by="top_p", axes=axes, ax=ax)


def temperatures(*, values: int = 4, tokens: int = 10) -> TemperatureDistributions:
    prob = np.sort(np.random.default_rng(2).dirichlet(np.full(60, 0.3), values), axis=-1)[:, ::-1]
    at = tuple(0.3 + 0.4 * row for row in range(values))
    removed = tuple(tuple("top_p" if k > 5 else "" for k in range(tokens)) for _ in at)
    final = np.where(np.arange(60) > 5, 0, prob)
    final /= final.sum(-1, keepdims=True)
    return TemperatureDistributions(
        labels=(LABELS * 2)[:tokens], token_ids=tuple(range(tokens)), temperatures=at, prob=prob[:, :tokens],
        final=final[:, :tokens], removed_by=removed, settings={"top_k": 40, "top_p": 0.9, "min_p": 0.05},
        min_p_level=0.05 * prob[:, 0],
        removed={"top_k": np.full(values, 20), "top_p": np.full(values, 34), "min_p": np.zeros(values, int)},
        removed_mass={"top_k": prob[:, 40:].sum(-1), "top_p": prob[:, 6:40].sum(-1), "min_p": np.zeros(values)},
        kept=np.full(values, 6),
    )  # fmt: skip


def stages() -> TokenStages:
    names = ("raw", "1 logit_bias", "2 repetition", "3 frequency", "4 presence", "6 temperature", "7 top_k", "8 top_p")
    return TokenStages(
        label="␣responsibilities", token_id=3, stages=names,
        settings=("", "no bias", "not seen", "= 0.5 x 2", "= 1", "= 1.4", "= 20", "= 0.9"),
        logit=np.array([10.26] * 5 + [7.33, 7.33, -np.inf]), prob=np.array([0.265] * 5 + [0.175, 0.199, 0.0]),
        removed_by="top_p",
    )  # fmt: skip


def truncation() -> TruncationCurve:
    prob = 1 / np.arange(1, 2049) ** 1.2
    prob /= prob.sum()
    cuts = (
        Cut("top_k", 40.0, 40, 2008, prob[40:].sum()), Cut("top_p", 0.9, 12, 28, prob[12:40].sum()),
        Cut("min_p", 0.05, 9, 3, prob[9:12].sum()),
    )  # fmt: skip
    return TruncationCurve(prob, cuts, 9, 0.05 * prob[0])


def penalties(tokens: int = 10) -> PenaltyShifts:
    before = np.geomspace(0.5, 1e-6, tokens)
    return PenaltyShifts(
        labels=(LABELS * 2)[:tokens], token_ids=tuple(range(tokens)), before=before, after=before[::-1].copy(),
        shifts={name: np.where(np.arange(tokens) % 2, shift, 0.0) for name, shift in SHIFTS.items()},
    )  # fmt: skip


def check(cells: int = 30) -> pd.DataFrame:
    prob = np.geomspace(0.3, 0.001, cells - 1)
    prob = np.append(prob, 0.5) / (prob.sum() + 0.5)
    seen = np.round(2000 * prob).astype(int)
    ids = [*range(cells - 1), np.nan]
    frame = pd.DataFrame({"token": [*(LABELS * 4)[: cells - 1], "2,027 other tokens"], "token_id": ids})
    raw = [name.encode() for name in frame["token"]]
    return frame.assign(bytes=[*raw[:-1], None], tokens=1, probability=prob, observed=seen, residual=0.5)


def calibration() -> tuple[pd.DataFrame, pd.DataFrame]:
    truth = np.random.default_rng(4).uniform(0.01, 0.99, 60)
    frame = pd.DataFrame({"model": np.clip(truth + 0.03, 0, 1), "truth": truth})
    edges = np.arange(10) / 10
    return frame, pd.DataFrame({"low": edges, "high": edges + 0.1, "model": edges + 0.05, "truth": edges + 0.06})


def diff(tokens: int) -> pd.DataFrame:
    change = ["same" if at % 3 else "replaced" for at in range(tokens)]
    columns = {name: [0.0] * tokens for name in ALIGNED_COLUMNS if ALIGNED_COLUMNS[name] == "number"}
    columns |= {"choice": [0] * tokens, "change": change, "position": range(tokens), "position_after": range(tokens)}
    columns |= {"token": ["responsibilities"] * tokens, "token_after": [" unbelievable"] * tokens}
    columns |= {"token_id": [1] * tokens, "token_id_after": [2] * tokens}
    columns["logprob"] = [-0.1 * at for at in range(tokens)]
    return build(columns, ALIGNED_COLUMNS)


#: Every public plot, with as much as it is likely to be given.
PLOTS: dict[str, Callable[[Axes], Axes]] = {
    **{
        f"{name.__name__} of {T}": lambda ax, draw=name, T=T: draw(logprobs_frame(answer(T)), ax=ax)
        for name in (plots.plot_logprobs, plots.plot_entropy) for T in (8, 40, 60, 200)
    },
    **{f"surprisal of {T}": lambda ax, T=T: plots.plot_surprisal(surprisal_frame(answer(T)), ax=ax) for T in (8, 60)},
    **{
        f"top logprobs {top}": lambda ax, top=top: plots.plot_top_logprobs(
            plots.alternatives(answer(8).choices[0], 3, top=top), ax=ax
        ) for top in (5, 10, 20)
    },
    **{f"draft of {n}": lambda ax, n=n: plots.plot_draft(draft_frame(guessed_story(n)), ax=ax) for n in (1, 6, 20)},
    "temperatures": lambda ax: plots.plot_temperatures(temperatures(), ax=ax),
    "two temperatures": lambda ax: plots.plot_temperatures(temperatures(values=2, tokens=20), ax=ax),
    "stages": lambda ax: plots.plot_stages(stages(), ax=ax),
    "truncation": lambda ax: plots.plot_truncation(truncation(), ax=ax),
    "penalties": lambda ax: plots.plot_penalties(penalties(), ax=ax),
    "15 penalties": lambda ax: plots.plot_penalties(penalties(15), ax=ax),
    "lines": drawn_lines,
    "named lines": lambda ax: drawn_lines(ax, lines=3, text="a value with a long name "),
    "heat map": drawn_map,
    "large heat map": lambda ax: drawn_map(ax, lines=14, values=20),
    "named heat map": lambda ax: drawn_map(ax, text="a value with a long name "),
    "turned heat map": lambda ax: drawn_map(ax, x="top_p", by="temperature", text="a value with a long name "),
    "diversity": drawn_diversity,
    "check": lambda ax: plots.plot_check(check(), heading="fits the distribution: χ² 16.7, 21 df, p = 0.73", ax=ax),
    "calibration": lambda ax: plots.plot_calibration(
        *calibration(), heading="a model with a long name: 36 distributions, 336 prompts", ax=ax,
        note="KL 0.0180 nats\ntotal variation 0.055\ncalibration error 0.019, every answer 0.005",
    ),
    "diff": lambda ax: plots.plot_diff(diff(40), ax=ax),
    "short diff": lambda ax: plots.plot_diff(diff(6), ax=ax),
    "orders": lambda ax: plots.plot_orders(orders_frame(40), ax=ax),
    "sensitivity": lambda ax: plots.plot_sensitivity(
        divergence_frame([0.1 * at for at in range(8)], [(at, -1, 3) for at in range(8)]), parameter="temperature",
        own=0.3, ax=ax,
    ),
    "named sensitivity": lambda ax: plots.plot_sensitivity(
        divergence_frame([f"a value with a long name {at}" for at in range(5)], [(at, -1) for at in range(5)]),
        parameter="temperature", ax=ax,
    ),
    "answers": lambda ax: plots.plot_answers(answers_frame(), unexplored=0.02, answers=9, heading="answers", ax=ax),
    "bounds": lambda ax: plots.plot_bounds(bounds_frame(), x="passes", ax=ax),
    "search": lambda ax: plots.plot_search(
        search_frame(6, score=-np.arange(6) / 10, group=[0, 0, 1, 1, 2, 2]),
        heading="beam search, beams 6, groups 3", ax=ax,
    ),
    "long search": lambda ax: plots.plot_search(
        search_frame(24, perturbed_logprob=-np.arange(24) / 3), threshold=-9.0, heading="without replacement", ax=ax
    ),
    "rejection": lambda ax: plots.plot_rejection(judged_frames("semantic_entropy", "p_true", "mine")[0], ax=ax),
    "reliability": lambda ax: plots.plot_reliability(judged_frames("answer_probability", "p_true")[1], ax=ax),
    "tree": lambda ax: plots.plot_tree(a_tree(3, 3).frame(), ax=ax),
    "deep tree": lambda ax: plots.plot_tree(a_tree(5, 3).frame(), ax=ax),
}  # fmt: skip


def shown(ax: Axes) -> list[Text]:
    """The texts of a figure that can be seen, except those of a legend, which lie as matplotlib puts them."""
    texts = []
    for axes in ax.figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [text for tick in ticks for text in (tick.label1, tick.label2)] + [axis.label]
        texts += [*axes.texts, axes.title, axes._left_title]
    return [text for text in texts if text.get_visible() and text.get_text()]


def box(text: Text) -> tuple[np.ndarray, np.ndarray]:
    """The corners of a text's own rectangle, before it is turned, as centre-free half sizes: its four corners."""
    turned = text.get_rotation()
    text.set_rotation(0)
    size = text.get_window_extent()
    text.set_rotation(turned)
    placed = text.get_window_extent()
    angle = np.deg2rad(turned)
    half = np.array([[size.width, size.height], [-size.width, size.height]]) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([(placed.x0 + placed.x1) / 2, (placed.y0 + placed.y1) / 2])
    half = half @ turn.T
    return np.stack([centre + half[0], centre + half[1], centre - half[0], centre - half[1]]), turn.T


def overlap(one: Text, other: Text) -> bool:
    """Whether the rectangles of two texts, turned or not, share more than a pixel (the separating axis theorem)."""
    (first, axes), (second, more) = box(one), box(other)
    for direction in (*axes, *more):
        a, b = first @ direction, second @ direction
        if min(a.max(), b.max()) - max(a.min(), b.min()) < 1:
            return False
    return True


def struck(ax: Axes, text: Text) -> bool:
    """Whether a line runs through a text that has no opaque ground of its own."""
    ground = text.get_bbox_patch()
    place = text.get_window_extent().padded(-1)
    for line in ax.get_lines():
        path = line.get_transform().transform_path(line.get_path())
        covered = ground is not None and to_hex(ground.get_facecolor()) == to_hex(ax.get_facecolor())
        crossed = line.get_linestyle() != "None" and path.intersects_bbox(place, filled=False)
        if crossed and not (covered and text.get_zorder() > line.get_zorder()):
            return True
    return False


@pytest.mark.parametrize("kind", PLOTS)
def test_a_plot_can_be_read_at_the_width_of_a_column(kind: str) -> None:
    with mpl.rc_context({"font.size": 7}):
        figure, ax = plt.subplots(figsize=(3.3, 2.4), layout="constrained")
        assert PLOTS[kind](ax) is ax
        figure.canvas.draw()
        size = ax.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
        assert size.width > 0.42 * 3.3 and size.height > 0.4 * 2.4, (size.width, size.height)
        _assert_nothing_clipped(ax)
        legend = ax.get_legend()
        if legend is not None:
            place = legend.get_window_extent()
            assert min(place.x0, place.y0, 330 - place.x1, 240 - place.y1) > -0.5
            assert place.height < 0.3 * 240 or place.x0 > ax.bbox.x1, "a legend above the axes is short"
            assert not any(place.padded(-1).overlaps(text.get_window_extent()) for text in shown(ax))
        texts = shown(ax)
        lying = [(a.get_text(), b.get_text()) for a, b in itertools.combinations(texts, 2) if overlap(a, b)]
        assert not lying
        assert not [text.get_text() for text in ax.texts if text.get_visible() and struck(ax, text)]
        assert min(text.get_fontsize() for text in texts) > 4


@pytest.mark.parametrize(
    "kind", ["plot_logprobs of 40", "check", "top logprobs 5", "stages", "penalties", "lines", "diff"]
)
def test_each_size_is_the_one_that_the_user_has_set(kind: str) -> None:
    own = {"xtick.labelsize": 5.5, "ytick.labelsize": 6.5, "axes.labelsize": 7.5, "legend.fontsize": 4.5}
    with mpl.rc_context({**own, "axes.titlesize": 8.5}):
        _, ax = plt.subplots(figsize=(5, 4), layout="constrained")
        PLOTS[kind](ax)
        for axis, label in ((ax.xaxis, "xtick"), (ax.yaxis, "ytick")):
            assert {text.get_fontsize() for text in axis.get_ticklabels()} == {own[f"{label}.labelsize"]}
            assert axis.label.get_fontsize() == 7.5
        assert ax._left_title.get_fontsize() == 8.5
        if ax.get_legend() is not None:
            assert {text.get_fontsize() for text in ax.get_legend().get_texts()} == {4.5}


def test_a_figure_is_as_large_as_the_user_has_set() -> None:
    with mpl.rc_context({"figure.figsize": (3.3, 2.4), "font.size": 7}):
        for kind in ("plot_logprobs of 40", "temperatures", "heat map"):
            figure = PLOTS[kind](None).figure  # type: ignore[arg-type]
            assert figure.get_size_inches().tolist() == [3.3, 2.4]
            _assert_nothing_clipped(figure.axes[0])


@pytest.mark.parametrize("name", ["lines.markersize", "font.size"])
def test_marks_and_lines_follow_the_users_settings(name: str) -> None:
    sizes = []
    for factor in (1.0, 2.0):
        with mpl.rc_context({name: factor * mpl.rcParamsDefault[name]}):
            line = PLOTS["lines"](None).containers[0].lines[0]  # type: ignore[arg-type]
            sizes.append((line.get_markersize(), line.get_linewidth()))
    assert sizes[1] == pytest.approx([2 * size for size in sizes[0]])


def test_the_place_of_axes_is_their_share_of_the_figure() -> None:
    figure = plt.figure(figsize=(8, 6), dpi=100, layout="constrained")
    cells = figure.add_gridspec(2, 2, width_ratios=[1, 3], height_ratios=[2, 1])
    assert slot(figure.add_subplot(cells[0, 1])).extents.tolist() == pytest.approx([200, 200, 800, 600])
    assert slot(figure.add_subplot(cells[1, :])).extents.tolist() == pytest.approx([0, 0, 800, 200])
    inner = cells[0, 0].subgridspec(1, 2)
    assert slot(figure.add_subplot(inner[0, 1])).extents.tolist() == pytest.approx([100, 200, 200, 600])
    assert slot(figure.add_axes((0.1, 0.1, 0.2, 0.2))).extents.tolist() == [0, 0, 800, 600]
