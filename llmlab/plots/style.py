"""What all plots share: axes, labels of tokens and values, line styles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.display import palette
from llmlab.errors import RequestError, short
from llmlab.text.spelling import label, name_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


#: More tokens than this get a numbered axis, where only the most surprising ones have their label.
LABELLED, _MOST_SURPRISES = 60, 12


#: How tokens along an axis are written: points, and the inches below the axis that a plot's own height has room for.
TOKEN_SIZE, _ROOM = 8, 0.8


#: The most characters of a token's label, and those that are left where it is cut to its room.
_LONGEST, _SHORTEST = 18, 3


#: Inches between two labels that stand upright, and between two slanted ones.
_APART, _SLANTED = 0.14, 0.15


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


@cache
def _charmap(path: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(path).get_charmap())


def _glyphs() -> frozenset[int]:
    """The code points that the fonts of the current rcParams can draw: another would be a box and a warning."""
    from matplotlib.font_manager import FontProperties, findfont

    families = FontProperties().get_family()
    return frozenset().union(*(_charmap(str(findfont(FontProperties(family=[family])))) for family in families))


def _tokens(count: int) -> str:
    return f"{count:,} token{'' if count == 1 else 's'}"


def _prob(value: float) -> str:
    return "0" if value == 0 else f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}"


#: Lines that are told apart by colour, marker and dashes at once.
_LINES = (
    (palette.BLUE, "o", "-"),
    (palette.VERMILION, "s", "--"),
    (palette.GREEN, "^", "-."),
    (palette.PURPLE, "D", ":"),
)


def _p(logprob: float) -> str:
    value = math.exp(logprob)
    return "0" if value == 0 else f"{value:.2f}" if value >= 0.005 else f"{value:.0e}"


def _written(frame: pd.DataFrame) -> tuple[str, ...]:
    """The tokens of a choice as an axis has them; none where there are too many to read."""
    if len(frame) > LABELLED or "bytes" not in frame:
        return ()
    ids = frame["token_id"].to_numpy(int, na_value=-1).tolist()
    named = {i: str(name) for i, name in zip(ids, frame["token"].tolist(), strict=True)}
    return token_labels(frame["bytes"].tolist(), ids, named)


def _token_axis(ax: Axes, written: Sequence[str], *, tokens: int) -> None:
    """The tokens of a choice along the x axis, or their numbers where there are no labels."""
    if written or not tokens:
        ax.set_xticks(range(tokens), written, rotation=90, fontsize=TOKEN_SIZE, parse_math=False)
        ax.set_xlabel("token")
    else:
        ax.set_xlabel("position (tokens)")
    ax.set_xlim(-0.7, max(tokens, 1) - 0.3)


def _finish(ax: Axes, *, columns: int, fine: float = 1.0) -> None:
    ax.grid(axis="y", color="0.5", alpha=0.25, linewidth=0.6)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False, fontsize=9,
            markerscale=1 / fine,
        )  # fmt: skip


#: How each of several lines is drawn, so that the colour is not the only sign: colour, marker, line.
STYLES = (
    (palette.BLUE, "o", "-"),
    (palette.VERMILION, "s", "--"),
    (palette.GREEN, "^", "-."),
    (palette.PURPLE, "D", ":"),
    (palette.ORANGE, "v", "-"),
    (palette.SKY, "P", "--"),
    ("", "X", "-."),  # the style's own ink
)


#: The name of a value is cut to so many characters: a tool or a schema would take all of the picture.
_LONGEST_NAME = 26


def value_name(name: str, value: Any) -> str:
    """A swept value as a legend or an axis spells it."""
    if value is None or (name == "top_k" and value == 0):
        return "off" if name == "top_k" else "none"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def value_names(name: str, values: Sequence[Any]) -> tuple[str, ...]:
    """The names of several values; those that would read alike are numbered from 0."""
    names = [value_name(name, value) for value in values]
    alike = Counter(names)
    return tuple(f"{at}: {each}" if alike[each] > 1 else each for at, each in enumerate(names))


def turn(axis: Any, names: Sequence[str]) -> None:
    """Long names stand slanted, so that they do not overlap."""
    if len(names) * max(map(len, names), default=0) > 60:
        for text in axis.get_ticklabels():
            text.set(rotation=30, ha="right", rotation_mode="anchor")


def _numbers(column: pd.Series) -> np.ndarray:
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def check_ax(ax: Any) -> Axes:
    """Where to draw: one Axes."""
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise RequestError(
            f"ax must be one matplotlib Axes, got {short(ax)}; of figure, axes = plt.subplots(...) it is (one of) axes",
            param="ax",
        )
    return ax
