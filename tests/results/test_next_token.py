from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import scipy.stats
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba

from llmlab.display import palette
from llmlab.distributions.step import CUTS
from llmlab.errors import ContextLengthError, RequestError
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.request import ChatRequest
from llmlab.results.next_token import NextToken
from llmlab.results.next_token_at import first_token
from llmlab.sampling.params import SamplingParams

V, END = 48, 47
FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "min_tokens",
)


class FakeBackend(LogitsBackend):
    """Forty-eight tokens with logits from a table; one id more than its tokenizer knows, as padded models have."""

    def __init__(self) -> None:
        self.logits = np.random.default_rng(5).normal(0, 2.0, V).astype(np.float32)
        self.token_bytes = tuple(f" w{i}".encode() for i in range(V - 2)) + (None,)
        self.end_ids = (END - 1,)
        self.token_names = {END - 1: "<|im_end|>"}
        self.asked = 0

    def render(self, request: ChatRequest) -> np.ndarray:
        return np.array([3, 4, 5], np.int32)

    def next_logits(self, prompt: np.ndarray, *, model: str | None = None) -> np.ndarray:
        self.asked += 1
        return self.logits

    def sampling_params(self, request: ChatRequest, *, seed: int, choice: int = 0) -> SamplingParams:
        return SamplingParams(seed=seed, choice=choice, **{name: getattr(request, name) for name in FIELDS})

    def allowed_tokens(self, request: ChatRequest, *, prompt: np.ndarray, made: np.ndarray) -> np.ndarray | None:
        """A grammar of even numbers."""
        return None if request.response_format is None else np.arange(V) % 2 == 0


@pytest.fixture(scope="module")
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture(scope="module")
def next_token(backend: FakeBackend) -> NextToken:
    return first_token(backend, ChatRequest.build("hello"))


@pytest.fixture(autouse=True)
def nothing_global() -> Iterator[None]:
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(float) - x.max())
    return e / e.sum()


def cut(p: np.ndarray, *, top_k: int, top_p: float, min_p: float) -> dict[str, np.ndarray]:
    """The contract's three cuts, written down from the table: which tokens each removes."""
    order = np.argsort(-p, kind="stable")
    gone: dict[str, np.ndarray] = {name: np.zeros(len(p), bool) for name in ("top_k", "top_p", "min_p")}
    gone["top_k"][order[top_k:]] = True
    left, before = p[~gone["top_k"]].sum(), 0.0
    for i in order[:top_k]:
        if before >= top_p:
            gone["top_p"][i] = True
        before += p[i] / left
    alive = ~gone["top_k"] & ~gone["top_p"]
    gone["min_p"] = alive & (p < min_p * p.max())
    return gone


def test_the_frame_has_the_raw_distribution_and_the_one_sampled_from(
    next_token: NextToken, backend: FakeBackend
) -> None:
    frame = next_token.frame(top=None, temperature=0.7, top_k=9, top_p=0.95, min_p=0.02)
    assert list(frame.columns) == ["token", "token_id", "bytes", "logprob", "sampling_logprob", "rank", "kept"]
    assert [str(t) for t in frame.dtypes] == ["category", "int64", "object", "float64", "float64", "int64", "bool"]
    order = np.argsort(-backend.logits, kind="stable")
    assert frame["token_id"].tolist() == order.tolist()
    assert frame["rank"].tolist() == list(range(1, V + 1))
    np.testing.assert_allclose(np.exp(frame["logprob"].to_numpy()), softmax(backend.logits)[order], atol=1e-6)
    p = softmax(backend.logits / 0.7)
    gone = cut(p, top_k=9, top_p=0.95, min_p=0.02)
    alive = ~(gone["top_k"] | gone["top_p"] | gone["min_p"])
    want = np.where(alive, p, 0) / p[alive].sum()
    np.testing.assert_allclose(np.exp(frame["sampling_logprob"].to_numpy()), want[order], atol=1e-6)
    assert frame["kept"].tolist() == alive[order].tolist()
    spelled = frame.set_index("token_id")
    assert spelled.loc[END - 1, ["token", "bytes"]].tolist() == ["<|im_end|>", None]
    assert spelled.loc[END, ["token", "bytes"]].tolist() == [f"<id {END}>", None], "padding beyond the tokenizer"
    assert spelled.loc[7, ["token", "bytes"]].tolist() == [" w7", b" w7"]


