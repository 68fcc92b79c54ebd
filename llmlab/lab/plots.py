"""Pictures of a completion: its trace of logprobs, and the alternatives at a position.

Data first, drawing second: each plot takes a small named tuple (or a frame) that can be looked at by itself, draws on
the axes it is given, and sets no global style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmlab.backends.protocol import Choice
from llmlab.lab import palette
from llmlab.lab.arguments import check_ax, place, whole
from llmlab.lab.spelling import label, name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

#: A token of lower raw probability than this is marked as a surprise.
SURPRISE = 0.1
#: More tokens than this get a numbered axis, where only the most surprising ones have their label.
LABELLED, _MOST_SURPRISES = 60, 12
#: How tokens along an axis are written: points, and the inches below the axis that a plot's own height has room for.
TOKEN_SIZE, _ROOM = 8, 0.8
#: The most characters of a token's label, and those that are left where it is cut to its room.
_LONGEST, _SHORTEST = 18, 3
#: Inches between two labels that stand upright, and between two slanted ones.
_APART, _SLANTED = 0.14, 0.15


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


def token_labels(
    raw: Sequence[bytes | None],
    ids: Sequence[int],
    names: Mapping[int, str] | None,
    *,
    room: float = np.inf,
    size: float = TOKEN_SIZE,
) -> tuple[str, ...]:
    """Axis labels for tokens, with escapes for what the font in use cannot draw; cut to `room` inches at `size`."""
    glyphs, known = _glyphs(), names or {}

    def fitting(token_id: int, of: bytes | None) -> str:
        for limit in range(_LONGEST, _SHORTEST, -1):
            written = label(of, name=name_of(token_id, known), glyphs=glyphs, limit=limit)
            if np.isinf(room) or length(written, size=size) <= room:
                break
        return written

    return tuple(fitting(i, b) for b, i in zip(raw, ids, strict=True))


def new_axes(ax: Axes | None, *, width: float, height: float, below: Sequence[str] = ()) -> Axes:
    """The axes given, else those of a new figure of this size in inches, which keeps its labels inside.

    It is taller where tokens that stand upright `below` its axis would take much of it.
    """
    if ax is not None:
        return check_ax(ax)
    from matplotlib import pyplot as plt

    height += max(max(map(length, below), default=0.0) - _ROOM, 0.0)
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def length(label: str, *, size: float = TOKEN_SIZE) -> float:
    """Inches that a label takes, written at `size` points in the font in use."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return text_to_path.get_text_width_height_descent(label, FontProperties(size=size), ismath=False)[0] / 72


def sparse(ax: Axes, labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Places from 0 on and slanted labels for an axis, as many as stand clear of each other."""
    room = 0.7 * ax.get_window_extent().width / ax.figure.dpi
    step = max(1, int(np.ceil(_SLANTED * len(labels) / max(room, 1e-9))))
    return np.arange(0, len(labels), step), list(labels[::step])


def fineness(tokens: int) -> float:
    """How much smaller marks and lines are where there are more tokens than stand clear of each other; 1 at most."""
    return min(1.0, (LABELLED / max(tokens, 1)) ** 0.5)


def ink() -> str:
    """What the style in use writes with: black, and on dark styles white."""
    from matplotlib import rcParams

    return str(rcParams["text.color"])


def say_nothing_known(ax: Axes, what: str, *, tokens: int) -> None:
    """A word where a picture would be empty, so that nobody takes it for a result."""
    say(ax, f"{what} not known: the endpoint does not say" if tokens else "no tokens")


def say(ax: Axes, text: str) -> None:
    """Write a word into the middle of a picture that has nothing else."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=9, color=ink(), alpha=0.75)


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


@cache
def _charmap(path: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(path).get_charmap())


def _glyphs() -> frozenset[int]:
    """The code points that the fonts of the current rcParams can draw: another would be a box and a warning."""
    from matplotlib.font_manager import FontProperties, findfont

    families = FontProperties().get_family()
    return frozenset().union(*(_charmap(str(findfont(FontProperties(family=[family])))) for family in families))
