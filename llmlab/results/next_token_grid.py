"""The law of one step under a whole grid of parameters at once: arithmetic on logits that the model gave once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int32

from llmlab.distributions.figures import _FEWEST, _figures, blocks
from llmlab.distributions.step import Step
from llmlab.errors import RequestError
from llmlab.frames.schema import column_kind, plain
from llmlab.protocol.arguments import most
from llmlab.text.token_names import Token

if TYPE_CHECKING:
    import pandas as pd

#: A frame of more rows than this is a mistake.
_MOST_ROWS = 5_000_000


class Laws:
    """The law of the next token at each cell of a grid; nothing is computed before it is asked for.

    Attributes:
        grid: field -> its values; the cells run through them with the last one fastest.
        order: the order of the sampler's stages.
    """

    def __init__(self, step: Step, *, grid: Mapping[str, Sequence[Any]], order: str) -> None:
        self._step = step
        self.grid = {name: tuple(values) for name, values in grid.items()}
        self.order = order

    @property
    def shape(self) -> tuple[int, ...]:
        """How many values each field has."""
        return tuple(len(values) for values in self.grid.values())

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The settings of each of the C cells."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    def __len__(self) -> int:
        return int(np.prod(self.shape))

    def logprobs(self, ids: Token | Iterable[Token]) -> Float32[np.ndarray, "..."]:
        """The log-probabilities of these tokens, [the grid's shape..., K]; -inf where one cannot be drawn.

        Raises:
            RequestError: there is no such token.
        """
        known = np.array(self._step.token_ids(ids), np.int64)
        return self._figures(known)[0].reshape(*self.shape, len(known))

    @property
    def kept(self) -> Int32[np.ndarray, "..."]:
        """How many tokens each law has, of the grid's shape."""
        return self._summary[1].reshape(self.shape)

    @property
    def entropy(self) -> Float32[np.ndarray, "..."]:
        """Each law's entropy in nats, of the grid's shape."""
        return self._summary[2].reshape(self.shape)

    def frame(self, *, top: int | None = 20) -> pd.DataFrame:
        """The `top` tokens by raw probability (None: all) in each cell, one a row.

        Columns: the grid's fields, token, token_id, bytes, logprob (raw), sampling_logprob (-inf where it cannot be
        drawn), rank (1-based, raw), kept.

        Raises:
            RequestError: there would be more rows than anybody can hold.
        """
        from llmlab.frames.distribution import NEXT_TOKEN_COLUMNS
        from llmlab.frames.schema import build

        ids = self._step.ranking[: most(top)]
        if len(self) * len(ids) > _MOST_ROWS:
            raise RequestError(
                f"{len(self):,} cells of {len(ids):,} tokens: ask for fewer with top=, or for logprobs(ids)",
                param="top",
            )
        final = self._figures(ids)[0].astype(np.float64)
        spelled = self._step.spelled(ids.tolist())
        columns: dict[str, object] = {name: list(values) * len(self) for name, values in spelled.items()}
        columns |= {
            "logprob": np.tile(self._step.logprobs[ids], len(self)),
            "sampling_logprob": final.ravel(),
            "rank": np.tile(np.arange(1, len(ids) + 1), len(self)),
            "kept": np.isfinite(final).ravel(),
        }
        return build(self._columns(each=len(ids)) | columns, self._kinds() | NEXT_TOKEN_COLUMNS)

    def summary(self) -> pd.DataFrame:
        """One row a cell: the grid's fields, kept (how many tokens can be drawn), sampling_entropy (nats)."""
        from llmlab.frames.schema import build

        columns = self._columns(each=1) | {"kept": self._summary[1], "sampling_entropy": self._summary[2]}
        return build(columns, self._kinds() | {"kept": "count", "sampling_entropy": "number"})

    def __repr__(self) -> str:
        axes = " x ".join(f"{len(values)} {name}" for name, values in self.grid.items())
        return f"<laws of the next token: {axes}>"

    @cached_property
    def _summary(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._figures(np.zeros(1, np.int64))

    def _figures(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logprobs [C, K] of K tokens, kept [C] and entropies [C]."""
        K = len(ids)
        padded = np.zeros(max(_FEWEST, 1 << (K - 1).bit_length()), np.int32)
        padded[:K] = ids
        parts = []
        for cells in blocks(self.cells, V=len(self._step.logits)):
            rows = self._step.rows(cells)
            found = _figures(rows.logits, rows.inputs, rows.history, padded, order=self.order)
            parts.append([np.asarray(x)[: len(cells)] for x in found])
        logprobs, kept, entropy = (np.concatenate(x) for x in zip(*parts, strict=True))
        return logprobs[:, :K], kept, entropy

    def _columns(self, *, each: int) -> dict[str, object]:
        # As the request has them: a top_k of None or -1 is 0, off.
        requests = [self._step.changed(cell) for cell in self.cells]
        return {
            name: [value for request in requests for value in [plain(getattr(request, name))] * each]
            for name in self.grid
        }

    def _kinds(self) -> dict[str, str]:
        return {name: column_kind(name) for name in self.grid}
