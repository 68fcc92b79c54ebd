"""How far a result holds as one of its parameters moves: where each choice first differs, for each value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.counterfactuals.diff import first_difference
from llmlab.counterfactuals.rerun import changed_request, start
from llmlab.errors import RequestError
from llmlab.frames.schema import build, column_kind, plain
from llmlab.protocol.arguments import listed
from llmlab.results.result import lab_of, read_all
from llmlab.text.spelling import token_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from llmlab.protocol.completion import Tokens
    from llmlab.results.result import Result

__all__ = ["Divergences", "divergences"]

_COLUMNS: dict[str, str] = {
    "choice": "index",
    "same": "flag",
    "position": "count",
    "token": "text",
    "token_after": "text",
    "tokens": "index",
    "tokens_after": "index",
}


#: A table as text, or in a notebook, has so many rows: the first and the last.
_SHOWN = 20
#: And so many of the values are named above it.
_NAMED = 6


class Divergences:
    """A result rerun with several values of one parameter; `result.divergences(temperature=[...])` makes one.

    Attributes:
        before: the result.
        parameter: which one moves.
        values: what to.
        results: one for each value, each with `before` as its parent.
    """

    def __init__(self, before: Result, *, parameter: str, values: Sequence[Any], results: Sequence[Result]) -> None:
        self.before = before
        self.parameter = parameter
        self.values = tuple(values)
        self.results = tuple(results)

    @property
    def own(self) -> Any:
        """The value that the result itself was made with."""
        return self._of(self.before)

    @cached_property
    def _frame(self) -> pd.DataFrame:
        rows: dict[str, list[Any]] = {name: [] for name in (self.parameter, *_COLUMNS)}
        for result in self.results:
            theirs = {choice.index: choice for choice in result.choices}
            for choice in self.before.choices:
                other = theirs[choice.index]
                at = first_difference(choice.tokens, other.tokens)
                rows[self.parameter].append(plain(self._of(result)))
                rows["choice"].append(choice.index)
                rows["same"].append(at is None)
                rows["position"].append(-1 if at is None else at)
                rows["token"].append(self._text(choice.tokens, at))
                rows["token_after"].append(self._text(other.tokens, at))
                rows["tokens"].append(len(choice.tokens))
                rows["tokens_after"].append(len(other.tokens))
        return build(rows, {self.parameter: column_kind(self.parameter), **_COLUMNS})

    def frame(self) -> pd.DataFrame:
        """One row a value and choice.

        Columns: the parameter, choice, same (every token), position of the first token that differs (NA where none
        does), token there, token_after (NA where that run had ended), tokens, tokens_after (how many there are).
        """
        return self._frame.copy()

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Divergence position against the parameter; see `llmlab.plots.counterfactual.plot_divergences`."""
        from llmlab.plots.counterfactual import plot_divergences

        own = self.own if isinstance(self.own, int | float) else None
        return plot_divergences(self.frame(), parameter=self.parameter, own=own, ax=ax)

    def __repr__(self) -> str:
        return f"{self._head()}\n{self._frame.to_string(index=False, max_rows=_SHOWN)}"

    def _repr_html_(self) -> str:
        return f"<div>{escape(self._head())}</div>{self._frame.to_html(index=False, max_rows=_SHOWN)}"

    def _head(self) -> str:
        same, rows = int(self._frame["same"].sum()), len(self._frame)
        from llmlab.plots.labels import value_name

        own, *named = (value_name(self.parameter, value) for value in (self.own, *self.values[:_NAMED]))
        values = ", ".join([*named, *(["…"] if len(self.values) > _NAMED else [])])
        return f"Divergences: {self.parameter} {own} → {values} · {same} of {rows} answers are the same"

    def _of(self, result: Result) -> Any:
        """The parameter's value that a result was made with; a seed may have been drawn for it."""
        if self.parameter in ("order", "seed"):
            return getattr(result, self.parameter)
        return getattr(result.request, self.parameter)

    def _text(self, tokens: Tokens, at: int | None) -> str | None:
        if at is None or at >= len(tokens):
            return None
        return token_text(tokens.bytes[at], token_id=int(tokens.ids[at]), names=self.before.names)


def divergences(result: Result, moved: Mapping[str, Any]) -> Divergences:
    """See `Result.divergences`."""
    if len(moved) != 1:
        given = ", ".join(moved) or "none"
        raise RequestError(f"give one parameter with a list of values, such as temperature=[0.2, 0.6]; got {given}")
    (parameter, values) = next(iter(moved.items()))
    if parameter == "n":
        raise RequestError("n changes no choice that is there, only how many there are", param="n")
    plain = [value.item() if isinstance(value, np.generic) else value for value in listed(parameter, values)]
    if not plain:
        raise RequestError(f"{parameter} must be a list of values, at least one", param=parameter)
    lab = lab_of(result)
    asked = [
        (
            changed_request(result, {} if parameter == "order" else {parameter: value}),
            value if parameter == "order" else None,
        )
        for value in plain
    ]
    sources = [start(lab, result, request=request, order=order) for request, order in asked]
    return Divergences(result, parameter=parameter, values=plain, results=read_all(lab, sources, parent=result))
