from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.text import Text

from llmlab.display import palette
from llmlab.display.palette import contrast
from llmlab.errors import RequestError
from llmlab.plots.distribution import plot_stages
from llmlab.protocol.request import ChatRequest
from llmlab.results.next_token import NextToken
from llmlab.sampling.pipeline import ORDERS
from llmlab.text.numbers import probability
from tests.results.test_next_token import END, FakeBackend, V, cut, softmax

MADE = np.array([3, 11, 3, 40], np.int32)


@pytest.fixture(scope="module")
def next_token() -> NextToken:
    """A step after four tokens, so that every penalty has something to count."""
    backend = FakeBackend()
    request = ChatRequest.build("hello")
    prompt = backend.render(request)
    return NextToken(backend.logits, backend=backend, request=request, prompt_ids=prompt, made=MADE)


@pytest.fixture(autouse=True)
def nothing_global() -> Iterator[None]:
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_curve_counts_what_each_cut_removes(next_token: NextToken) -> None:
    fields = {"temperature": 2.0, "top_k": 12, "top_p": 0.9, "min_p": 0.35}
    data = next_token.truncation(**fields)
    p = softmax(next_token.logits / 2.0)
    gone = cut(p, top_k=12, top_p=0.9, min_p=0.35)
    np.testing.assert_allclose(data.prob, np.sort(p)[::-1], atol=1e-6)
    assert [one.name for one in data.cuts] == ["top_k", "top_p", "min_p"]
    for one in data.cuts:
        assert one.removed == gone[one.name].sum() > 0 and one.value == fields[one.name]
        assert one.mass == pytest.approx(p[gone[one.name]].sum(), abs=1e-6)
    assert data.kept == data.cuts[-1].kept == V - sum(one.removed for one in data.cuts)
    assert data.min_p_level == pytest.approx(0.35 * p.max(), abs=1e-6)
    assert np.isnan(next_token.truncation(order="llama.cpp", **fields).min_p_level)
    assert next_token.truncation().cuts == () and next_token.truncation().kept == V
    assert [one.removed for one in next_token.truncation(temperature=0, top_k=3).cuts] == [0]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 0.0}, {"top_p": 0.8}, {"top_k": 6, "top_p": 0.95, "min_p": 0.02, "temperature": 1.5}]
)
def test_the_curve_is_drawn(next_token: NextToken, order: str, fields: dict, assert_nothing_clipped) -> None:
    data, ax = next_token.truncation(order=order, **fields), next_token.plot_truncation(order=order, **fields)
    assert len(texts(ax)) == 1 + len(data.cuts)
    assert texts(ax)[0].startswith(f"kept: {data.kept} token")
    for one, text in zip(data.cuts, texts(ax)[1:], strict=True):
        assert text.startswith(f"removed by {one.name} = {one.value:g}: {one.removed} token")
        lines = [line for line in ax.get_lines() if np.allclose(line.get_xdata(), one.kept + 0.5)]
        assert lines or not one.removed
    heights = ax.patches[0].get_data().values
    np.testing.assert_allclose(heights, data.prob[: data.kept][: len(heights)])
    assert ax.get_xscale() == ax.get_yscale() == "log" and ax.get_xlabel() and ax.get_ylabel()
    assert_nothing_clipped(ax)


def test_a_waterfall_follows_one_token_through_the_stages(next_token: NextToken) -> None:
    fields = {
        "logit_bias": {3: 1.0}, "repetition_penalty": 1.2, "presence_penalty": 0.5, "temperature": 0.5, "top_k": 3,
    }  # fmt: skip
    data = next_token._token_stages(3, **fields)
    assert data.stages == ("raw", "1 logit_bias", "2 repetition", "4 presence", "6 temperature", "7 top_k")
    assert data.settings == ("", "+1", "= 1.2", "= 0.5", "= 0.5", "= 3")
    assert data.label == "␣w3" and data.token_id == 3
    frame = next_token.stages_frame(tokens=[3], **fields)
    frame = frame[frame["active"]]
    np.testing.assert_array_equal(data.logit, frame["logit"])
    np.testing.assert_allclose(data.prob, frame["prob"], atol=1e-12)
    removed = frame["removed_by"].iloc[0]
    assert data.removed_by == ("top_k" if data.prob[-1] == 0 else "") and (removed == "top_k") == (data.prob[-1] == 0)
    other = next_token._token_stages(20, **fields, frequency_penalty=0.1)
    assert other.settings == ("", "no bias", "not seen", "not made", "not made", "= 0.5", "= 3")
    assert next_token._token_stages(3, frequency_penalty=0.1).settings[1] == "= 0.1 x 2", "it was made twice"
    early = next_token._token_stages("<|im_end|>", min_tokens=9)
    assert early.removed_by == "mask" and early.settings == ("", "min_tokens 9")
    assert next_token._token_stages(3, response_format={"type": "json_object"}).settings[1] == "grammar"
    assert next_token._token_stages(3, order="sglang", top_p=0.5).stages == ("raw", "7 top_p")


