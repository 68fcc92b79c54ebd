"""What all plots share: settings that end with the plot, sizes that follow the user's, names that can be imported."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.text import Text

import llmlab.plots
from llmlab.frames.tokens import logprobs_frame, surprisal_frame
from llmlab.plots.labels import length, points
from llmlab.plots.style import style
from llmlab.protocol.completion import Completion
from tests.plots.test_certainty import judged_frames
from tests.plots.test_counterfactual import a_tree, divergence_frame, orders_frame
from tests.plots.test_search import search_frame

DOLLARS = "$x_1$"


@pytest.fixture(autouse=True)
def nothing_global() -> Iterator[None]:
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


DRAWN: dict[str, Callable[[Completion], Callable[..., Axes]]] = {
    "logprobs": lambda done: lambda ax: llmlab.plots.plot_logprobs(logprobs_frame(done), ax=ax),
    "entropy": lambda done: lambda ax: llmlab.plots.plot_entropy(logprobs_frame(done), ax=ax),
    "surprisal": lambda done: lambda ax: llmlab.plots.plot_surprisal(surprisal_frame(done), ax=ax),
    "alternatives": lambda done: (
        lambda ax: llmlab.plots.plot_top_logprobs(llmlab.plots.alternatives(done.choices[0], 3), ax=ax)
    ),
    "orders": lambda _: lambda ax: llmlab.plots.plot_orders(orders_frame(30), ax=ax),
    "tree": lambda _: lambda ax: llmlab.plots.plot_tree(a_tree(2, 5).frame(), ax=ax),
    "search": lambda _: (
        lambda ax: llmlab.plots.plot_search(search_frame(4, text=f"{DOLLARS} ", score=[0.0] * 4), ax=ax)
    ),
    "rejection": lambda _: lambda ax: llmlab.plots.plot_rejection(judged_frames(DOLLARS)[0], ax=ax),
    "reliability": lambda _: lambda ax: llmlab.plots.plot_reliability(judged_frames(DOLLARS)[1], ax=ax),
    "divergences": lambda _: (
        lambda ax: llmlab.plots.plot_sensitivity(
            divergence_frame([DOLLARS, "b"], [(1,), (2,)]), parameter="temperature", ax=ax
        )
    ),
}


def sizes(ax: Axes) -> list[float]:
    ax.figure.canvas.draw()
    return sorted(text.get_fontsize() for text in ax.findobj(Text) if text.get_text())


@pytest.mark.parametrize("kind", DRAWN)
def test_text_follows_the_users_font_size(kind: str, hard: Completion, assert_nothing_clipped: Any) -> None:
    draw = DRAWN[kind](hard)
    usual = sizes(draw(None))
    for size in (7.0, 13.0):
        with mpl.rc_context({"font.size": size}):
            ax = draw(None)
            # Sizes in points of our own would stay as they are.
            assert max(sizes(ax)) == pytest.approx(max(usual) * size / 10)
            assert min(sizes(ax)) == pytest.approx(min(usual) * size / 10)
            assert_nothing_clipped(ax)


@pytest.mark.parametrize("kind", DRAWN)
def test_no_text_is_read_as_a_formula(kind: str, hard: Completion) -> None:
    _, given = plt.subplots()
    given.figure.canvas.draw()  # its ticks were created with the user's settings
    shown = []
    for ax in (DRAWN[kind](hard)(None), DRAWN[kind](hard)(given)):
        ax.figure.canvas.draw()
        dollars = [text for text in ax.findobj(Text) if "$" in text.get_text() and "mathdefault" not in text.get_text()]
        assert not any(text.get_parse_math() for text in dollars)
        shown += dollars
    assert shown or kind == "alternatives", "there is a token with dollar signs to show"


def test_settings_end_with_the_plot_and_the_users_stay() -> None:
    with style():
        assert not mpl.rcParams["legend.frameon"] and mpl.rcParams["axes.titlelocation"] == "left"
    with mpl.rc_context({"legend.fontsize": 5, "axes.titlesize": "x-large"}):
        with pytest.raises(ZeroDivisionError), style():
            assert mpl.rcParams["legend.fontsize"] == 5 and mpl.rcParams["axes.titlesize"] == "x-large"
            assert not mpl.rcParams["text.parse_math"]
            raise ZeroDivisionError
        assert mpl.rcParams["legend.frameon"] and mpl.rcParams["text.parse_math"]


def test_lengths_are_those_in_the_users_font() -> None:
    wide = length("a token", size="small")
    assert points("medium") == 10 and points("small") == pytest.approx(8.33)
    with mpl.rc_context({"font.size": 20}):
        assert length("a token", size="small") == pytest.approx(2 * wide, rel=0.02) and points("medium") == 20


def test_every_public_name_is_there_and_explained() -> None:
    assert set(llmlab.plots.__all__) == set(llmlab.plots._PLACES) <= set(dir(llmlab.plots))
    for name in llmlab.plots.__all__:
        found = getattr(llmlab.plots, name)
        assert found.__name__ == name and inspect.getdoc(found)
        if name.startswith("plot_"):
            assert inspect.signature(found).parameters["ax"].default is None
    with pytest.raises(AttributeError, match="no attribute 'plot_nothing'"):
        llmlab.plots.plot_nothing  # noqa: B018


def test_the_public_names_do_not_import_matplotlib_or_pandas() -> None:
    code = "import sys, llmlab.plots; dir(llmlab.plots); llmlab.plots.plot_logprobs; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "llmlab.plots.completion" in loaded and not {"matplotlib", "pandas", "jax"} & set(loaded)


def test_what_a_backend_sets_while_a_plot_is_drawn_stays():
    # A notebook's backend is loaded with the first figure, and turns interactive mode on.
    before = mpl.rcParams.copy()
    try:
        with style():
            mpl.interactive(True)
            mpl.rcParams["figure.dpi"] = 77
        assert mpl.is_interactive() and mpl.rcParams["figure.dpi"] == 77
        assert {name for name in before if mpl.rcParams[name] != before[name]} <= {"interactive", "figure.dpi"}
    finally:
        mpl.rcParams.update(before)
