"""A next-token distribution as bars in HTML: quick to draw, so that it can follow a slider; without a script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from llmlab.display import palette
from llmlab.display.html import render
from llmlab.display.theme import style_sheet
from llmlab.text.numbers import probability, share

#: The full width of a bar stands for one of these probabilities: the smallest that no bar is longer than.
_SCALES = (0.1, 0.25, 0.5, 1.0)
_FILL = {"": palette.BLUE, "top_k": palette.ORANGE, "top_p": palette.PURPLE, "min_p": palette.GREEN}


class DistributionBars(NamedTuple):
    """The K most likely tokens of a next-token distribution, with what temperature and truncation do to each.

    `raw` is the model's own probability, `prob` that after the temperature and before truncation, `final` that in the
    distribution sampled from. `removed_by` names the parameter that removed a token, "" where none did.
    """

    labels: tuple[str, ...]
    token_ids: tuple[int, ...]
    raw: np.ndarray  #: [K]
    prob: np.ndarray  #: [K]
    final: np.ndarray  #: [K]
    removed_by: tuple[str, ...]
    kept: int  #: the number of tokens that can be sampled
    vocab_size: int
    settings: Mapping[str, float]  #: the values of top_k, top_p and min_p that are on
    removed: Mapping[str, tuple[int, float]]  #: for each of them the number of tokens it removed, and their probability
    place: str  #: where the token stands, in words
    seed: int | None = None  #: of the noise
    would: tuple[int, str] | None = None  #: the token, and its label, that this noise draws from the distribution
    drawn: tuple[int, str] | None = None  #: the token that the answer has here


class _Row(NamedTuple):
    """A token's row in the template `bars.html`."""

    label: str
    title: str
    marks: str
    shown: str
    raw: str
    removed_by: str
    width: str
    fill: str
    tick: str


def to_html(bars: DistributionBars) -> str:
    """The bars as a fragment of HTML."""
    tallest = max(*bars.raw, *bars.prob, *bars.final, *_left(bars), 1e-9)
    scale = next((scale for scale in _SCALES if tallest <= scale), 1.0)
    can = "all" if bars.kept == bars.vocab_size else f"{bars.kept:,} of"
    return render(
        "bars",
        sheet=style_sheet("distribution"),
        place=bars.place,
        kept=f"{can} {bars.vocab_size:,} tokens can be drawn",
        scale=f"{scale:g}",
        rows=[*(_row(bars, at, scale) for at in range(len(bars.labels))), *_others(bars, scale)],
        seed=bars.seed,
        would=None if bars.would is None else bars.would[1],
        drawn=None if bars.drawn is None else bars.drawn[1],
        cuts=[(name, f"{bars.removed[name][0]:,}", share(bars.removed[name][1])) for name in bars.settings],
    )


def message(text: str) -> str:
    """A fragment of HTML with a text in the place of bars that cannot be shown."""
    return render("message", sheet=style_sheet("distribution"), text=text)


def _row(bars: DistributionBars, at: int, scale: float) -> _Row:
    raw, prob, final = float(bars.raw[at]), float(bars.prob[at]), float(bars.final[at])
    removed_by, token = bars.removed_by[at], bars.token_ids[at]
    values = f"raw {probability(raw)} · before truncation {probability(prob)} · sampling {probability(final)}"
    marks = {"would": bars.would, "drawn": bars.drawn}
    return _Row(
        label=bars.labels[at],
        title=f"id {token} · {values}",
        marks=" ".join(name for name, marked in marks.items() if marked is not None and marked[0] == token),
        shown=removed_by or probability(final),
        raw=probability(raw),
        removed_by=removed_by,
        width=_percent(prob if removed_by else final, scale),
        fill=_FILL.get(removed_by, palette.VERMILION),
        tick=_percent(raw, scale),
    )


def _left(bars: DistributionBars) -> tuple[float, float, float]:
    """What the tokens that have bars leave to all others: raw, before truncation, and sampling."""
    if len(bars.labels) >= bars.vocab_size:
        return 0.0, 0.0, 0.0
    left = [1 - float(np.sum(each, dtype=np.float64)) for each in (bars.raw, bars.prob, bars.final)]
    raw, prob, final = (each if each > 1e-6 else 0.0 for each in left)
    return raw, prob, final


def _others(bars: DistributionBars, scale: float) -> list[_Row]:
    """The row of all tokens that have none of their own, where there are some."""
    raw, prob, final = _left(bars)
    number = bars.vocab_size - len(bars.labels)
    if max(raw, prob, final) == 0:
        return []
    values = f"raw {probability(raw)} · before truncation {probability(prob)} · sampling {probability(final)}"
    return [
        _Row(
            label=f"{number:,} others",
            title=values,
            marks="others",
            shown=probability(final),
            raw=probability(raw),
            removed_by="",
            width=_percent(final, scale),
            fill=palette.GREY,
            tick=_percent(raw, scale),
        )
    ]


def _percent(value: float, scale: float) -> str:
    return f"{100 * min(value / scale, 1):.2f}%"
