"""The token strip: a completion's text, every token coloured by its probability, its alternatives on hover.

Plain HTML and CSS without a script, so that it is still there in an exported notebook. A hover shows the token's
`title`, which the style sheet repeats in a panel of its own. Where a viewer drops the style sheet, the text and the
titles remain, and nothing else appears.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, Literal, NamedTuple

import numpy as np

from llmlab.display import palette
from llmlab.display.html import Markup, fragment, render, with_line_breaks
from llmlab.display.theme import page_sheet, rules, style_sheet
from llmlab.protocol.arguments import one_of, whole
from llmlab.protocol.completion import ALTERNATIVES, Choice, Completion, Tokens, ToolCall
from llmlab.protocol.partial import UNFINISHED
from llmlab.sampling.registry import further_fields
from llmlab.sampling.stages import FIELDS
from llmlab.text.numbers import count, probability
from llmlab.text.spelling import Piece, completed_characters, label, name_of, pieces, speed

#: The request's fields that the first line shows.
_SAMPLING_FIELDS = tuple(name for name, field in FIELDS.items() if field.is_scalar)


def _sampling_fields() -> tuple[str, ...]:
    """The numeric fields of all stages, those of one's own among them."""
    return (*_SAMPLING_FIELDS, *(name for name, field in further_fields().items() if field.is_scalar))


#: The columns that a token can be coloured by.
COLOURED_BY = ("logprob", "sampling_logprob")
#: The letters of a line of a strip of ordinary width, and its height.
_LINE, _LINE_PIXELS = 60, 25
#: The width of a bar of block characters, in cells, at a probability of one.
_BAR = 10


class _Token(NamedTuple):
    """A token in the template `strip.html`."""

    look: Markup  #: attributes
    title: Markup
    parts: list[tuple[bool, list[Piece]]]  #: its text, and whether that is struck through
    completed: str  #: the character that is whole with this token; "" for none


class _Run(NamedTuple):
    """Successive tokens of one segment in the template."""

    segment: str  #: its name; "" for the content
    tokens: list[_Token]