@pytest.mark.parametrize("token", [3, 20, "best", END])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.5, "top_k": 3},
        {"logit_bias": {3: -2.0}, "repetition_penalty": 1.2, "frequency_penalty": 0.5, "presence_penalty": 0.5,
         "min_tokens": 9, "temperature": 1.5, "top_k": 30, "top_p": 0.9, "min_p": 0.01},
    ],
)  # fmt: skip
def test_the_waterfall_is_drawn(next_token: NextToken, token: int | str, fields: dict, assert_nothing_clipped) -> None:
    token = int(next_token.ranking[0]) if token == "best" else token
    data, ax = next_token._token_stages(token, **fields), next_token.plot_stages(token, **fields)
    before = np.concatenate([[0], data.prob[:-1]])
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], np.abs(data.prob - before))
    np.testing.assert_allclose([bar.get_x() for bar in ax.patches], np.minimum(data.prob, before))
    notes = [text.get_text() for text in ax.texts]
    assert notes.count("removed") == (1 if data.removed_by else 0)
    assert notes[0].endswith(f"(logit {data.logit[0]:.2f})") and ("logit" in notes[-1]) != bool(data.removed_by)
    assert ax.yaxis_inverted(), "from top to bottom"
    ticks = [tick.get_text() for tick in ax.get_yticklabels()]
    assert ticks == [f"{stage} {setting}".rstrip() for stage, setting in zip(data.stages, data.settings, strict=True)]
    title = ax.get_title(loc="left")
    assert title.startswith(data.label) and ("removed by" in title) == bool(data.removed_by)
    assert_nothing_clipped(ax)


def test_the_title_of_a_long_token_stays_inside(next_token: NextToken, assert_nothing_clipped) -> None:
    data = next_token._token_stages(5)
    assert plot_stages(data).get_title(loc="left").count("\n") == 0
    with plt.rc_context({"figure.figsize": (4.0, 3.0)}):
        ax = plot_stages(data._replace(label="W" * 18))
    assert_nothing_clipped(ax)
    said = ax.get_title(loc="left")
    assert "\n" in said and said.replace("\n", " ") == f"{'W' * 18}: can be drawn, p = {probability(data.prob[-1])}"


def test_penalties_before_and_after(next_token: NextToken, assert_nothing_clipped) -> None:
    fields = {"repetition_penalty": 1.5, "frequency_penalty": 0.5, "logit_bias": {20: 6.0}}
    data = next_token.penalties(top=V, temperature=0.3, top_k=2, **fields)
    rows = {token: row for row, token in enumerate(data.token_ids)}
    assert set(data.shifts) == {"logit_bias", "repetition", "frequency"}, "presence is off"
    np.testing.assert_allclose(data.before, softmax(next_token.logits)[list(data.token_ids)], atol=1e-6)
    assert data.shifts["logit_bias"][rows[20]] == pytest.approx(6.0, abs=1e-5)
    np.testing.assert_allclose([data.shifts["frequency"][rows[i]] for i in (3, 11, 9)], [-1.0, -0.5, 0.0], atol=1e-5)
    moved = {token for token, row in rows.items() if data.shifts["repetition"][row] != 0}
    assert moved == {3, 4, 5, 11, 40}, "the prompt's tokens and those that were made"
    total = next_token.logits[list(data.token_ids)] + sum(data.shifts.values())
    np.testing.assert_allclose(data.after, softmax(total), atol=1e-6)
    larger = np.maximum(data.before, data.after)
    assert (np.diff(larger) <= 0).all()
    ax = next_token.plot_penalties(top=V, **fields)
    notes = {text.get_text() for text in ax.texts}
    assert "bias +6.00" in notes and len(notes) <= 6
    after = ax.collections[1]
    np.testing.assert_allclose(after.get_offsets()[:, 0], data.after)
    colours = after.get_facecolors()
    assert tuple(colours[rows[20]]) == to_rgba(palette.BLUE) and tuple(colours[rows[3]]) == to_rgba(palette.ORANGE)
    assert tuple(colours[rows[9]]) == to_rgba(palette.GREY)
    assert texts(ax) == ["before", "after: moved down", "after: moved up", "after: only the others moved"]
    assert_nothing_clipped(ax)


def test_without_a_penalty_there_is_nothing_to_show(next_token: NextToken) -> None:
    with pytest.raises(RequestError, match="no bias or penalty moves a token"):
        next_token.penalties(temperature=0.5, top_k=4)


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_everything_can_be_read_on_a_dark_ground_as_well(next_token: NextToken, style: str) -> None:
    fields = {"top_k": 8, "top_p": 0.9, "min_p": 0.05}
    # Another's style is the reader's own doing; it ends with the test.
    with plt.style.context(style):
        for ax in (
            next_token.plot_temperatures([0.5, 1.5], top=6, **fields),
            next_token.plot_truncation(**fields),
            next_token.plot_stages(int(next_token.ranking[0]), temperature=0.5, **fields),
            next_token.plot_penalties(logit_bias={3: 2.0}),
        ):
            ground = to_hex(ax.get_facecolor())
            assert ground == ("#000000" if style == "dark_background" else "#ffffff")
            for text in ax.findobj(Text):
                if text.get_text():
                    behind = text.get_bbox_patch()
                    assert contrast(to_hex(text.get_color()), ground) > 3, text.get_text()
                    assert behind is None or to_hex(behind.get_facecolor()) == ground
            outlines = [bar for bar in ax.patches if not bar.get_fill()]
            assert all(to_hex(bar.get_edgecolor()) == to_hex(plt.rcParams["text.color"]) for bar in outlines)
            plt.close(ax.figure)


def test_the_axes_given_are_drawn_on(next_token: NextToken, assert_nothing_clipped) -> None:
    for draw in (
        lambda ax: next_token.plot_truncation(top_k=5, ax=ax),
        lambda ax: next_token.plot_stages(3, top_k=5, ax=ax),
        lambda ax: next_token.plot_penalties(top=5, presence_penalty=1.0, ax=ax),
    ):
        figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
        assert draw(axes[1]) is axes[1]
        assert not axes[0].has_data() and axes[1].has_data() and plt.get_fignums() == [figure.number]
        assert_nothing_clipped(axes[1])
        plt.close(figure)
