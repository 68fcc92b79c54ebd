"""Two models over the same tokens: how their distributions differ, and where they would draw another token."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from llmlab.display.html import Markup, fragment
from llmlab.distributions.divergence import Divergences, divergences
from llmlab.distributions.draws import Noise, coupled_difference
from llmlab.errors import RequestError, cut, short
from llmlab.protocol.arguments import file_path, whole
from llmlab.protocol.backend import GivenTokens, LogitsBackend, Scoring
from llmlab.protocol.request import PromptRequest
from llmlab.results.next_token import NextToken
from llmlab.results.next_tokens import read_tokens
from llmlab.results.result import Result
from llmlab.text.token_names import TokenNames

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Comparison", "compared"]

#: How many characters of a text a table shows.
_SHOWN = 40


class Draws(NamedTuple):
    """What the request's seed draws at T positions from each model's distribution, after the same tokens."""

    differ: Float64[np.ndarray, " T"]  #: the probability, over all seeds, that the two draws are different tokens
    own: Int64[np.ndarray, " T"]
    other: Int64[np.ndarray, " T"]
    margin: Float64[np.ndarray, " T"]  #: nats by which the other's draw beats the first's, in the other; 0 where equal


class Text(NamedTuple):
    """One choice of one text, as both models read it."""

    text: int
    choice: int
    ids: Int64[np.ndarray, " T"]
    values: Divergences
    draws: Draws


class Comparison:
    """The next-token distributions of two models, p and q, after the same tokens; `lab.compare` returns one.

    `texts_frame()` has one row per text, `frame()` one per token, `classes_frame()` one per kind of token, and
    `entropy_frame()` one per range of the first model's entropy.

    Attributes:
        names: of the two models.
        results: the texts, with the statistics of the first model.
    """

    def __init__(
        self,
        names: tuple[str, str],
        results: Sequence[Result],
        texts: Sequence[Text],
        *,
        other: LogitsBackend,
        other_model: str | None,
        token_names: TokenNames,
    ) -> None:
        self.names = names
        self.results = tuple(results)
        self._texts = tuple(texts)
        self._other, self._other_model = other, other_model
        self._token_names = token_names

    @cached_property
    def _frame(self) -> pd.DataFrame:
        from llmlab.frames.comparison import comparison_frame

        return comparison_frame(self._texts, self._token_names)

    def frame(self) -> pd.DataFrame:
        """One row per token.

        Columns: text, choice, position, token, token_id, bytes, token_class (`llmlab.text.token_class`); logprob and
        other_logprob, rank and other_rank (from 1) of the token; entropy and other_entropy; kl, from the first model
        to the other; reverse_kl; jensen_shannon; total_variation; top and other_top (the most likely token ids);
        same_top; differ_probability (of the two draws with one seed, over all seeds); draw and other_draw (token ids,
        with this seed); same_draw; margin (nats by which the other's draw beats the first's, in the other's
        distribution). Raw distributions; draws are from the ones that the request's fields make. Natural logs.
        """
        return self._frame.copy()

    def texts_frame(self) -> pd.DataFrame:
        """One row per text and choice.

        Columns: text, choice, tokens; kl, reverse_kl, jensen_shannon, total_variation (means over the tokens); most_kl;
        same_top (share of the tokens); logprob and other_logprob (of all tokens); first_difference (the first position
        where the seed draws another token; NaN where none), draw and other_draw there, and margin.
        """
        from llmlab.frames.comparison import texts_frame

        return texts_frame(self._frame)

    def classes_frame(self) -> pd.DataFrame:
        """One row per kind of token, those that differ most first.

        Columns: token_class, tokens, kl (mean), kl_error (its standard error; NaN for one token), same_top, same_draw
        (shares), differ_probability (mean).
        """
        from llmlab.frames.comparison import classes_frame

        return classes_frame(self._frame)

    def entropy_frame(self, *, ranges: int = 8) -> pd.DataFrame:
        """One row per range of the first model's entropy, each with about as many tokens.

        Columns: low and high (nats), and those of `classes_frame` after its first.

        Raises:
            RequestError: `ranges` is no positive integer.
        """
        from llmlab.frames.comparison import entropy_frame

        return entropy_frame(self._frame, ranges=whole("ranges", ranges, least=1))

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Plots the divergence of each token against the entropy; see `llmlab.plots.comparison.plot_comparison`."""
        from llmlab.plots.comparison import plot_comparison

        return plot_comparison(self.frame(), names=self.names, ax=ax)

    def plot_tokens(self, *, text: int = 0, choice: int = 0, ax: Axes | None = None) -> Axes:
        """Plots the divergence along one text; see `llmlab.plots.comparison.plot_comparison_tokens`."""
        from llmlab.plots.comparison import plot_comparison_tokens

        return plot_comparison_tokens(self.frame(), names=self.names, text=text, choice=choice, ax=ax)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Returns an HTML page of every text as both models read it, side by side, coloured by probability.

        Args:
            path: a file to write the page to as well.

        Raises:
            RequestError: the path is not one.
        """
        from llmlab.display.html import render
        from llmlab.display.strip import strip
        from llmlab.display.theme import page_sheet

        target = None if path is None else file_path(path)
        pairs = [
            tuple(Markup(strip(one)) for one in (result.data, self._as_the_other_reads(result)))
            for result in self.results
        ]
        html = render("comparison", names=self.names, sheet=page_sheet(), table=self._table(), pairs=pairs)
        if target is not None:
            target.write_text(html, encoding="utf-8")
        return html

    def _as_the_other_reads(self, result: Result) -> Any:
        request = PromptRequest(prompt=tuple(result.data.prompt_ids.tolist()), model=self._other_model)
        given = [GivenTokens(choice.index, choice.tokens.ids, choice.finish_reason) for choice in result.choices]
        return self._other.score_all([Scoring(request.replace(n=len(given)), given, result.seed)])[0]

    def _table(self) -> Markup:
        frame = self.texts_frame()
        # A text's own rows follow each other; its beginning says which it is.
        texts = [cut(self.results[text].texts[0], most=_SHOWN) for text in frame["text"]]
        return Markup(
            frame.assign(text=texts).to_html(index=False, max_rows=40, na_rep="", float_format="{:.3g}".format)
        )

    def __len__(self) -> int:
        return len(self._frame)

    def __repr__(self) -> str:
        frame = self._frame
        if not len(frame):
            return f"Comparison: {self.names[0]} and {self.names[1]}: no tokens"
        drawn = frame["same_draw"].astype(float).mean()
        return (
            f"Comparison: {self.names[0]} and {self.names[1]} over {len(frame):,} tokens · mean KL "
            f"{frame['kl'].mean():.2e} nats · same most likely token at {frame['same_top'].mean():.1%} · same draw at "
            f"{drawn:.1%}"
        )

    def _repr_html_(self) -> str:
        return str(fragment("<div>{}</div>{}", repr(self), self._table()))


def compared(
    results: Sequence[Result],
    model: LogitsBackend,
    other: LogitsBackend,
    *,
    names: tuple[str, str],
    other_model: str | None = None,
) -> Comparison:
    """Reads every choice of some results with two models.

    Args:
        results: as the first model reads them.
        model: the first model, p.
        other: the other, q.
        names: what they are called.
        other_model: the name by which the other is asked, of an adapter for one; None for its own.

    Raises:
        RequestError: the models' tokens are not the same.
    """
    _check_tokens(model, other)
    texts, token_names = [], TokenNames(model.token_bytes, model.token_names)
    for at, result in enumerate(results):
        for choice in result.choices:
            if not len(choice.tokens):
                continue
            own = read_tokens(result.data, model, choice=choice.index, model=result.request.model)
            theirs = read_tokens(result.data, other, choice=choice.index, model=other_model)
            # One of them may be padded: what it has beyond the other's tokens is no token.
            V = min(own.logits.shape[1], theirs.logits.shape[1])
            ids = choice.tokens.ids.astype(np.int64)
            values = divergences(own.logits[:, :V], theirs.logits[:, :V], ids)
            drawn = _draws(list(own), list(theirs), V=V)
            texts.append(Text(at, choice.index, ids, values, drawn))
    return Comparison(names, results, texts, other=other, other_model=other_model, token_names=token_names)


def _check_tokens(model: LogitsBackend, other: LogitsBackend) -> None:
    if model is other or model.token_bytes == other.token_bytes:
        return
    pairs = enumerate(zip(model.token_bytes, other.token_bytes, strict=False))
    first = next((i for i, (one, two) in pairs if one != two), min(len(model.token_bytes), len(other.token_bytes)))
    one, two = (short(table[first] if first < len(table) else None) for table in (model.token_bytes, other.token_bytes))
    raise RequestError(
        f"the models have other tokens: id {first} is {one} in one and {two} in the other, so that their "
        "distributions cannot be compared token by token",
        param="other",
    )


def _draws(own: Sequence[NextToken], theirs: Sequence[NextToken], *, V: int) -> Draws:
    T = len(own)
    differ, margin = np.zeros(T), np.zeros(T)
    drawn: Int64[np.ndarray, "2 T"] = np.full((2, T), -1, np.int64)
    for at, steps in enumerate(zip(own, theirs, strict=True)):
        p, q = (step.sampling_logprobs()[:V] for step in steps)
        differ[at] = min(max(coupled_difference(np.exp(p), np.exp(q)), 0.0), 1.0)
        if (seed := steps[0].seed) is None:
            continue
        drawn[:, at] = [step.sample([seed])[0] for step in steps]
        mine, other = drawn[:, at]
        if mine != other:
            noise = Noise(seed, steps[0].choice, len(steps[0].made)).values(steps[1].logits.shape[0])
            assert noise is not None
            margin[at] = (q[other] + noise[other]) - (q[mine] + noise[mine])
    return Draws(differ, drawn[0], drawn[1], margin)
