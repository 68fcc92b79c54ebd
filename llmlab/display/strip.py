"""The token strip: a completion's text, every token coloured by its probability, its alternatives on hover.

Plain HTML and CSS without a script, so that it is still there in an exported notebook. What a hover shows is the
token's `title`; the style sheet repeats it in a panel of its own. Where a viewer drops the style sheet, the text and
the titles remain, and nothing else appears.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from itertools import groupby
from typing import Any, Literal

import numpy as np

from llmlab.display import palette
from llmlab.display.theme import _variables, style_sheet
from llmlab.protocol.arguments import one_of, whole
from llmlab.protocol.completion import ALTERNATIVES, Choice, Completion, Tokens
from llmlab.protocol.partial import UNFINISHED
from llmlab.sampling.stages import FIELDS
from llmlab.text.spelling import Piece, completed_characters, label, name_of, pieces, speed

#: Fields of a request that are shown beside its answer: those of the sampler that hold one number.
_SAMPLING_FIELDS = tuple(name for name, field in FIELDS.items() if field.is_scalar)
#: What a token can be coloured by.
FIGURES = ("logprob", "sampling_logprob")
_BAR = 10


def strip(
    completion: Completion,
    *,
    names: Mapping[int, str] | None = None,
    by: Literal["logprob", "sampling_logprob"] = "logprob",
    alternatives: int | None = None,
    limit: int | None = None,
) -> str:
    """A completion as a fragment of HTML; several fit in one page.

    Args:
        completion: what a backend answered.
        names: names of control tokens by id; one that is missing is shown as `<id 7>`.
        by: colour by the raw probability, or by that of the law which was drawn from; by the one that is known, where
            an endpoint says no other.
        alternatives: how many a token on hover; by default the request's `top_logprobs`, else five.
        limit: the most tokens to show, over all choices; what is left out is said. None: all of them.
    """
    if alternatives is None:
        asked = completion.request.top_logprobs if completion.request.logprobs else None
        alternatives = ALTERNATIVES if asked is None else asked
    alternatives = whole("alternatives", alternatives, least=0)
    figure = _known(completion, one_of("by", by, FIGURES))
    shown, left = [], math.inf if limit is None else limit
    for choice in completion.choices:
        if left > 0:
            part = int(min(left, len(choice.tokens)))
            shown.append(_choice(choice, part, names or {}, figure, alternatives, several=len(completion.choices) > 1))
            left -= part
    notes = "".join(f'<div class="note">{escape(note)}</div>' for note in completion.notes)
    hidden = len(completion.choices) - len(shown)
    more = f'<div class="note">… and {hidden} more choices</div>' if hidden else ""
    return (
        f'<div class="llmlab-strip" style="--tall:{_tall(alternatives)}px"><style>{_css()}</style>'
        f'<div class="head">{_summary(completion)}</div>{notes}'
        f'<div class="body"><div class="text">{"".join(shown)}{more}</div>{_side(figure)}</div></div>'
    )


def page(completion: Completion, **options: Any) -> str:
    """The strip as a page of its own, with the messages it answers, in the system's theme; takes what `strip` takes."""
    messages = "".join(
        f'<p class="message"><b>{escape(role)}</b> {escape(text)}</p>' for role, text in _messages(completion)
    )
    dark, light = _variables(dark=True), _variables(dark=False)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(completion.model)}, seed {completion.seed}</title><style>"
        f":root {{ color-scheme: light dark; {light} }} "
        f"@media (prefers-color-scheme: dark) {{ :root, :root .llmlab-strip {{ {dark} }} }} "
        "body { max-width: 80em; margin: 2em auto; padding: 0 1em; background: var(--page); color: var(--ink); "
        "font: 15px/1.6 system-ui, sans-serif; } .message { margin: .3em 0; white-space: pre-wrap; } "
        ".message b { color: var(--faint); font-weight: 400; margin-right: .5em; } "
        "body > .llmlab-strip .text { max-height: max(78vh, var(--tall)); }"
        f"</style></head><body>{messages}{strip(completion, **options)}</body></html>\n"
    )


