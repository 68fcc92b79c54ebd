"""Pictures of a completion: its trace of logprobs, and the alternatives at a position.

Data first, drawing second: each plot takes a small named tuple (or a frame) that can be looked at by itself, draws on
the axes it is given, and sets no global style.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmlab.display import palette
from llmlab.plots.style import (
    _APART,
    _LINES,
    _MOST_SURPRISES,
    LABELLED,
    TOKEN_SIZE,
    _finish,
    _glyphs,
    _token_axis,
    _written,
    fineness,
    new_axes,
    say_nothing_known,
    token_labels,
)
from llmlab.protocol.arguments import place, whole
from llmlab.protocol.completion import Choice

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

#: A token of lower raw probability than this is marked as a surprise.
SURPRISE = 0.1


class Trace(NamedTuple):
    """What the trace of T tokens draws: labels for an axis, natural logs, nats; NaN where a figure is not known."""

    labels: tuple[str, ...]
    logprob: np.ndarray
    sampling_logprob: np.ndarray
    entropy: np.ndarray


class Alternatives(NamedTuple):
    """What the alternatives at a position draw, best first by raw probability; the sampled token is always there."""

    position: int
    labels: tuple[str, ...]
    token_ids: tuple[int, ...]
    prob: np.ndarray
    sampling_prob: np.ndarray
    sampled: int  #: which of the rows was drawn
    rank: int  #: its 1-based rank in the raw law, or -1


def trace(choice: Choice, *, names: Mapping[int, str] | None = None) -> Trace:
    """The logprob trace of one choice, for `plot_logprobs`."""
    tokens = choice.tokens
    return Trace(
        labels=token_labels(tokens.bytes, tokens.ids.tolist(), names),
        logprob=tokens.logprob,
        sampling_logprob=tokens.sampling_logprob,
        entropy=tokens.entropy,
    )


def alternatives(
    choice: Choice, position: int, *, top: int = 10, names: Mapping[int, str] | None = None
) -> Alternatives:
    """The `top` best alternatives at a position (negative: from the end) and the token that was drawn.

    Raises:
        IndexError: there is no such position.
    """
    tokens = choice.tokens
    at, top = place(position, among=tokens, choice=choice.index), whole("top", top, least=0)
    there = [a for a, raw in enumerate(tokens.top_bytes[at]) if tokens.top_ids[at, a] != -1 or raw is not None][:top]
    raw = [tokens.top_bytes[at][a] for a in there]
    ids = [int(tokens.top_ids[at, a]) for a in there]
    logprob = [float(tokens.top_logprob[at, a]) for a in there]
    sampling = [float(tokens.top_sampling_logprob[at, a]) for a in there]
    drawn = (int(tokens.ids[at]), tokens.bytes[at])
    found = [a for a, (i, b) in enumerate(zip(ids, raw, strict=True)) if (i == drawn[0] if i != -1 else b == drawn[1])]
    if not found:
        found = [len(ids)]
        ids.append(drawn[0])
        raw.append(drawn[1])
        logprob.append(float(tokens.logprob[at]))
        sampling.append(float(tokens.sampling_logprob[at]))
    return Alternatives(
        position=at,
        labels=token_labels(raw, ids, names),
        token_ids=tuple(ids),
        prob=np.exp(logprob),
        sampling_prob=np.exp(sampling),
        sampled=found[0],
        rank=int(tokens.rank[at]),
    )


def plot_logprobs(data: Trace, *, surprise: float = SURPRISE, ax: Axes | None = None) -> Axes:
    """How likely each token of a completion was: raw and sampling logprob, and the law's entropy.

    Surprises (raw probability under `surprise`) are ringed; a logprob of -inf is an arrow at the foot. The band
    reaches down to minus the raw law's entropy, which is the logprob to expect of a draw from it. What is not
    known is left out.
    """
    T = len(data.labels)
    written = data.labels if T <= LABELLED else ()
    ax = new_axes(ax, width=min(max(4.8, 0.17 * T + 1.5), 10.0), height=3.9, below=written)
    at, fine = np.arange(T), fineness(T)
    raw, sampling, entropy = data.logprob, data.sampling_logprob, data.entropy
    if np.isfinite(entropy).any():
        ax.bar(at, -entropy, 1.0, color=palette.SKY, alpha=0.3, linewidth=0, label="−entropy (expected logprob)")
    for values, style, size, colour, name in (
        (sampling, "s--", 4.0, palette.ORANGE, "sampling logprob"),
        (raw, "o-", 4.5, palette.BLUE, "raw logprob"),
    ):
        if not np.isnan(values).all():
            ax.plot(
                at, np.where(np.isinf(values), np.nan, values), style, color=colour, markersize=size * fine,
                linewidth=1.5 * fine, label=name,
            )  # fmt: skip
            # A probability of zero has no place on the axis: an arrow at its foot.
            zero = at[np.isneginf(values)]
            ax.plot(zero, np.full(len(zero), 0.02), "v", color=colour, transform=ax.get_xaxis_transform())
    low = np.nonzero((raw < np.log(surprise)) & np.isfinite(raw))[0]
    if len(low):
        ax.plot(
            low, raw[low], "o", markersize=11 * fine, markerfacecolor="none", markeredgecolor=palette.VERMILION,
            markeredgewidth=1.6 * fine, label=f"surprise (p < {surprise:g})",
        )  # fmt: skip
    ax.set_ylabel("logprob (nats)")
    ax.grid(axis="y", color="0.5", alpha=0.25, linewidth=0.6)
    figures = np.concatenate([raw, sampling, -entropy])
    lowest = min(figures[np.isfinite(figures)].min(initial=0.0), -1e-3)
    ax.set_ylim(1.08 * lowest, -0.06 * lowest)
    if T <= LABELLED:
        ax.set_xticks(at, data.labels, rotation=90, parse_math=False, fontsize=TOKEN_SIZE)
        ax.set_xlabel("token")
    else:
        ax.set_xlabel("position (tokens)")
        _name_surprises(ax, data, sorted(low.tolist(), key=lambda t: float(raw[t])))
    ax.set_xlim(-0.7, max(T, 1) - 0.3)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9, markerscale=1 / fine
        )
    else:
        say_nothing_known(ax, "logprobs", tokens=T)
    return ax


def plot_alternatives(data: Alternatives, *, ax: Axes | None = None) -> Axes:
    """What else could have come at a position: each alternative in both laws, the drawn one marked."""
    rows = len(data.labels)
    ax = new_axes(ax, width=5.8, height=0.38 * rows + 1.7)
    at = np.arange(rows)
    raw, sampling = (np.nan_to_num(x) for x in (data.prob, data.sampling_prob))
    known = not np.isnan(data.sampling_prob).all()
    height = 0.4 if known else 0.7
    bars = ax.barh(at - (0.2 if known else 0), raw, height, color=palette.BLUE, label="raw")
    if known:
        drawn = ax.barh(at + 0.2, sampling, height, color=palette.ORANGE, hatch="////", edgecolor="white", linewidth=0)
        drawn.set_label("sampling")
    for bar, value in zip(bars, data.prob, strict=True):
        _value(ax, bar, value)
    if known:
        for bar, value in zip(drawn, data.sampling_prob, strict=True):
            _value(ax, bar, value)
    sign = "▸" if ord("▸") in _glyphs() else ">"
    marked = [f"{sign} {name}" if row == data.sampled else name for row, name in enumerate(data.labels)]
    ax.set_yticks(at, marked, parse_math=False)
    ax.get_yticklabels()[data.sampled].set_color(palette.VERMILION)
    ax.invert_yaxis()
    # Room on the right for the figures at the bars' ends.
    longest = max(raw.max(initial=0), sampling.max(initial=0))
    ax.set_xlim(0, 1.18 * longest or 1.0)
    if np.isnan(data.prob).all() and not known:
        say_nothing_known(ax, "probabilities", tokens=rows)
    ax.set_xlabel("probability")
    rank = f", rank {data.rank}" if data.rank > 0 else ""
    ax.set_title(f"position {data.position}, {sign} drawn{rank}", fontsize=10, loc="left", pad=22)
    # Above the bars, which in a flat law all reach to the right.
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, fontsize=9, borderaxespad=0.2)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _name_surprises(ax: Axes, data: Trace, positions: Sequence[int]) -> None:
    """Labels under the points at the first of these positions that stand clear of each other, and room for them."""
    if not positions:
        return
    lowest, highest = ax.get_ylim()
    ax.set_ylim(lowest - 0.25 * (highest - lowest), highest)
    apart = _APART * len(data.labels) / (ax.get_window_extent().width / ax.figure.dpi)
    named: list[int] = []
    for t in positions:
        if len(named) < _MOST_SURPRISES and all(abs(t - other) >= apart for other in named):
            named.append(t)
    for t in named:
        below = float(np.nanmin([data.logprob[t], data.sampling_logprob[t]]))
        ax.annotate(
            data.labels[t], (t, max(below, lowest)), (0, -8), textcoords="offset points", rotation=90, ha="center",
            va="top", fontsize=TOKEN_SIZE, parse_math=False,
        )  # fmt: skip


def _value(ax: Axes, bar: Rectangle, value: float) -> None:
    if not np.isnan(value):
        text = "0" if value == 0 else f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}"
        ax.annotate(
            text, (bar.get_width(), bar.get_y() + bar.get_height() / 2), (3, 0), textcoords="offset points",
            va="center", fontsize=7.5,
        )  # fmt: skip


def plot_certainty(frame: pd.DataFrame, *, choice: int = 0, ax: Axes | None = None) -> Axes:
    """How sure the model was along a completion: both laws' entropies, and how many tokens the sampler kept.

    The count has an axis of its own on the right, logarithmic.

    Args:
        frame: of `logprobs_frame()`.
        choice: whose.
        ax: where; by default a new figure.
    """
    own = frame[frame["choice"] == choice]
    T, written = len(own), _written(own)
    ax = new_axes(ax, width=min(max(5.6, 0.17 * T + 1.8), 10.0), height=4.0, below=written)
    at, fine = np.arange(T), fineness(T)
    kept = own["kept"].to_numpy(float, na_value=np.nan)
    for column, (colour, marker, dashes), name in (
        ("entropy", _LINES[0], "entropy, raw"),
        ("sampling_entropy", (palette.ORANGE, "s", "--"), "entropy, sampling"),
    ):
        values = own[column].to_numpy(float, na_value=np.nan)
        if not np.isnan(values).all():
            ax.plot(
                at, values, marker=marker, linestyle=dashes, color=colour, markersize=4 * fine, linewidth=1.2 * fine,
                label=name,
            )  # fmt: skip
    ax.set_ylabel("entropy (nats)")
    ax.set_ylim(bottom=0)
    handles, names = ax.get_legend_handles_labels()
    if not np.isnan(kept).all():
        right = ax.twinx()
        right.set_yscale("log")
        right.bar(at, np.maximum(kept, 1) - 0.8, 0.9, bottom=0.8, color=palette.GREY, alpha=0.3, label="tokens kept")
        right.set_ylim(0.8, max(np.nanmax(kept) * 1.6, 12))
        right.set_ylabel("tokens kept (log scale)")
        right.yaxis.set_major_formatter("{x:g}")
        # The curves stay in front of the bars.
        ax.set_zorder(right.get_zorder() + 1)
        ax.patch.set_visible(False)
        more, also = right.get_legend_handles_labels()
        handles, names = [*handles, *more], [*names, *also]
    _token_axis(ax, written, tokens=T)
    ax.grid(axis="y", color="0.5", alpha=0.25, linewidth=0.6)
    if handles:
        ax.legend(
            handles, names, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9,
            markerscale=1 / fine,
        )  # fmt: skip
    else:
        say_nothing_known(ax, "entropy", tokens=T)
    return ax


def plot_surprisal(frame: pd.DataFrame, *, choice: int = 0, ax: Axes | None = None) -> Axes:
    """How many bits each token took, beside the bits to be expected there (the law's entropy).

    Args:
        frame: of `surprisal_frame()`.
        choice: whose.
        ax: where; by default a new figure.
    """
    own = frame[frame["choice"] == choice]
    T, written = len(own), _written(own)
    ax = new_axes(ax, width=min(max(5.2, 0.17 * T + 1.5), 10.0), height=3.8, below=written)
    bits = own["bits"].to_numpy(float, na_value=np.nan)
    expected = own["expected_bits"].to_numpy(float, na_value=np.nan)
    finite = np.where(np.isfinite(bits), bits, np.nan)
    mean = float(np.nanmean(finite)) if np.isfinite(bits).any() else math.nan
    if np.isnan(bits).all():
        say_nothing_known(ax, "surprisal", tokens=T)
    else:
        ax.bar(np.arange(T), finite, 0.8, color=palette.BLUE, label="surprisal")
    if not np.isnan(expected).all():
        size = 4.5 * fineness(T)
        ax.plot(np.arange(T), expected, "s", color=palette.ORANGE, markersize=size, label="expected (entropy)")
    if not math.isnan(mean):
        ax.axhline(mean, color=palette.VERMILION, linestyle="--", linewidth=1.2, label=f"mean {mean:.2f} bits")
    ax.set_ylabel("surprisal (bits)")
    ax.set_ylim(bottom=0)
    _token_axis(ax, written, tokens=T)
    _finish(ax, columns=3, fine=fineness(T))
    return ax