def test_the_request_gives_the_defaults_and_the_model_is_asked_once(backend: FakeBackend) -> None:
    before = backend.asked
    next_token = first_token(backend, ChatRequest.build("hello", top_k=3))
    assert next_token.frame(top=None)["kept"].sum() == 3
    assert next_token.frame(top=None, top_k=5)["kept"].sum() == 5
    assert next_token.frame(top=None, temperature=0)["kept"].sum() == 1
    assert len(next_token.frame()) == 20 and len(next_token.frame(top=2)) == 2
    assert backend.asked == before + 1
    with pytest.raises(RequestError, match="temperature"):
        next_token.frame(temperature=9)
    with pytest.raises(RequestError, match="order"):
        next_token.frame(order="alphabetical")
    with pytest.raises(ValueError, match="top must be"):
        next_token.frame(top=0)


def test_stages_show_each_step_on_the_way(next_token: NextToken, backend: FakeBackend) -> None:
    fields = {"logit_bias": {7: 5.0}, "repetition_penalty": 1.5, "temperature": 0.5, "top_k": 4}
    frame = next_token.stages_frame(top=None, **fields)
    assert list(frame.columns) == [
        "token", "token_id", "bytes", "number", "stage", "active", "logit", "logprob", "prob", "removed_by",
    ]  # fmt: skip
    dtypes = ["category", "int64", "object", "int64", "str", "bool", "float64", "float64", "float64", "str"]
    assert [str(t) for t in frame.dtypes] == dtypes
    names = ["raw", "logit_bias", "repetition", "frequency", "presence", "mask", "temperature", *CUTS]
    assert frame["stage"].tolist() == names * V and frame["number"].tolist() == list(range(10)) * V
    on = {"raw", "logit_bias", "repetition", "temperature", "top_k"}
    assert frame["active"].tolist() == [name in on for name in names] * V
    prob = frame.pivot(index="token_id", columns="stage", values="prob").to_numpy(dtype=float)
    columns = sorted(names)
    biased = backend.logits + 5.0 * (np.arange(V) == 7)
    np.testing.assert_allclose(prob[:, columns.index("logit_bias")], softmax(biased), atol=1e-6)
    seen = np.isin(np.arange(V), [3, 4, 5])
    penalised = np.where(seen, np.where(biased > 0, biased / 1.5, biased * 1.5), biased)
    np.testing.assert_allclose(prob[:, columns.index("repetition")], softmax(penalised), atol=1e-6)
    np.testing.assert_allclose(prob[:, columns.index("temperature")], softmax(penalised / 0.5), atol=1e-6)
    logit = frame.pivot(index="token_id", columns="stage", values="logit").to_numpy(dtype=float)
    np.testing.assert_allclose(logit[:, columns.index("presence")], penalised, atol=1e-6)
    np.testing.assert_allclose(logit[:, columns.index("temperature")], penalised / 0.5, atol=1e-5)
    data = next_token._token_stages(int(np.argmax(penalised)), **fields)
    np.testing.assert_allclose(data.logit[-2:], penalised.max() / 0.5, atol=1e-5)
    last = frame[frame["number"] == 9]
    assert last["removed_by"].isna().sum() == 4
    assert set(last["removed_by"].dropna()) == {"top_k"}
    np.testing.assert_array_equal(last["logprob"], next_token.frame(top=None, **fields)["sampling_logprob"])