class _Shown(NamedTuple):
    """A choice in the template."""

    name: str  #: "" for a single choice
    head: str
    runs: list[_Run]
    hidden: int  #: the number of tokens that are left out
    calls: tuple[ToolCall, ...]
    text: str  #: of a choice whose tokens are not known
    note: str


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
        completion: the completion.
        names: names of control tokens by id, by default the completion's own; one that is missing is `<id 7>`.
        by: the logprob to colour by, raw or sampling; the other one where an endpoint gives only that.
        alternatives: the number of alternatives per token on hover; by default the request's `top_logprobs`, or five.
        limit: the most tokens to show, over all choices; a note says how many are left out. None shows all.

    Raises:
        RequestError: `by` is something else, or `alternatives` no integer of at least 0.
    """
    if alternatives is None:
        asked = completion.request.top_logprobs if completion.request.logprobs else None
        alternatives = ALTERNATIVES if asked is None else asked
    alternatives = whole("alternatives", alternatives, least=0)
    by_known = _known(completion, one_of("by", by, COLOURED_BY))
    several, known = len(completion.choices) > 1, completion.control_tokens if names is None else names
    shown, left = [], math.inf if limit is None else limit
    for choice in completion.choices:
        if left > 0:
            part = int(min(left, len(choice.tokens)))
            shown.append(_choice(choice, part, known, by_known, alternatives, several=several))
            left -= part
    brief = _is_brief(shown, _tall(alternatives))
    return render(
        "strip",
        tall=_tall(alternatives),
        brief=brief,
        sheet=_sheet(brief=brief),
        model=completion.model,
        summary=_summary(completion),
        notes=completion.notes,
        choices=shown,
        hidden=len(completion.choices) - len(shown),
        coloured_by="probability" if by_known == "logprob" else "probability in the distribution sampled from",
        steps=[(_look(at), name) for at, name in enumerate(palette.step_names())],
    )


def page(completion: Completion, **options: Any) -> str:
    """The strip as a page of its own, after the messages it answers, in the system's theme; takes `strip`'s options."""
    return render(
        "page",
        model=completion.model,
        seed=completion.seed,
        sheet=page_sheet(),
        messages=list(_messages(completion)),
        strip=Markup(strip(completion, **options)),
    )


def _choice(
    choice: Choice, part: int, names: Mapping[int, str], by: str, alternatives: int, *, several: bool
) -> _Shown:
    tokens = choice.tokens
    completed = list(completed_characters(tokens.bytes))
    runs = [
        _Run(
            segment="" if kind == "content" else kind.replace("_", " "),
            tokens=[_token(tokens, t, names, by, alternatives, completed[t]) for t in at],
        )
        for kind, at in groupby(range(part), key=lambda t: _run_of(tokens, t))
    ]
    text = "" if len(tokens) else choice.text
    missing = "token probabilities not available from this endpoint" if text else "no tokens"
    how = "so far" if choice.finish_reason == UNFINISHED else f"· finished: {choice.finish_reason}"
    return _Shown(
        name=f"choice {choice.index}" if several else "",
        head=f"{count(len(tokens), 'token') if choice.is_listed else 'tokens not available'} {how}",
        runs=runs,
        hidden=len(tokens) - part,
        calls=choice.tool_calls,
        text=text,
        note="" if len(tokens) else missing,
    )


def _run_of(tokens: Tokens, at: int) -> str:
    """The segment to show a token in: an end token stays beside the text that it ends."""
    while at > 0 and tokens.segment[at] == "end":
        at -= 1
    return "content" if tokens.segment[at] == "end" else tokens.segment[at]


def _token(tokens: Tokens, at: int, names: Mapping[int, str], by: str, alternatives: int, completed: str) -> _Token:
    raw = tokens.bytes[at]
    return _Token(
        look=_look("control" if raw is None else palette.step(math.exp(float(getattr(tokens, by)[at])))),
        title=with_line_breaks(_title(tokens, at, names, alternatives, completed)),
        parts=[(False, [Piece(name_of(int(tokens.ids[at]), names), "text")])] if raw is None
        else _parts(raw, int(tokens.lead[at]), int(tokens.overhang[at])),
        completed=completed,
    )  # fmt: skip


def _parts(raw: bytes, lead: int, overhang: int) -> list[tuple[bool, list[Piece]]]:
    """The token's bytes, spelled; those outside its segment's text are struck through."""
    inside = len(raw) - overhang
    spelled = [(True, pieces(raw[:lead])), (False, pieces(raw[lead:inside])), (True, pieces(raw[inside:]))]
    return [part for part in spelled if part[1]] or [(False, [Piece("∅", "mark")])]


@cache
def _look(step: int | None | Literal["control"]) -> Markup:
    """The attributes of a token: of a step of probability, of an unknown one (None), or of a control token.

    The style is inline as well, because a notebook that is not trusted drops the style sheet and keeps this.
    """
    if step is None:
        return Markup('class="k unknown"')
    if step == "control":
        return fragment('class="k control" style="{}"', _inline(palette.LIGHT_CONTROL))
    sign = palette.STEP_SIGNS[step]
    lines = {"thin": ";border-bottom:1px solid", "thick": ";border-bottom:3px double"}
    extra = lines.get(sign, f"{lines['thick']};font-weight:700" if sign == "bold" else "")
    return fragment('class="{}" style="{}{}"', f"k p{step} {sign}".rstrip(), _inline(palette.LIGHT_RAMP[step]), extra)


def _inline(ink: palette.Ink) -> str:
    return f"background-color:{ink.back};color:{ink.text}"


def _title(tokens: Tokens, at: int, names: Mapping[int, str], alternatives: int, completed: str) -> str:
    """Everything known about a token, as lines of text: its values, then its alternatives with bars.

    The panel has room for 41 characters a line, and no line is longer, whatever the vocabulary.
    """
    token_id, raw = int(tokens.ids[at]), tokens.bytes[at]
    spelled = label(raw, name=name_of(token_id, names), limit=24)
    lines = [f"{spelled}   id {token_id if token_id >= 0 else '–'}"]
    if raw is not None:
        more = " …" if len(raw) > 8 else f"  completes {completed}" if completed else ""
        lines.append(f"bytes {raw[:8].hex(' ')}{more}")
    logprob, sampling, entropy, sampling_entropy, margin = (
        float(getattr(tokens, name)[at])
        for name in ("logprob", "sampling_logprob", "entropy", "sampling_entropy", "margin")
    )
    lines += [
        "                raw  sampling",
        f"probability {_p(logprob)}  {_p(sampling)}",
        f"logprob      {_f(logprob)}   {_f(sampling)}",
        f"entropy      {_f(entropy)}   {_f(sampling_entropy)}",
        f"rank {_n(int(tokens.rank[at]))} · kept {_n(int(tokens.kept[at]))}",
        f"margin {_f(margin).strip()} · position {at}",
    ]
    rows = [a for a in range(min(alternatives, tokens.top_ids.shape[1])) if _there(tokens, at, a)]
    if rows:
        lines.append("    raw  sampl.")
    for a in rows:
        own, sampled = float(tokens.top_logprob[at, a]), float(tokens.top_sampling_logprob[at, a])
        chosen = "▸" if _is_sampled(tokens, at, a) else " "
        name = label(tokens.top_bytes[at][a], name=name_of(int(tokens.top_ids[at, a]), names), limit=12)
        lines.append(f"{_p(own)} {_p(sampled)} {_bar(own)} {chosen}{name}")
    if rows:
        own, sampled = (_left(getattr(tokens, name)[at, rows]) for name in ("top_logprob", "top_sampling_logprob"))
        lines.append(f"{_p(own)} {_p(sampled)} {_bar(own)}  all others")
    return "\n".join(lines)


def _there(tokens: Tokens, at: int, a: int) -> bool:
    return bool(tokens.top_ids[at, a] != -1 or tokens.top_bytes[at][a] is not None)


def _is_sampled(tokens: Tokens, at: int, a: int) -> bool:
    if tokens.ids[at] != -1:
        return bool(tokens.top_ids[at, a] == tokens.ids[at])
    return tokens.top_bytes[at][a] == tokens.bytes[at]


def _p(logprob: float) -> str:
    return f"{probability(math.exp(logprob)):>7}"


def _left(logprobs: np.ndarray) -> float:
    """The logarithm of the probability that tokens leave to all others; float32 knows it to six digits."""
    left = 1 - float(np.exp(logprobs.astype(np.float64)).sum())
    return math.nan if math.isnan(left) else math.log(left) if left > 1e-6 else -math.inf


def _f(value: float) -> str:
    return f"{'–':>6}" if math.isnan(value) else f"{value:6.3f}".replace("-inf", "−inf")


def _n(number: int) -> str:
    return "–" if number < 0 else f"{number:,}"


def _bar(logprob: float) -> str:
    """A bar of block characters for a probability, padded to `_BAR` cells."""
    p = math.exp(logprob)
    eighths = 0 if math.isnan(p) else round(p * _BAR * 8)
    cells = "█" * (eighths // 8) + (" ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else "")
    return cells.ljust(_BAR)


def _summary(completion: Completion) -> list[str]:
    """The parts of the first line after the model's name: seed, sampling fields, length, time, speed."""
    number, seconds = completion.completion_tokens, completion.timing.total
    given = completion.request.model_fields_set
    parts = [f"seed {completion.seed}"]
    parts += [f"{name} {getattr(completion.request, name):g}" for name in _sampling_fields() if name in given]
    listed = number or all(choice.is_listed for choice in completion.choices)
    parts.append(f"{count(number, 'token')} in {seconds:.2f} s" if listed else f"{seconds:.2f} s")
    if number and seconds > 0:
        parts.append(speed(number, seconds))
    return parts


