"""How sensitive an answer is to one parameter: where each choice first differs, for each of several values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.counterfactuals.alignment import first_difference
from llmlab.counterfactuals.answered import Answered
from llmlab.counterfactuals.rerun import changed_request, start
from llmlab.display.html import Markup, fragment
from llmlab.errors import RequestError
from llmlab.frames.schema import build, column_kind, plain
from llmlab.protocol.arguments import listed, order_name
from llmlab.protocol.backend import Backend, Stream
from llmlab.protocol.completion import Tokens
from llmlab.text.spelling import token_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


__all__ = ["Sensitivity", "start_each"]

_COLUMNS: dict[str, str] = {
    "choice": "index",
    "same": "flag",
    "position": "count",
    "token": "text",
    "token_after": "text",
    "tokens": "index",
    "tokens_after": "index",
}


#: How many rows, the first and the last, a table shows as text or in a notebook.
_SHOWN = 20
#: How many of the values are named above it.
_NAMED = 6


class Sensitivity:
    """An answer rerun with several values of one parameter; `result.sensitivity(temperature=[...])` returns one.

    Attributes:
        before: the answer.
        parameter: the parameter that is changed.
        values: its values.
        results: the answers, one per value.
    """

    def __init__(self, before: Answered, *, parameter: str, values: Sequence[Any], results: Sequence[Answered]) -> None:
        self.before = before
        self.parameter = parameter
        self.values = tuple(values)
        self.results = tuple(results)

    @property
    def own(self) -> Any:
        """The value of the parameter in the answer itself."""
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
        """One row per value and choice.

        Columns: the parameter, choice, same (whether all tokens are equal), position of the first token that differs
        (NaN where none does), token there, token_after (NaN where that run had ended), tokens and tokens_after (the
        number of tokens).
        """
        return self._frame.copy()

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Plots the first difference against the parameter; see `llmlab.plots.counterfactual.plot_sensitivity`."""
        from llmlab.plots.counterfactual import plot_sensitivity

        own = self.own if isinstance(self.own, int | float) else None
        return plot_sensitivity(self.frame(), parameter=self.parameter, own=own, ax=ax)

    def __repr__(self) -> str:
        return f"{self._head()}\n{self._frame.to_string(index=False, max_rows=_SHOWN)}"

    def _repr_html_(self) -> str:
        table = self._frame.to_html(index=False, max_rows=_SHOWN)
        return str(fragment("<div>{}</div>{}", self._head(), Markup(table)))

    def _head(self) -> str:
        same, rows = int(self._frame["same"].sum()), len(self._frame)
        from llmlab.plots.labels import value_name

        own, *named = (value_name(self.parameter, value) for value in (self.own, *self.values[:_NAMED]))
        values = ", ".join([*named, *(["…"] if len(self.values) > _NAMED else [])])
        return f"Sensitivity: {self.parameter} {own} → {values} · {same} of {rows} answers are the same"

    def _of(self, result: Answered) -> Any:
        """The parameter's value in an answer; a seed may have been drawn for it."""
        if self.parameter in ("order", "seed"):
            return getattr(result, self.parameter)
        return getattr(result.request, self.parameter)

    def _text(self, tokens: Tokens, at: int | None) -> str | None:
        if at is None or at >= len(tokens):
            return None
        return token_text(tokens.bytes[at], token_id=int(tokens.ids[at]), names=self.before.control_tokens)


def start_each(done: Answered, backend: Backend, moved: Mapping[str, Any]) -> tuple[str, list[Any], list[Stream]]:
    """Starts an answer's request once for each value of one parameter; see `Result.sensitivity`.

    Returns:
        The parameter, its values, and one stream per value.

    Raises:
        RequestError: not exactly one parameter is given, or a value is out of range; nothing was started.
    """
    if len(moved) != 1:
        given = ", ".join(moved) or "none"
        raise RequestError(f"give one parameter with a list of values, such as temperature=[0.2, 0.6]; got {given}")
    (parameter, values) = next(iter(moved.items()))
    if parameter == "n":
        raise RequestError("n changes no choice that is there, only how many there are", param="n")
    asked = [value.item() if isinstance(value, np.generic) else value for value in listed(parameter, values)]
    asked = [order_name(value) for value in asked] if parameter == "order" else asked
    if not asked:
        raise RequestError(f"{parameter} must be a list of values, at least one", param=parameter)
    is_order = parameter == "order"
    requests = [changed_request(done, {} if is_order else {parameter: value}) for value in asked]
    streams = [
        start(done, backend, request=request, order=value if is_order else None)
        for request, value in zip(requests, asked, strict=True)
    ]
    return parameter, asked, streams