def test_every_token_that_died_knows_its_stage(next_token: NextToken) -> None:
    fields = {
        "top_k": 20, "top_p": 0.9, "min_p": 0.1, "min_tokens": 1, "response_format": {"type": "json_object"},
    }  # fmt: skip
    frame = next_token.stages_frame(top=None, **fields)
    after = frame[frame["number"] == 9].set_index("token_id")
    assert set(after["removed_by"].dropna()) == {"mask", "top_k", "top_p", "min_p"}
    assert (after["removed_by"].isna() == (after["prob"] > 0)).all()
    assert (after["removed_by"] == "mask").sum() == V // 2 + 1, "odd ones, and an end that comes too early"
    for token, rows in frame.groupby("token_id"):
        gone = rows.loc[rows["prob"] == 0, "stage"]
        assert (gone.iloc[0] if len(gone) else None) == (rows["removed_by"].iloc[0] if len(gone) else None), token
    one = next_token.stages_frame(tokens=[" w7", b" w8", 9, "<|im_end|>"], **fields)
    assert one["token_id"].unique().tolist() == [7, 8, 9, END - 1]


@pytest.mark.parametrize(
    ("token", "words"),
    [(V, "0..47"), (-1, "0..47"), ("w7", "there is b' w7', id 7"), (" w7 w8", "not a single token"), (True, "an id")],
)
def test_a_token_that_is_not_there(next_token: NextToken, token: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        next_token.stages_frame(tokens=[token])
    assert caught.value.param == "token"


def test_what_makes_another_prompt_is_another_question(next_token: NextToken) -> None:
    with pytest.raises(RequestError, match="messages makes another prompt"):
        next_token.frame(messages="bye")


def test_temperatures_say_what_each_cut_removes(next_token: NextToken, backend: FakeBackend) -> None:
    temperatures = (0.3, 1.0, 2.0)
    data = next_token.temperatures(temperatures, top=10, top_k=8, top_p=0.95, min_p=0.2)
    order = np.argsort(-backend.logits, kind="stable")[:10]
    assert data.token_ids == tuple(order.tolist())
    assert data.settings == {"top_k": 8, "top_p": 0.95, "min_p": 0.2}
    seen = set()
    for row, t in enumerate(temperatures):
        p = softmax(backend.logits / t)
        gone = cut(p, top_k=8, top_p=0.95, min_p=0.2)
        alive = ~np.logical_or.reduce(list(gone.values()))
        np.testing.assert_allclose(data.prob[row], p[order], atol=1e-6)
        np.testing.assert_allclose(data.final[row], (np.where(alive, p, 0) / p[alive].sum())[order], atol=1e-6)
        assert data.kept[row] == alive.sum()
        assert data.removed_by[row] == tuple(next((c for c in gone if gone[c][i]), "") for i in order)
        seen |= set(data.removed_by[row])
        for name, where in gone.items():
            assert data.removed[name][row] == where.sum()
            np.testing.assert_allclose(data.removed_mass[name][row], p[where].sum(), atol=1e-6)
        np.testing.assert_allclose(data.min_p_level[row], 0.2 * p.max(), atol=1e-6)
    assert seen == {"", "top_k", "top_p", "min_p"}, "the case shows every cut at work"


def test_peers_orders_cut_other_tokens(next_token: NextToken) -> None:
    ours = next_token.temperatures((2.0,), top_p=0.8)
    theirs = next_token.temperatures((2.0,), top_p=0.8, order="llama.cpp")
    np.testing.assert_allclose(ours.prob, theirs.prob, atol=1e-6)
    assert theirs.kept[0] < ours.kept[0], "it measures the mass at temperature 1"
    assert np.isnan(next_token.temperatures((2.0,), min_p=0.1, order="llama.cpp").min_p_level).all()
    joint = next_token.temperatures((1.0,), top_k=3, top_p=0.5, order="sglang")
    assert set(joint.removed) == {"top_k", "top_p"}
    assert joint.kept[0] + joint.removed["top_k"][0] + joint.removed["top_p"][0] == V


def bars_of(ax: Any, row: int, *, tokens: int, filled: bool = True) -> list[Any]:
    """The bars of one temperature, or its outlines, in the order of the tokens; the last may be in several pieces."""
    found = [bar for bar in ax.patches if bar.get_fill() is filled and -row - 1e-9 <= bar.get_y() < -row + 0.99]
    places = [round(bar.get_x() + bar.get_width() / 2) for bar in found]
    return [bar for _, bar in sorted(zip(places, found, strict=True), key=lambda pair: pair[0]) if _ < tokens]


@pytest.mark.parametrize(
    "fields", [{}, {"top_k": 4}, {"top_p": 0.5}, {"min_p": 0.2}, {"top_k": 8, "top_p": 0.9, "min_p": 0.1}]
)
def test_the_plot_draws_the_distributions_and_their_cuts(
    next_token: NextToken, fields: dict[str, float], assert_nothing_clipped
) -> None:
    temperatures = (0.3, 1.0, 2.0)
    data = next_token.temperatures(temperatures, top=10, **fields)
    ax = next_token.plot_temperatures(temperatures, top=10, **fields)
    rows = [bars_of(ax, row, tokens=10) for row in range(3)]
    heights = np.array([[bar.get_height() for bar in row] for row in rows])
    scale = heights[0, 0] / data.prob[0, 0]
    np.testing.assert_allclose(heights, data.prob * scale, rtol=1e-6)
    for row in range(3):
        drawn = [bar.get_height() for bar in bars_of(ax, row, tokens=10, filled=False)]
        np.testing.assert_allclose(drawn, data.final[row][data.final[row] > 0] * scale, rtol=1e-6)
        rest = [bar.get_height() for bar in bars_of(ax, row, tokens=11)[10:]]
        np.testing.assert_allclose(sum(rest), (1 - data.prob[row].sum()) * scale, atol=1e-6)
    for row, cuts in zip(rows, data.removed_by, strict=True):
        kept = [bar.get_facecolor() == to_rgba(palette.BLUE) for bar in row]
        assert kept == [not name for name in cuts]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["0.3", "1", "2"]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[2 : 2 + len(fields)] == [f"removed by {name} = {value:g}" for name, value in fields.items()]
    if "top_k" in fields:
        assert any(list(line.get_xdata()) == [fields["top_k"] - 0.5] * 2 for line in ax.get_lines())
    notes = [text.get_text() for text in ax.texts if text.get_text().startswith("keeps")]
    assert [note.splitlines()[0] for note in notes] == [f"keeps {n}" for n in data.kept]
    assert_nothing_clipped(ax)


def test_greedy_and_biased_distributions_are_drawn_too(next_token: NextToken, assert_nothing_clipped) -> None:
    data = next_token.temperatures((0.0, 1.0), top=6, logit_bias={40: 20.0}, top_k=3)
    assert data.token_ids[0] == 40, "the most likely after the bias comes first"
    assert data.kept.tolist() == [1, 3]
    assert_nothing_clipped(next_token.plot_temperatures((0.0, 1.0), top=6, logit_bias={40: 20.0}, top_k=3))
    with pytest.raises(ValueError, match="temperatures is empty"):
        next_token.temperatures(())
    figure, ax = plt.subplots(layout="constrained")
    assert next_token.plot_temperatures(ax=ax) is ax


def test_small_axes_have_what_fits(next_token: NextToken, assert_nothing_clipped) -> None:
    figure, ax = plt.subplots(figsize=(4.4, 3.4), layout="constrained")
    fields = {"top_k": 8, "top_p": 0.9, "min_p": 0.05}
    next_token.plot_temperatures(np.linspace(0, 2, 7), top=6, ax=ax, **fields)
    assert_nothing_clipped(ax)
    assert [tick.get_text() for tick in ax.get_yticklabels()][1] == "0.3333"
    notes = [text for text in ax.texts if text.get_text().startswith("keeps")]
    boxes = [text.get_window_extent() for text in notes]
    assert len(notes) == 7
    assert not any(one.overlaps(other) for one, other in zip(boxes, boxes[1:], strict=False))


def test_of_many_tokens_those_are_named_that_stand_clear(next_token: NextToken, assert_nothing_clipped) -> None:
    _, ax = plt.subplots(figsize=(5, 4), layout="constrained")
    next_token.plot_temperatures([1.0], top=V, ax=ax)
    assert_nothing_clipped(ax)
    ticks = ax.get_xticks()
    names = [label.get_text() for label in ax.get_xticklabels()]
    shown = [at for at, name in zip(ticks, names, strict=True) if name]
    inches = np.diff(ax.transData.transform([(at, 0) for at in shown])[:, 0]) / ax.figure.dpi
    assert 5 < len(shown) < V and inches.min() > 0.12
    assert next_token.token_names.label(int(next_token.ranking[shown[1]])) == names[list(ticks).index(shown[1])]
    few = next_token.plot_temperatures([1.0], top=12)
    assert [label.get_text() for label in few.get_xticklabels()][12:] == ["all others"]


def test_it_introduces_itself(next_token: NextToken) -> None:
    assert repr(next_token) == "<the token after a prompt of 3, over a vocabulary of 48>"
    assert "&lt;the token after" in next_token._repr_html_() and "sampling_logprob" in next_token._repr_html_()


@pytest.mark.parametrize(
    ("asked", "param"), [({"messages": "word " * 600}, "messages"), ({"prompt": [5] * 600}, "prompt")]
)
def test_a_prompt_that_fills_the_window_names_its_field(demo, asked, param):
    with pytest.raises(ContextLengthError, match="which leaves no room in the context of 512") as caught:
        demo.next_token(**asked)
    assert caught.value.param == param


def test_the_public_names_are_those_a_reader_can_use(next_token: NextToken) -> None:
    public = {name for name in dir(next_token) if not name.startswith("_")}
    assert public == {
        "choice", "drawn", "entropy", "flip_points_frame", "frame", "logits", "logprobs", "made", "order", "penalties",
        "plot", "plot_penalties", "plot_stages", "plot_temperatures", "plot_truncation", "probs", "prompt_ids",
        "ranking", "request", "sample", "sampling_logprobs", "seed", "stages_frame", "sweep", "temperatures",
        "token_names", "top", "truncation",
    }  # fmt: skip
    assert all((getattr(NextToken, name, None).__doc__ or "") for name in public if hasattr(NextToken, name))


def test_the_distribution_that_is_sampled_from_as_an_array(next_token: NextToken) -> None:
    fields = {"temperature": 0.7, "top_k": 9, "order": "vllm"}
    found = next_token.sampling_logprobs(**fields)
    assert found.shape == (V,) and np.exp(found).sum() == pytest.approx(1.0) and np.isfinite(found).sum() == 9
    frame = next_token.frame(top=None, **fields)
    np.testing.assert_array_equal(found[frame["token_id"].to_numpy(int)], frame["sampling_logprob"])


def test_the_raw_distribution_as_probabilities(next_token: NextToken) -> None:
    probs = next_token.probs
    wide = next_token.logits.astype(np.float64)
    np.testing.assert_allclose(probs, np.exp(wide) / np.exp(wide).sum(), rtol=1e-12)
    assert next_token.entropy == pytest.approx(scipy.stats.entropy(probs), abs=1e-12)
    assert isinstance(next_token.entropy, float)


def test_the_most_likely_tokens(next_token: NextToken) -> None:
    found = next_token.top(5, top_k=2, temperature=0.5)
    assert [one.token_id for one in found] == next_token.ranking[:5].tolist()
    assert [one.token for one in found] == [next_token.token_names.text(one.token_id) for one in found]
    assert [one.prob for one in found] == pytest.approx(next_token.probs[next_token.ranking[:5]].tolist())
    two = next_token.probs[next_token.ranking[:2]] ** 2
    assert [one.sampling_prob for one in found] == pytest.approx([*(two / two.sum()), 0, 0, 0], rel=1e-5)
    assert found[0]._fields == ("token", "token_id", "prob", "sampling_prob")
    assert len(next_token.top(1000)) == V
    with pytest.raises(RequestError, match="count must be at least 1"):
        next_token.top(0)


def test_it_plots_itself_at_its_own_temperature(next_token: NextToken, assert_nothing_clipped) -> None:
    ax = next_token.plot(top=6, temperature=0.7, top_k=3)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0.7"]
    shown = next_token.temperatures([0.7], top=6, top_k=3)
    heights = [bar.get_height() for bar in bars_of(ax, 0, tokens=6)]
    np.testing.assert_allclose(np.array(heights) / max(heights), shown.prob[0] / shown.prob[0].max(), rtol=1e-6)
    assert_nothing_clipped(ax)
