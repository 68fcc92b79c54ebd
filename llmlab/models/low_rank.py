"""Products that differ from row to row of a batch: adapters of low rank beside the weights that all rows share.

The factors of all adapters lie side by side. A row is multiplied by all of them, and what belongs to other adapters
than its own is set to 0 in between: no weights are gathered, rows of different adapters share a batch, and which
adapter a row has is a traced number. LoRA: Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32

from llmlab.models.int8 import product
from llmlab.models.parameter import parameter


class LowRank(nnx.Module):
    """x @ down @ up, for each row with the part of the factors that its adapter owns; R is the sum of all ranks.

    Args:
        down: of all adapters [I, R], or [V, R] for a table that tokens are looked up in.
        up: of all adapters [R, O], the adapters' factors included.
        owners: the adapter of each of the R places, from 1; a row without an adapter has 0.
        axes: how inputs and outputs are spread over a mesh, as in `parameter`.
    """

    def __init__(
        self,
        down: Float[Array, "I R"],
        up: Float[Array, "R O"],
        *,
        owners: Sequence[int],
        axes: tuple[str | None, str | None],
    ):
        self.down, self.up = parameter(down, axes[0], None), parameter(up, None, axes[1])
        self.owners = tuple(owners)
        self.rows: Any = None

    def __call__(self, x: Float[Array, "B L I"]) -> Float[Array, "B L O"]:
        """What the rows' adapters add to the product with x."""
        return self._raised(product(x, self.down[...]))

    def of_tokens(self, tokens: Int32[Array, "B L"]) -> Float[Array, "B L O"]:
        """What the rows' adapters add to the embedding of tokens."""
        return self._raised(self.down[...][tokens])

    def _raised(self, inner: Float[Array, "B L R"]) -> Float[Array, "B L O"]:
        if self.rows is None:
            raise ValueError("a decoder with adapters needs to know which of them each row has: model.choose(rows)")
        own = self.rows[:, None] == jnp.asarray(self.owners, jnp.int32)[None, :]
        inner = inner * own.astype(inner.dtype)[:, None, :]
        return product(inner, self.up[...])


def choose(model: nnx.Module, rows: Int32[Array, " B"]) -> None:
    """Says which adapter each row of a batch has, from 1, or 0 for none; for the calls of the model that follow."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, LowRank):
            module.rows = nnx.data(rows)
