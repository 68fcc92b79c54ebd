"""The next-token distribution of one step under a grid of sampling parameters, from logits that were computed once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int32

from llmlab.distributions.blocks import blocks
from llmlab.distributions.statistics import FEWEST_IDS, row_statistics
from llmlab.distributions.step import Step, placed_rows
from llmlab.errors import RequestError
from llmlab.frames.schema import column_kind, plain
from llmlab.protocol.arguments import most
from llmlab.results.step_request import StepRequest, token_ids
from llmlab.text.token_names import Token, TokenNames

if TYPE_CHECKING:
    import pandas as pd

#: The most rows that a frame may have.
MOST_ROWS = 5_000_000


class NextTokenGrid:
    """The next-token distribution in each of the C cells of a grid; `NextToken.sweep` makes one.

    A cell is a combination of the grid's values. Nothing is computed until it is asked for, and the model is not run
    again.

    Attributes:
        grid: field -> its values; cells are ordered with the last field varying fastest.
        order: the name of the order of the sampler's stages.
    """

    def __init__(
        self, step: Step, asked: StepRequest, *, names: TokenNames, grid: Mapping[str, Sequence[Any]], order: str
    ) -> None:
        self._step = step
        self._asked = asked
        self._names = names
        self.grid = {name: tuple(values) for name, values in grid.items()}
        self.order = order

    @classmethod
    def of(
        cls, step: Step, asked: StepRequest, *, names: TokenNames, fields: Mapping[str, Any], order: str
    ) -> NextTokenGrid:
        """The grid over every field that has a list of values; the other fields are fixed.

        Raises:
            RequestError: a field is unknown or out of range, or its list is empty.
        """
        grid = {name: list(values) for name, values in fields.items() if _varied(values)}
        if not all(grid.values()):
            empty = next(name for name, values in grid.items() if not values)
            raise RequestError(f"{empty} is varied over no value at all", param=empty)
        fixed = asked.changed({name: value for name, value in fields.items() if name not in grid})
        return cls(step, asked.replaced(fixed), names=names, grid=grid, order=order)

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values of each field."""
        return tuple(len(values) for values in self.grid.values())

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The values of the grid's fields in each of the C cells."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    def __len__(self) -> int:
        return int(np.prod(self.shape))

    def logprobs(self, tokens: Token | Iterable[Token]) -> Float32[np.ndarray, "..."]:
        """The log-probabilities of K tokens in nats, [*shape, K]; -inf where a token cannot be sampled.

        Args:
            tokens: one or several, each by id, exact text or bytes.

        Raises:
            RequestError: there is no such token.
        """
        ids = np.array(token_ids(tokens, self._names), np.int64)
        return self._statistics(ids)[0].reshape(*self.shape, len(ids))

    @property
    def kept(self) -> Int32[np.ndarray, "..."]:
        """How many tokens can be sampled in each cell, [*shape]."""
        return self._counts_and_entropies[0].reshape(self.shape)

    @property
    def entropy(self) -> Float32[np.ndarray, "..."]:
        """The entropy of the distribution that is sampled from, in nats, [*shape]."""
        return self._counts_and_entropies[1].reshape(self.shape)

    def frame(self, *, top: int | None = 20) -> pd.DataFrame:
        """One row per cell and token: the `top` most likely tokens of the raw distribution (None: all V).

        Columns: the grid's fields, token, token_id, bytes, logprob (raw), sampling_logprob (-inf where the token cannot
        be sampled), rank (raw, from 1), kept (whether it can be sampled).

        Raises:
            RequestError: the frame would have more than 5,000,000 rows.
        """
        from llmlab.frames.distribution import next_token_frame

        ids = self._step.ranking[: most(top)]
        if len(self) * len(ids) > MOST_ROWS:
            raise RequestError(
                f"{len(self):,} cells of {len(ids):,} tokens: ask for fewer with top=, or for logprobs(tokens)",
                param="top",
            )
        final = self._statistics(ids)[0].astype(np.float64)
        return next_token_frame(
            self._step, ids, final, names=self._names, cells=self._columns(), cell_kinds=self._kinds()
        )

    def summary_frame(self) -> pd.DataFrame:
        """One row per cell: the grid's fields, kept (how many tokens can be sampled), sampling_entropy (nats)."""
        from llmlab.frames.schema import build

        kept, entropy = self._counts_and_entropies
        columns = {**self._columns(), "kept": kept, "sampling_entropy": entropy}
        return build(columns, self._kinds() | {"kept": "count", "sampling_entropy": "number"})

    def __repr__(self) -> str:
        axes = " x ".join(f"{len(values)} {name}" for name, values in self.grid.items())
        return f"<next-token distributions: {axes}>"

    @cached_property
    def _counts_and_entropies(self) -> tuple[np.ndarray, np.ndarray]:
        _, kept, entropy = self._statistics(np.zeros(1, np.int64))
        return kept, entropy

    def _statistics(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logprobs [C, K] of K tokens, the number of tokens kept [C], entropies [C]."""
        K = len(ids)
        padded = np.zeros(max(FEWEST_IDS, 1 << (K - 1).bit_length()), np.int32)
        padded[:K] = ids
        parts = []
        for cells in blocks(self.cells, V=len(self._step.logits)):
            rows = [self._asked.row(cell) for cell in cells]
            order = placed_rows(self.order, rows)
            found = row_statistics(*self._step.inputs(rows, order=order), padded, order=order)
            parts.append([np.asarray(x)[: len(cells)] for x in found])
        logprobs, kept, entropy = (np.concatenate(x) for x in zip(*parts, strict=True))
        return logprobs[:, :K], kept, entropy

    def _columns(self) -> dict[str, list[object]]:
        """Field -> its value in each cell, as the request has it: a top_k of None or -1 is 0, which is off."""
        requests = [self._asked.changed(cell) for cell in self.cells]
        return {name: [plain(getattr(request, name)) for request in requests] for name in self.grid}

    def _kinds(self) -> dict[str, str]:
        return {name: column_kind(name) for name in self.grid}


def _varied(value: Any) -> bool:
    return isinstance(value, list | tuple | range) or getattr(value, "ndim", 0) > 0
