"""Two runs of one request side by side: where they part, and which change of a parameter parted them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from functools import cached_property
from html import escape
from math import nan
from typing import TYPE_CHECKING, Any, NamedTuple

from llmlab.counterfactuals.attribution import Reason, Setting, Step, changes
from llmlab.errors import RequestError, short
from llmlab.frames.schema import build
from llmlab.protocol.backend import LogitsBackend
from llmlab.protocol.completion import Choice, TokenBytes, Tokens
from llmlab.text.spelling import label, name_of
from llmlab.text.token_names import TokenNames

if TYPE_CHECKING:
    import pandas as pd

    from llmlab.results.result import Result

DIFF_COLUMNS: dict[str, str] = {
    "choice": "index",
    "same": "flag",
    "position": "count",
    "token": "text",
    "token_id": "count",
    "token_after": "text",
    "token_id_after": "count",
    "cause": "text",
    "tokens": "index",
    "tokens_after": "index",
    "finish_reason": "text",
    "finish_reason_after": "text",
}
ALIGNED_COLUMNS: dict[str, str] = {
    "choice": "index",
    "change": "text",
    "position": "count",
    "token": "text",
    "token_id": "count",
    "logprob": "number",
    "sampling_logprob": "number",
    "position_after": "count",
    "token_after": "text",
    "token_id_after": "count",
    "logprob_after": "number",
    "sampling_logprob_after": "number",
}
WHY_COLUMNS: dict[str, str] = {
    "choice": "index",
    "position": "index",
    "changed": "text",
    "token": "text",
    "token_id": "count",
    "flips": "switch",
    "cause": "flag",
    "prob": "number",
    "prob_after": "number",
    "lead": "number",
}
#: What of a law's fields can make an end come where it does, by the finish reason.
_ENDS = {
    "length": (
        "max_tokens",
        "max_completion_tokens",
        "context_length_exceeded_behavior",
        "messages",
        "prompt",
        "tools",
    ),
    "stop": ("stop", "ignore_eos", "response_format", "tool_choice", "tools", "separate_reasoning"),
    "tool_calls": ("parallel_tool_calls", "tool_choice", "tools", "response_format"),
}
#: How many tokens a reader is shown on each side of a divergence, and how many choices.
_AROUND, _SHOWN = 8, 8


class Divergence(NamedTuple):
    """Where a choice first differs. `reason` is None where there was no token to be flipped, or nobody who knows."""

    position: int
    cause: str
    reason: Reason | None


class Diff:
    """What became of a result under other parameters; `result.diff()` makes one.

    `frame()` has a row a choice: the first token that differs, and why; `tokens_frame()` both runs' tokens, aligned;
    `why_frame()`, for each divergence, what the step would have drawn under each mixture of the changes.

    Args:
        before: the one result.
        after: the other, whose choices are compared with those of the same index.
    """

    def __init__(self, before: Result, after: Result) -> None:
        self.before = before
        self.after = after
        theirs = {choice.index: choice for choice in after.choices}
        self._pairs = [(choice, theirs[choice.index]) for choice in before.choices if choice.index in theirs]
        for choice in (*before.choices, *after.choices):
            if not choice.is_listed:
                raise RequestError(
                    f"the endpoint did not say the tokens of choice {choice.index}, so that they cannot be compared: "
                    "compare the `texts`"
                )

    @cached_property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """The parameters that differ, by name: the values before and after; `order` among them."""
        return changes(self._settings[0], self._settings[1])

    @cached_property
    def divergences(self) -> dict[int, Divergence | None]:
        """By choice: where and why it first differs; None where it does not."""
        return {before.index: self._divergence(before, after) for before, after in self._pairs}

    def frame(self) -> pd.DataFrame:
        """One row a choice.

        Columns: choice, same (every token), position of the first difference, token and token_id there, token_after and
        token_id_after (NA where that run had ended), cause (in words), tokens, tokens_after (how many there are),
        finish_reason, finish_reason_after.
        """
        rows = []
        for before, after in self._pairs:
            found = self.divergences[before.index]
            at = None if found is None else found.position
            rows.append(
                {
                    "choice": before.index,
                    "same": found is None,
                    "position": -1 if at is None else at,
                    "token": self._text(before.tokens, at),
                    "token_id": _id(before.tokens, at),
                    "token_after": self._text(after.tokens, at),
                    "token_id_after": _id(after.tokens, at),
                    "cause": None if found is None else found.cause,
                    "tokens": len(before.tokens),
                    "tokens_after": len(after.tokens),
                    "finish_reason": before.finish_reason,
                    "finish_reason_after": after.finish_reason,
                }
            )
        return _frame(rows, DIFF_COLUMNS)

    def tokens_frame(self) -> pd.DataFrame:
        """Both runs' tokens, aligned: one row a token, or a pair of them.

        Columns: choice, change (same, replaced, removed, added), then position, token, token_id, logprob (raw),
        sampling_logprob of the run before, and the same of the run after; NA where that run has no token there.
        """
        rows = []
        for before, after in self._pairs:
            for change, at, there in aligned(before.tokens, after.tokens):
                rows.append(
                    {
                        "choice": before.index,
                        "change": change,
                        **self._token(before.tokens, at, ""),
                        **self._token(after.tokens, there, "_after"),
                    }
                )
        return _frame(rows, ALIGNED_COLUMNS)

    def why_frame(self) -> pd.DataFrame:
        """What each first divergence would have been under parts of the changes; one row a part.

        Columns: choice, position, changed (the parameters taken from the run after, joined by " + "; "" for none),
        token and token_id drawn under them (NA where such a mixture is no request), flips (whether that is the token of
        the run after), cause (whether this is one of the smallest parts that do), prob and prob_after (of the run
        before's token and of the run after's, in the law drawn from), lead (by how much the latter is ahead, in logits
        with their noise).
        """
        rows = []
        for _, after in self._pairs:
            found = self.divergences[after.index]
            if found is None or found.reason is None:
                continue
            for changed, drawn in found.reason.trials:
                row: dict[str, Any] = {
                    "choice": after.index,
                    "position": found.position,
                    "changed": " + ".join(changed),
                    "cause": changed in found.reason.causes,
                }
                if drawn is None:
                    row |= {"token": None, "token_id": -1, "flips": None, "prob": nan, "prob_after": nan, "lead": nan}
                else:
                    row |= {"token": self._named(drawn.token), "token_id": drawn.token}
                    row |= {"flips": drawn.token == _id(after.tokens, found.position), "prob": drawn.prob}
                    row |= {"prob_after": drawn.prob_after, "lead": drawn.lead}
                rows.append(row)
        return _frame(rows, WHY_COLUMNS)

    def __len__(self) -> int:
        return len(self._pairs)

    def __repr__(self) -> str:
        lines = [self._head()]
        for before, after in self._pairs[:_SHOWN]:
            found = self.divergences[before.index]
            if found is None:
                lines.append(f"[{before.index}] the same {len(before.tokens)} tokens")
                continue
            lines.append(f"[{before.index}] {self._where(before, after, found)}")
            for sign, choice in (("-", before), ("+", after)):
                lines.append(f"    {sign} {self._around(choice.tokens, found.position)}")
        return "\n".join([*lines, *self._rest()])

    def _repr_html_(self) -> str:
        parts = [f"<div><b>{escape(self._head())}</b></div>"]
        for before, after in self._pairs[:_SHOWN]:
            found = self.divergences[before.index]
            said = f"the same {len(before.tokens)} tokens" if found is None else self._where(before, after, found)
            parts.append(f'<div style="margin-top:.6em">[{before.index}] {escape(said)}</div>')
            if found is not None:
                parts.append(self._side(before, after))
        parts += [f"<div>{escape(line)}</div>" for line in self._rest()]
        return f'<div style="max-width:60em;font:13px/1.5 system-ui,sans-serif">{"".join(parts)}</div>'

    # --- words -----------------------------------------------------------------------------------------------------

    def _head(self) -> str:
        said = [f"{name} {short(old)} → {short(new)}" for name, (old, new) in self.changes.items()]
        more = max((after.given - before.given for before, after in self._pairs), default=0)
        said += [f"{more} more of the tokens given"] if more > 0 else []
        return f"Diff: {', '.join(said) or 'the same parameters'}"

    def _rest(self) -> list[str]:
        """What is not shown, in a word."""
        rest = [self.divergences[before.index] for before, _ in self._pairs[_SHOWN:]]
        same = sum(found is None for found in rest)
        return [f"… and {len(rest)} more choices, {same} of them the same: frame() has them"] if rest else []

    def _where(self, before: Choice, after: Choice, found: Divergence) -> str:
        pair = (self._spelled(choice.tokens, found.position) for choice in (before, after))
        return f"first difference at position {found.position}, {' → '.join(pair)}: {found.cause}"

    def _spelled(self, tokens: Tokens, at: int) -> str:
        return self._label(tokens, at) if at < len(tokens) else "(ended)"

    def _label(self, tokens: Tokens, at: int) -> str:
        return label(tokens.bytes[at], name=name_of(int(tokens.ids[at]), self._names), limit=24)

    def _around(self, tokens: Tokens, at: int) -> str:
        first, last = max(0, at - _AROUND), min(len(tokens), at + _AROUND + 1)
        shown = [self._label(tokens, t) for t in range(first, last)]
        if at < last:
            shown[at - first] = f"»{shown[at - first]}«"
        return f"{'… ' if first else ''}{' '.join(shown)}{' …' if last < len(tokens) else ''}"

    def _side(self, before: Choice, after: Choice) -> str:
        """Both runs' tokens as two lines; what differs is marked by more than its colour."""
        inks = {"removed": "#fbe3d6;text-decoration:line-through", "added": "#d9ebf7;font-weight:600"}
        sides: tuple[list[str], list[str]] = ([], [])
        for change, at, there in aligned(before.tokens, after.tokens):
            for side, choice, place, ink in zip(sides, (before, after), (at, there), inks.values(), strict=True):
                if place is not None:
                    text = escape(_readable(choice.tokens.bytes[place], self._named_at(choice.tokens, place)))
                    mark = "" if change == "same" else f' style="background:{ink};color:#111"'
                    side.append(f"<span{mark}>{text}</span>")
        rows = "".join(
            f'<tr><td style="vertical-align:top;text-align:left">{name}</td>'
            f'<td style="text-align:left;white-space:pre-wrap">{"".join(side)}</td></tr>'
            for name, side in zip(("before", "after"), sides, strict=True)
        )
        return f"<table>{rows}</table>"

    def _named_at(self, tokens: Tokens, at: int) -> str:
        return name_of(int(tokens.ids[at]), self._names)

    def _named(self, token: int) -> str:
        backend = self.after.lab.backend if self.after.lab else None
        known = backend.token_bytes if isinstance(backend, LogitsBackend) else ()
        return _readable(TokenNames(known, {}).bytes_of(token), name_of(token, self._names))

    @property
    def _names(self) -> Mapping[int, str]:
        return self.after.names

    def _text(self, tokens: Tokens, at: int | None) -> str | None:
        return None if at is None or at >= len(tokens) else _readable(tokens.bytes[at], self._named_at(tokens, at))

    def _token(self, tokens: Tokens, at: int | None, suffix: str) -> dict[str, Any]:
        row = {
            "position": -1 if at is None else at,
            "token": self._text(tokens, at),
            "token_id": _id(tokens, at),
            "logprob": nan if at is None else float(tokens.logprob[at]),
            "sampling_logprob": nan if at is None else float(tokens.sampling_logprob[at]),
        }
        return {f"{name}{suffix}": value for name, value in row.items()}

    # --- reasons ---------------------------------------------------------------------------------------------------

    @cached_property
    def _settings(self) -> tuple[Setting, Setting]:
        return (
            Setting(self.before.request, self.before.seed, self.before.order),
            Setting(self.after.request, self.after.seed, self.after.order),
        )

    def _divergence(self, before: Choice, after: Choice) -> Divergence | None:
        at = first_difference(before.tokens, after.tokens)
        if at is None:
            return None
        if at < max(before.given, after.given):
            return Divergence(at, "the token was given, not drawn", None)
        if at >= min(len(before.tokens), len(after.tokens)):
            return Divergence(at, self._end(before, after), None)
        reason = self._reason(before, after, at)
        return Divergence(at, self._because(reason), reason)

    def _end(self, before: Choice, after: Choice) -> str:
        which, ended = min(("before", before), ("after", after), key=lambda run: len(run[1].tokens))
        reason = ended.finish_reason
        at_end_token = ended.tokens.segment[-1:] == ("end",)
        names = ("ignore_eos",) if at_end_token else _ENDS.get(reason, ())
        found = [name for name in names if name in self.changes]
        by = f", by {_joined(found, last=' or ')}" if found else ""
        return f"the run {which} had ended ({reason}){by}"

    def _reason(self, before: Choice, after: Choice, at: int) -> Reason | None:
        lab = self.after.lab
        pair = int(before.tokens.ids[at]), int(after.tokens.ids[at])
        if lab is None or not isinstance(lab.backend, LogitsBackend) or min(pair) < 0:
            return None
        if self.before.model != self.after.model or self.before.request.subject != self.after.request.subject:
            return None
        step = Step(
            lab.backend,
            before=self._settings[0],
            after=self._settings[1],
            made=before.tokens.ids[:at],
            choice=before.index,
            tokens=pair,
            given=min(after.given, at),
            rows=len(self.after.choices),
        )
        return step.reason(tuple(self.changes))

    def _because(self, reason: Reason | None) -> str:
        if self.before.model != self.after.model:
            return f"another model, {self.after.model} after {self.before.model}"
        if reason is None:
            names = list(self.changes) or ["nothing that is known"]
            said = names[0] if len(names) == 1 else f"one of {', '.join(names)}"
            return f"{said}, as far as it can be told without logits"
        if not reason.reproduced:
            return "no parameter's doing: at this step the tokens lie closer together than rounding, or weights changed"
        return ", or ".join(f"{_joined(cause)} {'together' if len(cause) > 1 else 'alone'}" for cause in reason.causes)


