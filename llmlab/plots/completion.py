"""Plots of a completion: logprobs, entropy and surprisal along its tokens, and the alternatives at one position."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmlab.display import palette
from llmlab.plots.given import check_data, choice_rows
from llmlab.plots.labels import (
    TOKEN_SIZE,
    axis_labels,
    font_glyphs,
    frame_labels,
    length,
    longest,
    name_ticks,
    points,
    room_below,
    room_beside,
    shortened,
    tick_size,
    token_axis,
    token_labels,
)
from llmlab.plots.room import drawn
from llmlab.plots.style import (
    LABELLED,
    RAW,
    SAMPLING,
    fineness,
    grid,
    inches,
    lay_out,
    legend_above,
    new_axes,
    numbers,
    open_frame,
    say_nothing_known,
    thickness,
    title,
    write,
)
from llmlab.protocol.arguments import number, place, whole
from llmlab.protocol.completion import Choice
from llmlab.text.numbers import probability

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_FRAME = "Result.logprobs_frame()"
#: A token of lower raw probability than this is marked as a surprise.
SURPRISE = 0.1
#: The most surprising tokens that are named where not every token has its label.
_MOST_SURPRISES = 12
#: The size of the probabilities beside bars.
_VALUES = "x-small"
#: The distance between two upright labels, in heights of a token's label.
_APART = 1.2


class Alternatives(NamedTuple):
    """The data of one position's alternatives, for a plot: best first by raw probability, the sampled token included.

    Probabilities are NaN where they are not known.
    """

    position: int
    labels: tuple[str, ...]
    token_ids: tuple[int, ...]
    prob: np.ndarray  #: [K], raw
    sampling_prob: np.ndarray  #: [K]
    sampled: int  #: the row of the sampled token
    rank: int  #: the sampled token's rank by raw probability, from 1; -1 where it is not known


def alternatives(
    choice: Choice, position: int, *, top: int = 10, names: Mapping[int, str] | None = None
) -> Alternatives:
    """The best alternatives at a position and the sampled token.

    Args:
        choice: the choice.
        position: the position; a negative one counts from the end.
        top: the number of alternatives. A sampled token that is not among them is added as the last row.
        names: names of control tokens by id.

    Raises:
        IndexError: there is no such position.
        RequestError: `top` is no integer of at least 0.
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


@drawn
def plot_logprobs(frame: pd.DataFrame, *, choice: int = 0, surprise: float = SURPRISE, ax: Axes | None = None) -> Axes:
    """Plot how likely each token of a choice was: raw and sampling logprob, and the raw distribution's entropy.

    Tokens of a lower raw probability than `surprise` are ringed; a logprob of -inf is an arrow at the bottom. The band
    reaches down to minus the entropy: the logprob to be expected of a token sampled from the raw distribution. Values
    that are not known are left out.

    Args:
        frame: `Result.logprobs_frame()`, with logprobs and entropies in nats.
        choice: the index of the choice.
        surprise: a probability.
        ax: where to draw; by default a new figure.
    """
    own = choice_rows(frame, choice, ["logprob", "sampling_logprob", "entropy"], source=_FRAME)
    surprise = number("surprise", surprise, 0, 1)
    T, labels = len(own), axis_labels(own)
    ax = new_axes(ax, width=min(max(4.8, 0.17 * T + 1.5), 10.0), height=3.9, below=longest(labels))
    at, fine = np.arange(T), fineness(ax, T)
    raw, sampling, entropy = (numbers(own[name]) for name in ("logprob", "sampling_logprob", "entropy"))
    if np.isfinite(entropy).any():
        ax.bar(at, -entropy, 1.0, color=palette.SKY, alpha=0.3, linewidth=0, label="−entropy (expected logprob)")
    for values, (colour, marker, line), size, name in (
        (sampling, SAMPLING, 4.0, "sampling logprob"),
        (raw, RAW, 4.5, "raw logprob"),
    ):
        if not np.isnan(values).all():
            ax.plot(
                at, np.where(np.isinf(values), np.nan, values), marker=marker, linestyle=line, color=colour,
                markersize=size * fine, linewidth=1.5 * fine, label=name,
            )  # fmt: skip
            # A probability of zero has no place on the axis: an arrow at its foot.
            zero = at[np.isneginf(values)]
            ax.plot(zero, np.full(len(zero), 0.02), "v", color=colour, transform=ax.get_xaxis_transform())
    low = np.nonzero((np.exp(raw) < surprise) & np.isfinite(raw))[0]
    if len(low):
        ax.plot(
            low, raw[low], "o", markersize=11 * fine, markerfacecolor="none", markeredgecolor=palette.VERMILION,
            markeredgewidth=1.6 * fine, label=f"surprise (p < {surprise:g})",
        )  # fmt: skip
    ax.set_ylabel("logprob (nats)")
    grid(ax)
    values = np.concatenate([raw, sampling, -entropy])
    lowest = min(values[np.isfinite(values)].min(initial=0.0), -1e-3)
    ax.set_ylim(1.08 * lowest, -0.06 * lowest)
    token_axis(ax, axis_labels(own, room=room_below(ax)), tokens=T)
    if T > LABELLED:
        _name_surprises(ax, own, sorted(low.tolist(), key=lambda t: float(raw[t])))
    if not legend_above(ax, columns=2, centred=True, marker_scale=thickness() / fine):
        say_nothing_known(ax, "logprobs", tokens=T)
    return ax


