"""Labels of tokens and of swept values along an axis: as long as there is room, in characters that the font has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.plots.style import LABELLED, POSITION, TOKEN, inches, slot
from llmlab.text.spelling import label, name_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: The size of tokens along an axis, relative to the user's font size.
TOKEN_SIZE = "small"
#: The most characters of a token's label, and the fewest that are left where there is little room.
_LONGEST, _SHORTEST = 18, 3
#: The most characters of a value's name: a tool or a schema would take all of the plot.
_LONGEST_NAME = 26
#: The most of a plot's height, or width, that the labels of its tokens take.
_BESIDE = 0.3


def token_labels(
    raw: Sequence[bytes | None],
    ids: Sequence[int],
    names: Mapping[int, str] | None,
    *,
    room: float = np.inf,
    size: Any = TOKEN_SIZE,
) -> tuple[str, ...]:
    """Labels of tokens for an axis, with escapes for characters that the font in use cannot draw.

    Args:
        raw: each token's bytes; None for a control token.
        ids: each token's id.
        names: names of control tokens by id.
        room: the inches that a label may take; longer ones are shortened.
        size: the size that they are written in, as matplotlib takes it.
    """
    glyphs, known = font_glyphs(), names or {}

    def fitting(token_id: int, of: bytes | None) -> str:
        for limit in range(_LONGEST, _SHORTEST, -1):
            written = label(of, name=name_of(token_id, known), glyphs=glyphs, limit=limit)
            if np.isinf(room) or length(written, size=size) <= room:
                break
        return written

    return tuple(fitting(i, b) for b, i in zip(raw, ids, strict=True))


def frame_labels(frame: pd.DataFrame, **options: Any) -> tuple[str, ...]:
    """Labels of the tokens of a frame with the columns token, token_id and bytes; `options` are `token_labels`'."""
    ids = frame["token_id"].to_numpy(int, na_value=-1).tolist()
    named = {i: str(name) for i, name in zip(ids, frame["token"].tolist(), strict=True)}
    return token_labels(frame["bytes"].tolist(), ids, named, **options)


def axis_labels(frame: pd.DataFrame, *, room: float = np.inf) -> tuple[str, ...]:
    """Labels for every token of one choice; none where there are more tokens than can be read."""
    return () if len(frame) > LABELLED or "bytes" not in frame else frame_labels(frame, room=room)


def room_below(ax: Axes) -> float:
    """The inches that a label below the axes may take."""
    return float(_BESIDE * slot(ax).height / ax.figure.dpi)


def room_beside(ax: Axes) -> float:
    """The inches that a label on the left of the axes may take."""
    return float(_BESIDE * slot(ax).width / ax.figure.dpi)


def tick_size(axis: str) -> Any:
    """The size of tokens along the "x" or the "y" axis: a little smaller than other ticks, or what the user has set."""
    from matplotlib import rcParams, rcParamsDefault

    name: Any = f"{axis}tick.labelsize"
    return TOKEN_SIZE if rcParams[name] == rcParamsDefault[name] else rcParams[name]


def token_axis(ax: Axes, labels: Sequence[str], *, tokens: int) -> None:
    """Make the x axis one of tokens: their labels, or their positions where there are no labels."""
    if labels or not tokens:
        name_ticks(ax.xaxis, range(tokens), labels, rotation=90, fontsize=tick_size("x"))
        ax.set_xlabel(TOKEN)
    else:
        ax.set_xlabel(POSITION)
    ax.set_xlim(-0.7, max(tokens, 1) - 0.3)


def name_ticks(axis: Any, places: Iterable[float] | np.ndarray, names: Sequence[str], **look: Any) -> None:
    """Set the ticks of an axis with their labels as they are: "$x$" is no formula.

    Args:
        axis: `ax.xaxis` or `ax.yaxis`.
        places: where the ticks lie.
        names: their labels.
        look: matplotlib's options of a text.
    """
    axis.set_ticks(list(places), list(names), parse_math=False, **look)


def name_slanted(ax: Axes, labels: Sequence[str]) -> None:
    """Set slanted labels at 0, 1, ... on the x axis."""
    name_ticks(
        ax.xaxis, range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=tick_size("x")
    )


def shortened(text: str, *, room: float, size: Any = TOKEN_SIZE) -> str:
    """A text that takes no more than some inches; its end is left out where it would."""
    keep = len(text)
    while keep > _SHORTEST and length(text if keep == len(text) else f"{text[:keep]}…", size=size) > room:
        keep -= 1
    return text if keep == len(text) else f"{text[:keep]}…"


def fitted(names: Sequence[str], *, room: float, size: Any = "medium") -> tuple[str, ...]:
    """Names that take no more than some inches; those that would read alike then are numbered from 0."""
    short = [shortened(name, room=room, size=size) for name in names]
    alike = Counter(short)
    return tuple(
        name if alike[name] == 1 else shortened(f"{at}: {full}", room=room, size=size)
        for at, (name, full) in enumerate(zip(short, names, strict=True))
    )


def turn(axis: Any, names: Sequence[str]) -> None:
    """Slant the tick labels of an x axis where they are so long that they would overlap."""
    widest = max((length(name, size="medium") for name in names), default=0.0)
    if widest * len(names) > 0.9 * inches(axis.axes):
        for text in axis.get_ticklabels():
            text.set(rotation=30, ha="right", rotation_mode="anchor")


def value_name(name: str, value: Any) -> str:
    """The name of a swept value in a legend or on an axis."""
    if value is None or (name == "top_k" and value == 0):
        return "off" if name == "top_k" else "none"
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of integers, one of which is missing
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def value_names(name: str, values: Sequence[Any]) -> tuple[str, ...]:
    """The names of several values; those that would read alike are numbered from 0."""
    names = [value_name(name, value) for value in values]
    alike = Counter(names)
    return tuple(f"{at}: {each}" if alike[each] > 1 else each for at, each in enumerate(names))


def length(text: str, *, size: Any = TOKEN_SIZE) -> float:
    """The inches that a text takes, written in a size in the font in use."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0] / 72


def longest(labels: Iterable[str]) -> float:
    """The inches that the longest of some tokens' labels takes."""
    return max(map(length, labels), default=0.0)


def points(size: str) -> float:
    """A size such as "small" in points, at the user's font size."""
    from matplotlib.font_manager import FontProperties

    return float(FontProperties(size=size).get_size_in_points())


def font_glyphs() -> frozenset[int]:
    """The code points that the fonts in use can draw: any other would be drawn as a box, with a warning."""
    from matplotlib.font_manager import FontProperties, findfont

    families = FontProperties().get_family()
    return frozenset().union(*(_charmap(str(findfont(FontProperties(family=[family])))) for family in families))


@cache
def _charmap(path: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(path).get_charmap())