def first_difference(before: Tokens, after: Tokens) -> int | None:
    """The first position at which two runs differ, one of them having ended counts; None where they are the same."""
    ours, theirs = _keys(before), _keys(after)
    for at, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return at
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


def aligned(before: Tokens, after: Tokens) -> list[tuple[str, int | None, int | None]]:
    """Two runs' tokens side by side: what became of each (same, replaced, removed, added), and where they stand."""
    rows: list[tuple[str, int | None, int | None]] = []
    matcher = SequenceMatcher(None, _keys(before), _keys(after), autojunk=False)
    for kind, i, j, k, m in matcher.get_opcodes():
        for step in range(max(j - i, m - k)):
            ours = i + step if i + step < j else None
            theirs = k + step if k + step < m else None
            change = "same" if kind == "equal" else "replaced"
            change = "removed" if theirs is None else "added" if ours is None else change
            rows.append((change, ours, theirs))
    return rows


def _keys(tokens: Tokens) -> list[tuple[int, TokenBytes]]:
    return list(zip(tokens.ids.tolist(), tokens.bytes, strict=True))


def _joined(names: Sequence[str], *, last: str = " and ") -> str:
    return last.join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _id(tokens: Tokens, at: int | None) -> int:
    return -1 if at is None or at >= len(tokens) else int(tokens.ids[at])


def _readable(raw: TokenBytes, name: str) -> str:
    return name if raw is None else raw.decode("utf-8", "replace")


def _frame(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]) -> pd.DataFrame:
    return build({name: [row[name] for row in rows] for name in kinds}, kinds)