@drawn
def plot_top_logprobs(data: Alternatives, *, ax: Axes | None = None) -> Axes:
    """Plot the probability of each alternative at a position, raw and sampling; the sampled token is marked.

    The last bars are what the alternatives leave to all other tokens.

    Args:
        data: from `alternatives`.
        ax: where to draw; by default a new figure.
    """
    data = check_data(data, Alternatives, source="llmlab.plots.alternatives(choice, position)")
    raw, sampling = data.prob, data.sampling_prob
    if np.nan_to_num(rest := [_others(raw), _others(sampling)]).max() > 0:
        raw, sampling = np.append(raw, rest[0]), np.append(sampling, rest[1])
    known = not np.isnan(data.sampling_prob).all()
    rows = len(raw)
    ax = new_axes(ax, width=5.8, height=0.38 * rows + 1.7)
    at = np.arange(rows)
    height = 0.4 if known else 0.7
    ax.barh(at - (0.2 if known else 0), np.nan_to_num(raw), height, color=RAW[0], label="raw")
    if known:
        ax.barh(
            at + 0.2, np.nan_to_num(sampling), height, color=SAMPLING[0], hatch="////", edgecolor="white", linewidth=0,
            label="sampling",
        )  # fmt: skip
    sign = "▸" if ord("▸") in font_glyphs() else ">"
    names = [f"{sign} {name}" if row == data.sampled else name for row, name in enumerate(data.labels)]
    room, size = room_beside(ax), tick_size("y")
    named = [shortened(name, room=room, size=size) for name in names] + ["all others"] * (rows - len(names))
    name_ticks(ax.yaxis, at, named, fontsize=size)
    ax.get_yticklabels()[data.sampled].set_color(palette.VERMILION)
    ax.set_ylim(rows - 0.4, -0.6)
    largest = float(np.nan_to_num([raw, sampling]).max(initial=0))
    ax.set_xlim(0, largest or 1.0)
    if np.isnan(data.prob).all() and not known:
        say_nothing_known(ax, "probabilities", tokens=rows)
    ax.set_xlabel("probability")
    rank = f", rank {data.rank}" if data.rank > 0 else ""
    title(ax, f"position {data.position}, {sign} sampled{rank}")
    legend_above(ax, columns=2)
    open_frame(ax)
    lay_out(ax)
    _write_values(ax, raw, sampling if known else None)
    return ax


def _others(prob: np.ndarray) -> float:
    """What probabilities that are known to six decimals leave for all other tokens."""
    rest = 1 - float(prob.sum())
    return 0.0 if rest < 1e-6 else rest


@drawn
def plot_entropy(frame: pd.DataFrame, *, choice: int = 0, ax: Axes | None = None) -> Axes:
    """Plot how certain the model was at each token of a choice: raw and sampling entropy, and the tokens kept.

    The number of tokens that the sampler kept has a logarithmic axis of its own on the right.

    Args:
        frame: `Result.logprobs_frame()`, with entropies in nats.
        choice: the index of the choice.
        ax: where to draw; by default a new figure.
    """
    own = choice_rows(frame, choice, ["entropy", "sampling_entropy", "kept"], source=_FRAME)
    T, labels = len(own), axis_labels(own)
    ax = new_axes(ax, width=min(max(5.6, 0.17 * T + 1.8), 10.0), height=4.0, below=longest(labels))
    at, fine = np.arange(T), fineness(ax, T)
    for column, (colour, marker, line), name in (
        ("entropy", RAW, "entropy, raw"),
        ("sampling_entropy", SAMPLING, "entropy, sampling"),
    ):
        values = numbers(own[column])
        if not np.isnan(values).all():
            ax.plot(
                at, values, marker=marker, linestyle=line, color=colour, markersize=4 * fine, linewidth=1.2 * fine,
                label=name,
            )  # fmt: skip
    ax.set_ylabel("entropy (nats)")
    ax.set_ylim(bottom=0)
    handles, names = ax.get_legend_handles_labels()
    kept = numbers(own["kept"])
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
    token_axis(ax, axis_labels(own, room=room_below(ax)), tokens=T)
    grid(ax)
    if not legend_above(ax, handles, names, columns=3, centred=True, marker_scale=thickness() / fine):
        say_nothing_known(ax, "entropy", tokens=T)
    return ax