def _known(completion: Completion, by: str) -> str:
    """The logprob to colour by: the one asked for, or the other where only that is known."""
    other = "sampling_logprob" if by == "logprob" else "logprob"
    mine, others = (
        np.concatenate([np.zeros(0), *(getattr(choice.tokens, name) for choice in completion.choices)])
        for name in (by, other)
    )
    return other if np.isnan(mine).all() and not np.isnan(others).any() else by


def _messages(completion: Completion) -> Iterator[tuple[str, str]]:
    """The role and the text of each message of the request, or of its raw prompt."""
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
    """The height of a token's details in pixels: nine lines, one for each alternative and one for all others."""
    return 22 + 18 * (10 + alternatives)


def _is_brief(shown: Sequence[_Shown], tall: int) -> bool:
    """Whether the text is so short that it would leave most of a token's details' height empty."""
    lines = 0.0
    for choice in shown:
        letters = sum(len(piece.text) for run in choice.runs for token in run.tokens for _, parts in token.parts
                      for piece in parts)  # fmt: skip
        breaks = sum(piece.kind == "break" for run in choice.runs for token in run.tokens for _, parts in token.parts
                     for piece in parts)  # fmt: skip
        lines += 1.5 + len(choice.runs) + breaks + len(choice.calls) + (letters + len(choice.text)) / _LINE
    return lines * _LINE_PIXELS < tall / 2


@cache
def _sheet(*, brief: bool) -> Markup:
    steps = " ".join(
        f".llmlab-strip .p{at} {{ background: var(--b{at}) !important; color: var(--t{at}) !important; }}"
        for at in range(len(palette.LIGHT_RAMP))
    )
    return style_sheet("strip", more=f"{steps} {rules('brief')}" if brief else steps)
