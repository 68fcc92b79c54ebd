"""Two runs of one request compared: where their tokens first differ, and which parameter change is the cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import nan
from typing import TYPE_CHECKING, Any, NamedTuple

from llmlab.counterfactuals.alignment import aligned, first_difference
from llmlab.counterfactuals.answered import Answered
from llmlab.counterfactuals.attribution import Reason, Setting, Step, changes
from llmlab.display.diff import MARKS, frame_of, marked
from llmlab.display.html import Markup, fragment
from llmlab.errors import RequestError, short
from llmlab.frames.schema import build
from llmlab.protocol.arguments import choice_at
from llmlab.protocol.backend import Backend, LogitsBackend
from llmlab.protocol.completion import Choice, TokenBytes, Tokens
from llmlab.text.spelling import label, name_of
from llmlab.text.token_names import TokenNames

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

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
#: Finish reason -> the fields that can end an answer with it.
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
#: How many tokens are shown on each side of a first difference, and how many choices.
_AROUND, _SHOWN = 8, 8


class FirstDifference(NamedTuple):
    """Where a choice of two runs first differs, and why.

    `reason` is None where the token was not sampled, or where the model's logits cannot be read.
    """

    position: int
    cause: str
    reason: Reason | None


class Diff:
    """An answer compared with the same request under other parameters; `result.diff()` returns one.

    `frame()` has one row per choice: the first token that differs, and the cause. `tokens_frame()` has both runs'
    tokens, aligned. `why_frame()` has, for each first difference, the token that each combination of the changed
    parameters would have drawn there.

    Args:
        before: the one answer.
        after: the other, whose choices are compared with those of the same index.
        backend: the model of the second run, which is asked for logits to find causes; None to leave that out.
    """

    def __init__(self, before: Answered, after: Answered, *, backend: Backend | None = None) -> None:
        self._backend = backend
        self.before = before
        self.after = after
        theirs = {choice.index: choice for choice in after.choices}
        self._pairs = [(choice, theirs[choice.index]) for choice in before.choices if choice.index in theirs]
        for choice in (*before.choices, *after.choices):
            if not choice.is_listed:
                raise RequestError(
                    f"the endpoint did not return the tokens of choice {choice.index}, so they cannot be compared: "
                    "compare the `texts`"
                )

    @cached_property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """The parameters that differ: name -> (value before, value after); `order` is one of them."""
        return changes(self._settings[0], self._settings[1])

    @cached_property
    def first_differences(self) -> dict[int, FirstDifference | None]:
        """Index of a choice -> where and why it first differs; None where it does not."""
        return {before.index: self._first_difference(before, after) for before, after in self._pairs}

    def frame(self) -> pd.DataFrame:
        """One row per choice.

        Columns: choice, same (whether all tokens are equal), position (of the first difference), token and token_id
        there, token_after and token_id_after (NaN where that run had ended), cause (in words), tokens and tokens_after
        (the number of tokens), finish_reason, finish_reason_after.
        """
        rows = []
        for before, after in self._pairs:
            found = self.first_differences[before.index]
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
        """Both runs' tokens, aligned: one row per pair of corresponding tokens, or per token without a counterpart.

        Columns: choice, change (same, replaced, removed, added), then position, token, token_id, logprob (raw),
        sampling_logprob of the run before, and the same of the run after; NaN where that run has no token there.
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
        """What each first difference would have been under each combination of the changes; one row per combination.

        Columns: choice, position, changed (the parameters taken from the run after, joined by " + "; "" for none),
        token and token_id drawn under them (NaN where the combination is not a valid request), flips (whether that is
        the token of the run after), cause (whether this is one of the smallest combinations that flip it), prob and
        prob_after (sampling probabilities of the run before's token and of the run after's), lead (perturbed logit of
        the latter minus that of the former).
        """
        rows = []
        for _, after in self._pairs:
            found = self.first_differences[after.index]
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

    def plot(self, *, choice: int = 0, ax: Axes | None = None) -> Axes:
        """Plots both runs' logprobs along their aligned tokens; see `llmlab.plots.counterfactual.plot_diff`.

        Args:
            choice: the index of the choice.
            ax: where to draw; by default a new figure.

        Raises:
            IndexError: there is no such choice in both runs.
        """
        from llmlab.plots.counterfactual import plot_diff

        index = self._pairs[choice_at(choice, among=self._pairs)][0].index
        return plot_diff(self.tokens_frame(), choice=index, ax=ax)

    def __len__(self) -> int:
        return len(self._pairs)

    def __repr__(self) -> str:
        lines = [self._head()]
        for before, after in self._pairs[:_SHOWN]:
            found = self.first_differences[before.index]
            if found is None:
                lines.append(f"[{before.index}] the same {len(before.tokens)} tokens")
                continue
            lines.append(f"[{before.index}] {self._where(before, after, found)}")
            for sign, choice in (("-", before), ("+", after)):
                lines.append(f"    {sign} {self._around(choice.tokens, found.position)}")
        return "\n".join([*lines, *self._rest()])

    def _repr_html_(self) -> str:
        parts = [fragment("<div><b>{}</b></div>", self._head())]
        for before, after in self._pairs[:_SHOWN]:
            found = self.first_differences[before.index]
            said = f"the same {len(before.tokens)} tokens" if found is None else self._where(before, after, found)
            parts.append(fragment('<div style="margin-top:.6em">[{}] {}</div>', before.index, said))
            if found is not None:
                parts.append(self._side(before, after))
        parts += [fragment("<div>{}</div>", line) for line in self._rest()]
        return frame_of(parts)

    # --- text and HTML ---

    def _head(self) -> str:
        said = [f"{name} {short(old)} → {short(new)}" for name, (old, new) in self.changes.items()]
        more = max((after.given - before.given for before, after in self._pairs), default=0)
        said += [f"{more} more of the tokens given"] if more > 0 else []
        return f"Diff: {', '.join(said) or 'the same parameters'}"

    def _rest(self) -> list[str]:
        """A line about the choices that are not shown, where there are any."""
        rest = [self.first_differences[before.index] for before, _ in self._pairs[_SHOWN:]]
        same = sum(found is None for found in rest)
        return [f"… and {len(rest)} more choices, {same} of them the same: frame() has them"] if rest else []

    def _where(self, before: Choice, after: Choice, found: FirstDifference) -> str:
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

    def _side(self, before: Choice, after: Choice) -> Markup:
        """Both runs' tokens as two lines of HTML; differences are marked by more than a colour."""
        sides: tuple[list[Markup], list[Markup]] = ([], [])
        for change, at, there in aligned(before.tokens, after.tokens):
            for side, choice, place, kind in zip(sides, (before, after), (at, there), MARKS, strict=True):
                if place is not None:
                    text = _readable(choice.tokens.bytes[place], self._named_at(choice.tokens, place))
                    side.append(marked(text, "" if change == "same" else kind))
        rows = [
            fragment(
                '<tr><td style="vertical-align:top;text-align:left">{}</td>'
                '<td style="text-align:left;white-space:pre-wrap">{}</td></tr>',
                name,
                Markup("").join(side),
            )
            for name, side in zip(("before", "after"), sides, strict=True)
        ]
        return fragment("<table>{}</table>", Markup("").join(rows))

    def _named_at(self, tokens: Tokens, at: int) -> str:
        return name_of(int(tokens.ids[at]), self._names)

    def _named(self, token: int) -> str:
        known = self._backend.token_bytes if isinstance(self._backend, LogitsBackend) else ()
        names = TokenNames(known, self._names)
        return _readable(names.bytes_of(token), names.name(token))

    @property
    def _names(self) -> Mapping[int, str]:
        return self.after.control_tokens

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

    # --- causes ---

    @cached_property
    def _settings(self) -> tuple[Setting, Setting]:
        return Setting.of(self.before), Setting.of(self.after)

    def _first_difference(self, before: Choice, after: Choice) -> FirstDifference | None:
        at = first_difference(before.tokens, after.tokens)
        if at is None:
            return None
        if at < max(before.given, after.given):
            return FirstDifference(at, "the token was given, not drawn", None)
        if at >= min(len(before.tokens), len(after.tokens)):
            return FirstDifference(at, self._end(before, after), None)
        reason = self._reason(before, after, at)
        return FirstDifference(at, self._because(reason), reason)

    def _end(self, before: Choice, after: Choice) -> str:
        which, ended = min(("before", before), ("after", after), key=lambda run: len(run[1].tokens))
        reason = ended.finish_reason
        at_end_token = ended.tokens.segment[-1:] == ("end",)
        names = ("ignore_eos",) if at_end_token else _ENDS.get(reason, ())
        found = [name for name in names if name in self.changes]
        by = f", by {_joined(found, last=' or ')}" if found else ""
        return f"the run {which} had ended ({reason}){by}"

    def _reason(self, before: Choice, after: Choice, at: int) -> Reason | None:
        backend = self._backend
        pair = int(before.tokens.ids[at]), int(after.tokens.ids[at])
        if not isinstance(backend, LogitsBackend) or min(pair) < 0:
            return None
        if self.before.request.subject != self.after.request.subject:
            return None
        if self.before.model != self.after.model and not {self.before.model, self.after.model} <= {*backend.models}:
            return None
        step = Step(
            backend,
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
        if self.before.model != self.after.model and reason is None:
            return f"another model, {self.after.model} after {self.before.model}"
        if reason is None:
            names = list(self.changes) or ["nothing that is known"]
            said = names[0] if len(names) == 1 else f"one of {', '.join(names)}"
            return f"{said}, as far as it can be told without logits"
        if not reason.reproduced:
            return "no parameter's doing: at this step the tokens lie closer together than rounding, or weights changed"
        return ", or ".join(f"{_joined(cause)} {'together' if len(cause) > 1 else 'alone'}" for cause in reason.causes)


def _joined(names: Sequence[str], *, last: str = " and ") -> str:
    return last.join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _id(tokens: Tokens, at: int | None) -> int:
    return -1 if at is None or at >= len(tokens) else int(tokens.ids[at])


def _readable(raw: TokenBytes, name: str) -> str:
    return name if raw is None else raw.decode("utf-8", "replace")


def _frame(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]) -> pd.DataFrame:
    return build({name: [row[name] for row in rows] for name in kinds}, kinds)