@drawn
def plot_surprisal(frame: pd.DataFrame, *, choice: int = 0, ax: Axes | None = None) -> Axes:
    """Plot the surprisal of each token of a choice in bits, beside the surprisal to be expected (the entropy).

    Args:
        frame: `Result.surprisal_frame()`.
        choice: the index of the choice.
        ax: where to draw; by default a new figure.
    """
    own = choice_rows(frame, choice, ["bits", "expected_bits"], source="Result.surprisal_frame()")
    T, labels = len(own), axis_labels(own)
    ax = new_axes(ax, width=min(max(5.2, 0.17 * T + 1.5), 10.0), height=3.8, below=longest(labels))
    bits, expected = numbers(own["bits"]), numbers(own["expected_bits"])
    finite = np.where(np.isfinite(bits), bits, np.nan)
    if np.isnan(bits).all():
        say_nothing_known(ax, "surprisal", tokens=T)
    else:
        ax.bar(np.arange(T), finite, 0.8, color=palette.BLUE, label="surprisal")
    fine = fineness(ax, T)
    if not np.isnan(expected).all():
        ax.plot(
            np.arange(T), expected, "s", color=palette.ORANGE, markersize=4.5 * fine, label="expected (entropy)"
        )  # fmt: skip
    mean = float(np.nanmean(finite)) if np.isfinite(bits).any() else math.nan
    if not math.isnan(mean):
        ax.axhline(
            mean, color=palette.VERMILION, linestyle="--", linewidth=1.2 * thickness(), label=f"mean {mean:.2f} bits"
        )
    ax.set_ylabel("surprisal (bits)")
    ax.set_ylim(bottom=0)
    token_axis(ax, axis_labels(own, room=room_below(ax)), tokens=T)
    grid(ax)
    legend_above(ax, columns=3, centred=True, marker_scale=thickness() / fine)
    return ax


def _name_surprises(ax: Axes, own: pd.DataFrame, positions: Sequence[int]) -> None:
    """Write labels under the points at the first of these positions that have room beside each other."""
    if not positions:
        return
    lowest, highest = ax.get_ylim()
    ax.set_ylim(lowest - 0.25 * (highest - lowest), highest)
    apart = _APART * points(TOKEN_SIZE) / 72 * len(own) / inches(ax)
    named: list[int] = []
    for t in positions:
        if len(named) < _MOST_SURPRISES and all(abs(t - other) >= apart for other in named):
            named.append(t)
    rows = own.iloc[named]
    for t, label, *values in zip(
        named, frame_labels(rows), numbers(rows["logprob"]), numbers(rows["sampling_logprob"]), strict=True
    ):
        end = (float(t), max(float(np.nanmin(values)), lowest))
        write(ax, label, end, (0, -8), rotation=90, ha="center", va="top", fontsize=TOKEN_SIZE)


def _write_values(ax: Axes, raw: np.ndarray, sampling: np.ndarray | None) -> None:
    """Write each probability at the end of its bar; both of a row in one text where two have no room."""
    if np.isnan(raw).all() and (sampling is None or np.isnan(sampling).all()):
        return
    rows = len(raw)
    pitch = 72 * ax.get_window_extent().height / ax.figure.dpi / rows
    apart = sampling is None or 0.4 * pitch >= points(_VALUES)
    shown = raw if sampling is None else np.stack([raw, sampling], axis=-1)
    texts = [[probability(float(value)) for value in row] for row in np.reshape(shown, (rows, -1))]
    # Room on the right for the longest text.
    written = [text for row in texts for text in row] if apart else [" | ".join(row) for row in texts]
    wide = max((length(text, size=_VALUES) for text in written), default=0.0) + 0.1
    right = ax.get_xlim()[1]
    ax.set_xlim(0, right * max(inches(ax) / max(inches(ax) - wide, 0.5), 1.0))
    for row, (values, row_texts) in enumerate(zip(np.reshape(shown, (rows, -1)), texts, strict=True)):
        ends = np.nan_to_num(values)
        if apart:
            shift = (0.0,) if sampling is None else (-0.2, 0.2)
            for end, text, up, value in zip(ends, row_texts, shift, values, strict=True):
                if not np.isnan(value):
                    write(ax, text, (float(end), row + up), (3, 0), va="center", fontsize=_VALUES)
        elif not np.isnan(values).all():
            write(ax, " | ".join(row_texts), (float(ends.max()), row), (3, 0), va="center", fontsize=_VALUES)