def _choice(choice: Choice, part: int, names: Mapping[int, str], by: str, alternatives: int, *, several: bool) -> str:
    tokens = choice.tokens
    whole = list(completed_characters(tokens.bytes))
    runs = []
    for kind, at in groupby(range(part), key=lambda t: _run_of(tokens, t)):
        body = "".join(_token(tokens, t, names, by, alternatives, whole[t]) for t in at)
        mark = "" if kind == "content" else f' data-segment="{escape(kind.replace("_", " "))}"'
        runs.append(f'<div class="run"{mark}>{body}</div>')
    if part < len(tokens):
        runs.append(f'<div class="note">… and {len(tokens) - part} more tokens</div>')
    runs += [f'<div class="call">→ {escape(call.name)}({escape(call.arguments)})</div>' for call in choice.tool_calls]
    if not len(tokens):
        said = f'<div class="run">{escape(choice.text)}</div>' if choice.text else ""
        runs.append(f'{said}<div class="note">{"no figures of its tokens" if said else "no tokens"}</div>')
    count = f"{len(tokens)} token{'' if len(tokens) == 1 else 's'}" if choice.is_listed else "tokens not said"
    title = f"<b>choice {choice.index}</b> · " if several else ""
    how = "so far" if choice.finish_reason == UNFINISHED else f"· finished: {escape(choice.finish_reason)}"
    head = f'<div class="head">{title}{count} {how}</div>'
    return f'<div class="choice">{head}{"".join(runs)}</div>'


def _run_of(tokens: Tokens, at: int) -> str:
    """The segment to show a token in: an end token stays beside the text that it ends."""
    while at > 0 and tokens.segment[at] == "end":
        at -= 1
    return "content" if tokens.segment[at] == "end" else tokens.segment[at]


def _token(tokens: Tokens, at: int, names: Mapping[int, str], by: str, alternatives: int, completed: str) -> str:
    raw = tokens.bytes[at]
    if raw is None:
        body = escape(name_of(int(tokens.ids[at]), names))
    else:
        body = "".join(_pieces(raw, int(tokens.lead[at]), int(tokens.overhang[at]))) or "<b>∅</b>"
    if completed:
        body += f"<b>→{escape(completed)}</b>"
    at_step = palette.step(math.exp(float(getattr(tokens, by)[at])))
    if raw is None:
        look = f'class="k control" style="{_inline(palette.LIGHT_CONTROL)}"'
    elif at_step is None:
        look = 'class="k unknown"'
    else:
        look = _look(at_step)
    title = escape(_title(tokens, at, names, alternatives, completed)).replace("\n", "&#10;")
    # A tabindex of -1: a click keeps the details on show, and the tab key does not stop at each token.
    return f'<span {look} tabindex="-1" title="{title}">{body}</span>'


def _pieces(raw: bytes, lead: int, overhang: int) -> Iterator[str]:
    """The token's bytes as HTML; those outside its segment's text are struck through."""
    inside = len(raw) - overhang
    for part, outside in ((raw[:lead], True), (raw[lead:inside], False), (raw[inside:], True)):
        body = "".join(_piece(piece) for piece in pieces(part))
        if body:
            yield f"<s>{body}</s>" if outside else body


def _look(step: int) -> str:
    """The attributes that paint a step. A notebook that is not trusted drops the style sheet, but keeps this style."""
    sign = palette.STEP_SIGNS[step]
    lines = {"thin": ";border-bottom:1px solid", "thick": ";border-bottom:3px double"}
    extra = lines.get(sign, f"{lines['thick']};font-weight:700" if sign == "bold" else "")
    classes = f"k p{step} {sign}".rstrip()
    return f'class="{classes}" style="{_inline(palette.LIGHT_RAMP[step])}{extra}"'


def _inline(ink: palette.Ink) -> str:
    return f"background-color:{ink.back};color:{ink.text}"


def _piece(piece: Piece) -> str:
    if piece.kind == "text":
        return escape(piece.text)
    return f"<b>{escape(piece.text)}</b>{'<br>' if piece.kind == 'break' else ''}"


def _title(tokens: Tokens, at: int, names: Mapping[int, str], alternatives: int, completed: str) -> str:
    """Everything known about a token, as lines of text: its figures, then its alternatives with bars.

    The panel cuts what is wider than 41 characters, whatever the vocabulary.
    """
    token_id, raw = int(tokens.ids[at]), tokens.bytes[at]
    spelled = label(raw, name=name_of(token_id, names), limit=24)
    lines = [f"{spelled}   id {token_id if token_id >= 0 else '–'}"]
    if raw is not None:
        more = " …" if len(raw) > 8 else f"  completes {completed}" if completed else ""
        lines.append(f"bytes {raw[:8].hex(' ')}{more}")
    raw_law, law, entropy, sampling_entropy, margin = (
        float(getattr(tokens, name)[at])
        for name in ("logprob", "sampling_logprob", "entropy", "sampling_entropy", "margin")
    )
    lines += [
        "               raw  sampling",
        f"probability {_p(raw_law)}  {_p(law)}",
        f"logprob     {_f(raw_law)}  {_f(law)}",
        f"entropy     {_f(entropy)}  {_f(sampling_entropy)}",
        f"rank {_n(int(tokens.rank[at]))} · kept {_n(int(tokens.kept[at]))}",
        f"margin {_f(margin).strip()} · position {at}",
    ]
    rows = [a for a in range(min(alternatives, tokens.top_ids.shape[1])) if _there(tokens, at, a)]
    if rows:
        lines.append("   raw sampl.")
    for a in rows:
        of_raw, of_law = float(tokens.top_logprob[at, a]), float(tokens.top_sampling_logprob[at, a])
        chosen = "▸" if _is_sampled(tokens, at, a) else " "
        name = label(tokens.top_bytes[at][a], name=name_of(int(tokens.top_ids[at, a]), names), limit=14)
        lines.append(f"{_p(of_raw)} {_p(of_law)} {_bar(of_raw)} {chosen}{name}")
    return "\n".join(lines)


