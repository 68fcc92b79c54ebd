"""What a search found: sequences with their probabilities, as frames, as a tree, and as a result like any other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.counterfactuals.answered import logits_backend
from llmlab.display.html import Markup, fragment
from llmlab.errors import cut
from llmlab.frames.schema import build
from llmlab.protocol.backend import GivenTokens
from llmlab.results.result import Asker, Result, keep
from llmlab.search.asked import Found, Searched
from llmlab.text.token_names import TokenNames

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from llmlab.counterfactuals.tree import Tree
    from llmlab.protocol.request import Request

__all__ = ["SearchResult", "searched"]

SEARCH_COLUMNS: dict[str, str] = {
    "rank": "index",
    "text": "text",
    "tokens": "index",
    "finish_reason": "text",
    "logprob": "number",
    "sampling_logprob": "number",
}
#: What each method says of a sequence besides.
_MORE: dict[str, dict[str, str]] = {
    "beam search": {"score": "number", "group": "index"},
    "sampling without replacement": {
        "perturbed_logprob": "number",
        "inclusion_probability": "number",
        "weight": "number",
    },
    "arithmetic sampling": {"code": "number"},
}
SEARCH_TOKENS_COLUMNS: dict[str, str] = {
    "rank": "index",
    "position": "index",
    "token": "token",
    "token_id": "count",
    "bytes": "bytes",
    "logprob": "number",
    "sampling_logprob": "number",
    "path_sampling_logprob": "number",
}
#: How many sequences, and how many characters of each, a terminal shows.
_SHOWN, _CHARACTERS = 16, 80


class SearchResult:
    """The sequences that a search found; `lab.beam_search` and others return one.

    `len(found)` is their number, `found[0]` the best one (or the one drawn first) as a choice with its text and tokens,
    and iterating yields them.

    Attributes:
        data: what was found and what was asked.
        result: the sequences as a Result, each a choice, with the statistics of every token: its frames, plots and
            `rerun` are there.
    """

    def __init__(self, data: Searched, result: Result, names: TokenNames) -> None:
        self.data = data
        self.result = result
        self._names = names

    @property
    def method(self) -> str:
        """The name of the search."""
        return self.data.method

    @property
    def request(self) -> Request:
        """The request that was searched, with the number of sequences as its `n`."""
        return self.data.request

    @property
    def threshold(self) -> float | None:
        """The perturbed log-probability above which every sequence of a sample without replacement is.

        It is -inf where the sample has every sequence, and None for other searches.
        """
        return self.data.threshold

    @property
    def texts(self) -> list[str]:
        """The text of each sequence."""
        return self.result.texts

    def frame(self) -> pd.DataFrame:
        """One row per sequence, the best one or the one drawn first at the top.

        Columns: rank (from 1), text, tokens (how many, the end token included), finish_reason, logprob (of the whole
        sequence in the raw distribution), sampling_logprob (in the one that was searched). Beam search adds score (what
        the sequences are ranked by) and group; sampling without replacement perturbed_logprob, inclusion_probability
        (given the threshold) and weight (the probability over that, an importance weight); arithmetic sampling code.
        Natural logs.
        """
        found = self.data.found
        columns: dict[str, Any] = {
            "rank": range(1, len(found) + 1),
            "text": self.texts,
            "tokens": [len(one.ids) for one in found],
            "finish_reason": [one.finish_reason for one in found],
            "logprob": [float(choice.tokens.logprob.sum(dtype=np.float64)) for choice in self.result.choices],
            "sampling_logprob": [sum(one.logprobs) for one in found],
        }
        more = _MORE[self.method]
        return build(
            {**columns, **{name: [one.numbers[name] for one in found] for name in more}}, {**SEARCH_COLUMNS, **more}
        )

    def tokens_frame(self) -> pd.DataFrame:
        """One row per token of each sequence.

        Columns: rank (of the sequence), position, token, token_id, bytes, logprob (raw), sampling_logprob (in the
        distribution that was searched), path_sampling_logprob (of the sequence up to this token).
        """
        found = self.data.found
        ids = [token for one in found for token in one.ids]
        columns: dict[str, Any] = {
            "rank": [rank for rank, one in enumerate(found, start=1) for _ in one.ids],
            "position": [position for one in found for position in range(len(one.ids))],
            **self._names.columns(ids),
            "logprob": np.concatenate([choice.tokens.logprob for choice in self.result.choices]),
            "sampling_logprob": [logprob for one in found for logprob in one.logprobs],
            "path_sampling_logprob": np.concatenate([np.cumsum(one.logprobs) for one in found]),
        }
        return build(columns, SEARCH_TOKENS_COLUMNS)

    @cached_property
    def tree(self) -> Tree:
        """The sequences as one tree of tokens: what begins alike is there once. The best sequence is marked in it."""
        from llmlab.counterfactuals.tree import Node, Tree

        nodes: list[Node] = []
        at: dict[tuple[int, ...], int] = {}
        first = self.data.found[0].ids
        for one, choice in zip(self.data.found, self.result.choices, strict=True):
            raw = searching = 0.0
            for position, token in enumerate(one.ids):
                path = one.ids[: position + 1]
                logprob, sampling = float(choice.tokens.logprob[position]), one.logprobs[position]
                raw, searching = raw + logprob, searching + sampling
                if path in at:
                    continue
                at[path] = len(nodes)
                last = position == len(one.ids) - 1
                nodes.append(
                    Node(
                        parent=at[path[:-1]] if position else -1, depth=position + 1, token_id=token,
                        rank=int(choice.tokens.rank[position]), logprob=logprob, sampling_logprob=sampling,
                        path_logprob=raw, path_sampling_logprob=searching, taken=path == first[: position + 1],
                        end=last and one.finish_reason == "stop",
                    )
                )  # fmt: skip
        return Tree(tuple(nodes), position=0, context="", names=self._names)

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Plots the log-probability of each sequence; see `llmlab.plots.search.plot_search`. `tree.plot()` has tokens.

        Args:
            ax: where to draw; by default a new figure.
        """
        from llmlab.plots.search import plot_search

        return plot_search(self.frame(), threshold=self.threshold, heading=self.summary.rpartition(":")[0], ax=ax)

    @property
    def summary(self) -> str:
        """The method with its arguments, and how many sequences it found."""
        usual = _usual(self.data)
        settings = {name: value for name, value in self.data.settings.items() if name not in usual}
        said = "".join(
            f", {name} {value:g}" if isinstance(value, float) else f", {name} {value}"
            for name, value in settings.items()
        )
        seed = "" if self.data.seed is None else f", seed {self.data.seed}"
        return f"{self.method}{said}{seed}: {len(self)} {'sequence' if len(self) == 1 else 'sequences'}"

    def __len__(self) -> int:
        return len(self.data.found)

    def __getitem__(self, rank: int) -> Any:
        return self.result[rank]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.result)

    def __repr__(self) -> str:
        shown = list(zip(self.data.found, self.texts, strict=True))[:_SHOWN]
        lines = [self.summary, *(_line(rank, one, text) for rank, (one, text) in enumerate(shown, start=1))]
        if len(self) > _SHOWN:
            lines.append(f"… and {len(self) - _SHOWN:,} more: frame() has them")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return str(fragment("<div>{}</div>{}", self.summary, Markup(self.frame().head(_SHOWN).to_html(index=False))))


def _usual(data: Searched) -> Sequence[str]:
    """The names of arguments that have the values which change nothing."""
    usual = {"groups": 1, "diversity_penalty": 0.0, "length_penalty": 1.0, "early_stopping": False}
    return [name for name, value in usual.items() if data.settings.get(name) == value]


def _line(rank: int, one: Found, text: str) -> str:
    name, value = next(iter(one.numbers.items()))
    said = cut(repr(text), most=_CHARACTERS)
    end = "" if one.finish_reason == "stop" else f"  ({one.finish_reason})"
    return f"{rank:3d}  logprob {sum(one.logprobs):8.3f}  {name} {value:8.3f}  {said}{end}"


def searched(lab: Asker, data: Searched) -> SearchResult:
    """What a search found, its sequences scored in one pass of the model; the result becomes the lab's `last`."""
    given = [
        GivenTokens(at, np.array(one.ids, np.int32), finish_reason=one.finish_reason)
        for at, one in enumerate(data.found)
    ]
    model = logits_backend(lab.backend)
    done = model.score(data.request, given, seed=data.seed or 0, order=data.order)
    return SearchResult(data, keep(lab, done), TokenNames(model.token_bytes, model.token_names))
