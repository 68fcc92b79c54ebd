"""The law of one next token as bars in HTML: quick to draw, so that it can follow a slider.

Data first: `law_bars` works out what there is to see, `to_html` draws it, without a script, in the notebook's theme.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmlab.display import palette
from llmlab.display.theme import style_sheet
from llmlab.text.spelling import label, name_of

if TYPE_CHECKING:
    from llmlab.results.next_token import NextToken

#: The bars' full width stands for one of these probabilities, the smallest that the tallest fits under.
_SCALES = (0.1, 0.25, 0.5, 1.0)
_FILL = {"": palette.BLUE, "top_k": palette.ORANGE, "top_p": palette.PURPLE, "min_p": palette.GREEN}


class LawBars(NamedTuple):
    """The K best tokens of one law, by what the temperature and the cuts find.

    `raw` is the model's own probability, `prob` that after the temperature and before the cuts, `final` that of the law
    drawn from. `removed_by` names the cut that took a token out, "" where none did.
    """

    labels: tuple[str, ...]
    token_ids: tuple[int, ...]
    raw: np.ndarray  #: [K]
    prob: np.ndarray  #: [K]
    final: np.ndarray  #: [K]
    removed_by: tuple[str, ...]
    kept: int  #: tokens that could be drawn
    vocab_size: int
    settings: Mapping[str, float]  #: the cuts asked for
    removed: Mapping[str, tuple[int, float]]  #: cut -> how many tokens it removed, and their probability before it
    place: str  #: where the token stands, in words
    seed: int | None = None  #: of the noise
    would: tuple[int, str] | None = None  #: the token, and its label, that this noise draws from this law
    drawn: tuple[int, str] | None = None  #: that which was drawn here when the answer was made


def law_bars(step: NextToken, *, place: str, order: str, seed: int | None, top: int = 12, **fields: Any) -> LawBars:
    """What there is to see of a step under sampling fields; the model is not asked again.

    Args:
        step: the logits, and what came before them.
        place: where the token stands, in words.
        order: of the sampler's stages.
        seed: of the noise; None where there is none yet.
        top: how many tokens.
        fields: sampling fields.

    Raises:
        RequestError: a field is unknown or out of range.
    """
    temperature = fields.pop("temperature", 1.0)
    laws = step.temperatures([temperature], top=top, order=order, **fields)
    ids = laws.token_ids
    would = None
    if seed is not None:
        would = int(step.draws([seed], order=order, temperature=temperature, **fields)[0])
    return LawBars(
        labels=tuple(_label(step, i) for i in ids),
        token_ids=ids,
        raw=np.exp(step.logprobs[list(ids)]),
        prob=laws.prob[0],
        final=laws.final[0],
        removed_by=laws.removed_by[0],
        kept=int(laws.kept[0]),
        vocab_size=len(step.logits),
        settings=laws.settings,
        removed={cut: (int(laws.removed[cut][0]), float(laws.removed_mass[cut][0])) for cut in laws.settings},
        place=place,
        seed=seed,
        would=None if would is None else (would, _label(step, would)),
        drawn=None if step.drawn is None else (step.drawn, _label(step, step.drawn)),
    )


def to_html(bars: LawBars) -> str:
    """The bars as a fragment of HTML."""
    tallest = max(*bars.raw, *bars.prob, *bars.final, 1e-9)
    scale = next((scale for scale in _SCALES if tallest <= scale), 1.0)
    rows = "".join(_row(bars, at, scale) for at in range(len(bars.labels)))
    return (
        f'<div class="llmlab-law"><style>{style_sheet("law")}</style>'
        f'<div class="head">The law of <b>{escape(bars.place)}</b> · {_kept(bars)}</div>'
        '<div class="row top"><span class="name">token</span> <span class="p">drawn from</span> '
        f'<span class="p">raw</span> <span class="track">0 <span class="end">{scale:g}</span></span></div>'
        f"{rows}{_noise(bars)}"
        '<div class="foot"><span class="cut"><span class="key bar"></span> drawn from</span>'
        '<span class="cut"><span class="key tick"></span> the model’s own</span>'
        f"{' '.join(_cut(bars, cut) for cut in bars.settings)}</div></div>"
    )


def message(text: str) -> str:
    """What stands in the place of the bars where there are none."""
    return f'<div class="llmlab-law"><style>{style_sheet("law")}</style><div class="head">{escape(text)}</div></div>'


def _row(bars: LawBars, at: int, scale: float) -> str:
    raw, prob, final = float(bars.raw[at]), float(bars.prob[at]), float(bars.final[at])
    cut, token = bars.removed_by[at], bars.token_ids[at]
    # Where the style sheet is dropped, what is inline remains: a bar behind the token and its figures.
    fill = _FILL[cut]
    width = f"width:{_percent(prob if cut else final, scale)}"
    bar = f'<span class="bar {cut}" style="{width};display:inline-block;height:9px;background-color:{fill}"></span>'
    tick = f'<span class="tick" style="left:{_percent(raw, scale)}"></span>'
    signs = [
        *(["would"] if bars.would is not None and bars.would[0] == token else []),
        *(["drawn"] if bars.drawn is not None and bars.drawn[0] == token else []),
    ]
    title = f"id {token} · raw {_p(raw)} · before the cuts {_p(prob)} · drawn from {_p(final)}"
    return (
        f'<div class="row {" ".join(signs)}" title="{title}">'
        f'<span class="name"><span>{escape(bars.labels[at])}</span></span> '
        f'<span class="p">{cut or _p(final)}</span> <span class="p">{_p(raw)}</span> '
        f'<span class="track">{bar}{tick}</span></div>'
    )


def _kept(bars: LawBars) -> str:
    if bars.kept == bars.vocab_size:
        return f"all {bars.vocab_size:,} tokens can be drawn"
    return f"{bars.kept:,} of {bars.vocab_size:,} tokens can be drawn"


def _noise(bars: LawBars) -> str:
    parts = []
    if bars.drawn is not None:
        parts.append(f'the answer has <span class="token">{escape(bars.drawn[1])}</span>')
    if bars.would is not None:
        parts.append(
            f'the noise of seed {bars.seed} draws <span class="token would">{escape(bars.would[1])}</span> here'
        )
    # Always there, so that nothing moves when a seed comes.
    return f'<div class="noise">{" · ".join(parts) or "&nbsp;"}</div>'


def _cut(bars: LawBars, cut: str) -> str:
    count, mass = bars.removed[cut]
    return f'<span class="cut"><span class="key bar {cut}"></span> {cut} cuts {count:,} ({mass:.2%})</span>'


def _label(step: NextToken, token_id: int) -> str:
    return label(step.bytes_of(token_id), name=name_of(token_id, step.names([token_id])))


def _percent(probability: float, scale: float) -> str:
    return f"{100 * min(probability / scale, 1):.2f}%"


def _p(probability: float) -> str:
    if probability == 0:
        return "0"
    return f"{probability:.3f}" if probability >= 0.0005 else f"{probability:.0e}"