def _there(tokens: Tokens, at: int, a: int) -> bool:
    return bool(tokens.top_ids[at, a] != -1 or tokens.top_bytes[at][a] is not None)


def _is_sampled(tokens: Tokens, at: int, a: int) -> bool:
    if tokens.ids[at] != -1:
        return bool(tokens.top_ids[at, a] == tokens.ids[at])
    return tokens.top_bytes[at][a] == tokens.bytes[at]


def _p(logprob: float) -> str:
    p = math.exp(logprob)
    return f"{'–':>6}" if math.isnan(p) else f"{p:6.3f}" if p >= 0.0005 or p == 0 else f"{p:6.0e}"


def _f(value: float) -> str:
    return f"{'–':>6}" if math.isnan(value) else f"{value:6.3f}".replace("-inf", "−inf")


def _n(count: int) -> str:
    return "–" if count < 0 else f"{count:,}"


def _bar(logprob: float) -> str:
    """A bar of block characters, _BAR cells wide at a probability of one, padded to that width."""
    p = math.exp(logprob)
    eighths = 0 if math.isnan(p) else round(p * _BAR * 8)
    cells = "█" * (eighths // 8) + (" ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else "")
    return cells.ljust(_BAR)


def _summary(completion: Completion) -> str:
    count, seconds = completion.completion_tokens, completion.timing.total
    parts = [f"<b>{escape(completion.model)}</b>", f"seed {completion.seed}"]
    given = completion.request.model_fields_set
    parts += [f"{name} {getattr(completion.request, name):g}" for name in _SAMPLING_FIELDS if name in given]
    said = count or all(choice.is_listed for choice in completion.choices)
    parts.append(f"{count} token{'' if count == 1 else 's'} in {seconds:.2f} s" if said else f"{seconds:.2f} s")
    if count and seconds > 0:
        parts.append(speed(count, seconds))
    return " · ".join(parts)


def _known(completion: Completion, by: str) -> str:
    """The figure to colour by: the other one where every token has that, and none has this."""
    other = "sampling_logprob" if by == "logprob" else "logprob"
    mine, others = (
        np.concatenate([np.zeros(0), *(getattr(choice.tokens, name) for choice in completion.choices)])
        for name in (by, other)
    )
    return other if np.isnan(mine).all() and not np.isnan(others).any() else by


def _side(by: str) -> str:
    kind = "probability" if by == "logprob" else "probability in the law drawn from"
    steps = "".join(f"<span {_look(at)}>{escape(name)}</span> " for at, name in enumerate(palette.step_names()))
    return (
        f'<div class="side"><p>A token’s {kind}:</p>'
        f'<div class="key">{steps}<span class="k control">control</span></div>'
        "<p><b>⏎</b> line break, <b>␣</b> space, <b>&lt;E2&gt;</b> a byte of a longer character.</p>"
        "<p>Hover over a token for its figures and alternatives; a click keeps them here.</p></div>"
    )


def _messages(completion: Completion) -> Iterator[tuple[str, str]]:
    prompt = getattr(completion.request, "prompt", None)
    if prompt is not None:
        yield "prompt", prompt if isinstance(prompt, str) else f"{len(prompt)} token ids"
    for message in completion.request.messages:
        content = message.get("content") or ""
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        lines = [*([text] if text else []), *(f"→ {call['name']}({call['arguments']})" for call in calls)]
        if lines:
            yield message["role"], "\n".join(lines)


def _tall(alternatives: int) -> int:
    """Pixels that the details of a token take: nine lines and one for each alternative."""
    return 22 + 18 * (9 + alternatives)


@cache
def _css() -> str:
    steps = " ".join(
        f".llmlab-strip .p{at} {{ background: var(--b{at}) !important; color: var(--t{at}) !important; }}"
        for at in range(len(palette.LIGHT_RAMP))
    )
    return f"{style_sheet('strip')} {steps}"
